"""What each ingredient of a translation job buys: the job as it is, and again with one thing changed at a time.

    python benchmarks/ingredients.py jobs/ja-en-long [--budget 10m] [--on SOURCE,REFERENCE] [--rows 500]
        [--change data.train=1 train.joined_share=0 vocabulary.pieces=24000 train.budget='"20m"' ...]

Every variant learns for the same time from the same base, is written as a file of the job's last quantisation, and is
answered by llama.cpp: the job's own test, and the rows that ``--on`` names, two files of lines. A change is a key of
the job description with its value as TOML; ``data.train=1`` keeps the first source alone, and ``train.quantisation=""``
takes the key out. Printed: chrF2 of each, and what the job as it is has more, with its 95% interval (paired bootstrap
on the same rows); and how many of the rows a variant's training rows give away, by the job's own rule. Written:
``benchmarks/results/ingredients-JOB.json``, or into ``--out``.

A budget of steps ("80 steps") is the same on a busy machine. Every variant sits the exams of the job as it is.

Runs lie below METIER_HOME in ``runs/ingredients-JOB``: a variant that is finished is not trained again, a killed one
goes on. One training each, with one seed, so that differences of a point are not to be told from chance by the
interval alone: it is that of the rows. Two idle cores take a variant through in its budget and about five minutes.
"""

import argparse
import os
import platform
import time
import tomllib
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from metier.artifact import Step, key_of, run_step, versions, write_json
from metier.data.leaks import count_leaks
from metier.data.records import Record, read_records
from metier.data.sources import read_source
from metier.errors import SpecError
from metier.evaluate.answers import collect, read_answers
from metier.evaluate.metrics import score
from metier.evaluate.significance import compare
from metier.export.contestants import ShippedFile
from metier.home import run_dir
from metier.progress import say
from metier.run.engine import Engine
from metier.spec.data import Source
from metier.spec.job import Job
from metier.spec.load import load_job
from metier.steps import threads
from metier.steps.answering import SLOTS
from metier.steps.data import learned_rows, prepare_data, sources
from metier.tasks.prompt import PromptFormat
from metier.tasks.registry import task_from_json

ROOT = Path(__file__).parent.parent
CHANGES = ("data.train=1", "train.joined_share=0", "vocabulary.pieces=24000", 'train.quantisation=""')
AS_IT_IS = "as it is"


def main() -> None:
    """Train and ask all variants, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path)
    parser.add_argument("--budget", default="10m", help="of each training, as in [train]")
    parser.add_argument("--change", nargs="*", default=CHANGES, metavar="KEY=VALUE")
    parser.add_argument("--on", help="rows of another kind: two files of lines, SOURCE,REFERENCE")
    parser.add_argument("--rows", type=int, default=500, help="at most, of each test")
    parser.add_argument("--out", type=Path, help="folder of the results")
    wanted = parser.parse_args()
    threads.set_up()  # as a build does, before torch loads
    job = load_job(wanted.job)
    if job.task != "translation" or job.pretrain:
        raise SpecError(str(wanted.job), "is no job of task 'translation', or pretrains", "Name another job")
    if any(change.startswith(("data.split", "data.test")) for change in wanted.change):
        raise SpecError("--change", "would change what the exams are", "Change something else")
    variants = {change: changed(job, change, wanted.budget) for change in (AS_IT_IS, *wanted.change)}
    folder = run_dir(f"ingredients-{job.name}"[:64])
    exams = {"own": read_records(data_of(job, folder).folder / "test.jsonl")[: wanted.rows]}
    if wanted.on:
        exams["on"] = rows_of(wanted.on)[: wanted.rows]
    found = {}
    for change, mine in variants.items():
        say(change)
        found[change] = asked(mine, folder / key_of([change, wanted.budget])[:8], exams, folder)
    report(job, wanted, exams, found)


def rows_of(paths: str) -> list[Record]:
    """Return the rows of two files of lines."""
    whole = ",".join(str(Path(part).expanduser().resolve()) for part in paths.split(","))
    pairs = read_source(Source(source=f"file:{whole}", licence="unknown")).table.pairs
    return [Record(one.strip(), other.strip()) for one, other in islice(pairs, None)]


def changed(job: Job, change: str, budget: str) -> Job:
    """Return the job with one key changed; nothing but its first sources for ``data.train``."""
    given = job.model_dump(exclude_unset=True)
    given["train"] = given.get("train", {}) | {"budget": budget}
    given["export"] = given.get("export", {}) | {"quantisations": job.export.quantisations[-1:]}
    if change != AS_IT_IS:
        key, _, text = change.partition("=")
        *tables, last = key.split(".")
        value = tomllib.loads(f"value = {text}")["value"]
        at: Any = given
        for table in tables:
            at = at.setdefault(table, {})
        if key == "data.train":
            at[last] = at[last][:value]
        elif value == "":
            at.pop(last, None)
        else:
            at[last] = value
    return Job.model_validate(given)


def step(folder: Path, keyed: dict[str, Any], work: Any) -> Step:
    """Do a piece of work once, and again only when what it depends on has changed."""
    return run_step(folder, keyed, work, packages=("torch", "transformers", "tokenizers", "xllamacpp"))


def data_of(job: Job, folder: Path) -> Step:
    """Return the rows of a job; variants with the same sources share them."""
    keyed = sources(job)
    return step(folder / f"data-{key_of(keyed)[:8]}", keyed, lambda at: prepare_data(job, at))


def asked(mine: Job, place: Path, exams: dict[str, list[Record]], folder: Path) -> dict[str, Any]:
    """Train a variant, ask its file, and return where the answers are, with the training's facts."""
    from metier.steps import start
    from metier.steps.prompt import choose_prompt
    from metier.steps.ship import WHOLE, gguf_path, write_files
    from metier.steps.train import learn_job, learned

    data = data_of(mine, folder)
    begun = step(
        place / "start",
        {"job": start.inputs(mine), "rows": learned_rows(data)},
        lambda at: start.start(mine, data.folder, at),
    )
    prompts = step(
        place / "prompt",
        {"task": mine.task_settings, "max_tokens": mine.train.max_tokens, "start": begun.key},
        lambda _: choose_prompt(mine, data.folder, begun.folder),
    )
    prompt = PromptFormat.from_json(prompts.result["prompt"])
    trained = step(
        place / "train",
        {
            "train": learned(mine, mine.train, begun.folder),
            "losses": mine.losses.model_dump(),
            "seed": mine.seed,
            "start": begun.key,
            "prompt": prompts.key,
        },
        lambda at: learn_job(mine, data.folder, begun.folder, prompt, at),
    )
    [quantisation] = mine.export.quantisations
    files = step(
        place / "files",
        {"train": trained.key, "quantisation": quantisation},
        lambda at: write_files(mine, {WHOLE: trained.folder / "model"}, prompt, "of a measurement", at),
    )
    path = gguf_path(files.folder, mine, quantisation)
    answers = step(
        place / "answers",
        {"files": files.key, "exams": exams, "max_answer_tokens": mine.evaluate.max_answer_tokens},
        lambda at: answered(path, exams, mine.evaluate.max_answer_tokens, at),
    )
    rules = mine.data.split
    leaks = {
        name: count_leaks(rows, data.folder / "train.jsonl", rules.leak_similarity, rules.leak_sides)
        for name, rows in exams.items()
    }
    facts = {key: trained.result[key] for key in ("steps", "tokens")} | {"seconds": trained.manifest["seconds"]}
    return {"answers": answers.folder, "file_mib": path.stat().st_size / 2**20, "leaks": leaks, **facts}


def answered(path: Path, exams: dict[str, list[Record]], limit: int, folder: Path) -> dict[str, int]:
    """Ask a file all exams; return how many rows each has."""
    with Engine(path, slots=SLOTS) as engine:
        for name, rows in exams.items():
            collect(ShippedFile(path.stem, engine, limit), rows, folder / f"{name}.jsonl")
    return {name: len(rows) for name, rows in exams.items()}


def report(job: Job, wanted: argparse.Namespace, exams: dict[str, list[Record]], found: dict[str, Any]) -> None:
    """Print scores and differences, and write them."""
    task = task_from_json(job.task_settings)
    results: dict[str, Any] = {}
    for change, one in found.items():
        facts = {key: value for key, value in one.items() if key != "answers"}
        results[change] = facts | {"scores": {}, "bought": {}}
        print(f"{change} ({one['steps']} steps, {one['tokens']:,} tokens, {one['file_mib']:.1f} MiB)")
        for name, rows in exams.items():
            references = [row.output for row in rows]
            said, whole = (read_answers(at["answers"] / f"{name}.jsonl") for at in (one, found[AS_IT_IS]))
            scored = score(task.primary_metric, said, references)
            results[change]["scores"][name] = asdict(scored)
            text = f"  {name}, n = {scored.n}: {scored.value:.1f} [{scored.low:.1f}, {scored.high:.1f}]"
            text += f", {one['leaks'][name]} leaks"
            if change != AS_IT_IS:
                bought = compare(task.primary_metric, whole, said, references, seed=job.seed)
                results[change]["bought"][name] = asdict(bought)
                text += (
                    f"; {AS_IT_IS} {bought.difference:+.2f} [{bought.low:+.2f}, {bought.high:+.2f}], p = {bought.p:.3f}"
                )
            print(text)
    write_json(
        (wanted.out or ROOT / "benchmarks" / "results") / f"ingredients-{job.name}.json",
        {
            "date": time.strftime("%Y-%m-%d"),
            "job": job.name,
            "budget": wanted.budget,
            "on": wanted.on and ",".join(Path(part).name for part in wanted.on.split(",")),
            "variants": results,
            "versions": versions("torch", "transformers", "xllamacpp", "sacrebleu"),
            "cores": os.cpu_count(),
            "machine": platform.platform(),
        },
    )


if __name__ == "__main__":
    main()
