"""Bits of knowledge a parameter: how much of a job's facts models of several sizes store, and what 4 bits leave of it.

    python benchmarks/knowledge.py jobs/history [--sizes 32x1,64x1,96x1,128x1] [--experts 8] [--exposures 100]
        [--quantisations F16,Q8_0,Q5_0,Q4_0] [--option source_tags abstain_share=0 variants=1]

A job of task ``qa``: for each size (width x layers) a dense model and its mixture of experts with as many active
weights learn the job's own questions from scratch, each fact seen as often, or as long as ``--budget`` says. Of each,
*exact*: right answers to test questions, in words that training never uses; *in form*: of the answers to them that are
not "I don't know", those that are a date where a date is wanted, and none where none is: what is left of the language
when the fact is lost; *unknown answered*: of questions about withheld and invented subjects, those answered all the
same; all after each quantisation of its GGUF file, by llama.cpp. *Stored*: bits of the facts by
`metier.analysis.stored`, a parameter, with and without the embedding, beside the 2 bits of Allen-Zhu and Li 2024
(arXiv 2404.05405). With ``--option`` the last of the sizes learns again with a key of [qa] changed, one at a time, and
its answers are compared with those of the job as it is.

Vocabulary counts as parameters: it is ``--vocabulary`` pieces here. A learning rate that the job states is for its own
width; it grows with the root of what the width falls by. Written: ``benchmarks/results/knowledge.json`` and
``docs/figures/knowledge.svg``, or both into ``--out``. Runs lie below METIER_HOME in ``runs/knowledge-JOB``: a model
that is finished is not trained again, a killed one goes on; other exposures, vocabularies or types have a folder of
their own. For jobs/history, 100 exposures are about 30 million tokens a model: on one core ten minutes for 64x1 and
fifteen for 128x1, mixtures twice as long; an option as long as its size. On several cores commands with other sizes
may run at the same time, and one with all sizes then reports.
"""

import argparse
import json
import os
import platform
import time
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from metier.steps import threads

threads.set_up()  # as a build does, before torch loads

import torch

from metier.analysis.stored import stored_by
from metier.analysis.svg import COLOURS, GREY, document
from metier.artifact import Step, key_of, run_step, write_atomically, write_json
from metier.data.questions.about import about_path, read_about
from metier.data.questions.prepare import prepare_questions
from metier.data.records import Record, read_records
from metier.errors import SpecError
from metier.evaluate.answers import collect, read_answers
from metier.evaluate.significance import compare
from metier.export.contestants import ShippedFile
from metier.facts.answers import abstains, date_of, right
from metier.home import run_dir
from metier.model.loading import load, load_tokenizer
from metier.progress import say
from metier.run.engine import Engine
from metier.spec.job import Job
from metier.spec.knowledge import BITS_LEARNED, BITS_WELL_LEARNED, Taught
from metier.spec.load import load_job
from metier.steps import start
from metier.steps.data import sources
from metier.steps.ship import WHOLE, gguf_path, write_files
from metier.steps.train import learn_job
from metier.tasks.registry import task_from_json
from metier.train.batches import encode, one_pass

ROOT = Path(__file__).parent.parent
SLOTS = 4


@dataclass(frozen=True)
class Run:
    """One model to be trained."""

    size: str
    """Width x layers."""
    experts: int = 0
    option: str = ""
    """A key of [qa] that is changed, as TOML."""

    @property
    def name(self) -> str:
        """The folder of the run."""
        option = f"-{self.option.replace(' ', '')}" if self.option else ""
        return f"{'moe' if self.experts else 'dense'}-{self.size}{option}"


def main() -> None:
    """Train all models, measure, print, write numbers and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path)
    parser.add_argument("--sizes", type=listed, default=listed("32x1,64x1,96x1,128x1"))
    parser.add_argument("--experts", type=int, default=8, help="of a mixture; 0 for none")
    parser.add_argument("--exposures", type=float, default=100, help="how often each fact is seen")
    parser.add_argument("--budget", help="of each model, as in [train], in place of --exposures")
    parser.add_argument("--vocabulary", type=int, default=1000)
    parser.add_argument("--quantisations", type=listed, default=listed("F16,Q8_0,Q5_0,Q4_0"))
    parser.add_argument("--option", nargs="*", default=[], help="keys of [qa]: source_tags, abstain_share=0, ...")
    parser.add_argument("--out", type=Path, help="folder of the results")
    wanted = parser.parse_args()
    job = load_job(wanted.job)
    if job.task != "qa":
        raise SpecError(str(wanted.job), f"is a job of task {job.task!r}", "Name one of task 'qa'")
    options = [one if "=" in one else f"{one}=true" for one in wanted.option]
    runs = [Run(size, experts) for size in wanted.sizes for experts in dict.fromkeys((0, wanted.experts))]
    runs += [Run(wanted.sizes[-1], option=option) for option in options]
    asked = [wanted.exposures, wanted.budget, wanted.vocabulary, wanted.quantisations]
    folder = run_dir(f"knowledge-{job.name}"[:64]) / key_of(asked)[:8]  # a short trial clears nothing away
    found = {run.name: measured(job, run, wanted, folder) for run in runs}
    effects = {
        run.option: effect(folder, found[Run(run.size).name], found[run.name], wanted.quantisations)
        for run in runs
        if run.option
    }
    report(job, wanted, found, effects)


def listed(text: str) -> list[str]:
    """Return what stands between commas."""
    return [part.strip() for part in text.split(",")]


def job_of(job: Job, run: Run, wanted: argparse.Namespace, budget: str) -> Job:
    """Return the job of one run: the same facts and exams, another model, and nothing but that."""
    given = job.model_dump(exclude_unset=True)
    width, layers = map(int, run.size.split("x"))
    mixture = {"architecture": "moe", "experts": run.experts} if run.experts else {}
    train = {key: value for key, value in given.get("train", {}).items() if key not in _OF_OTHERS}
    if job.train.peak_lr and job.base.from_scratch:
        train["peak_lr"] = job.train.peak_lr * sqrt(job.base.hidden_size / width)
    return Job.model_validate(
        {
            **{key: given[key] for key in ("name", "task", "seed") if key in given},
            "qa": given.get("qa", {}) | tomllib.loads(run.option),
            "data": {key: value for key, value in given["data"].items() if key in ("facts", "split")},
            "base": {"model": "scratch", "vocabulary": wanted.vocabulary, "hidden_size": width, "layers": layers}
            | mixture,
            "train": {**train, "budget": budget},
            "evaluate": {key: value for key, value in given.get("evaluate", {}).items() if key != "against"},
            "export": {"quantisations": wanted.quantisations, "context_tokens": job.export.context_tokens},
            "release": {"must_beat": []},
        }
    )


_OF_OTHERS = ("quantisation", "lora", "freeze_router_after")
"""Keys of [train] that would make runs unlike each other, or mean nothing to some."""


def step(folder: Path, keyed: dict[str, Any], work: Any) -> Step:
    """Do a piece of work once, and again only when what it depends on has changed."""
    return run_step(folder, keyed, work, packages=("torch", "transformers", "tokenizers", "xllamacpp"))


def measured(job: Job, run: Run, wanted: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train a model, write its files, and return what was found of it."""
    say(run.name)
    untrained = job_of(job, run, wanted, "1 steps")
    keyed = sources(untrained)
    data = step(
        folder / f"data-{key_of(keyed)[:8]}",
        keyed,
        lambda at: prepare_questions(untrained.data, untrained.qa, at, seed=untrained.seed),
    )
    place = folder / run.name
    begun = step(
        place / "start",
        {"job": start.inputs(untrained), "rows": data.hashes["train.jsonl"]},
        lambda at: start.start(untrained, data.folder, at),
    )
    prompt = task_from_json(untrained.task_settings).prompts()[0]
    lengths = [
        example.tokens
        for example in encode(
            load_tokenizer(begun.folder),
            prompt,
            read_records(data.folder / "train.jsonl"),
            untrained.train.max_tokens,
        )
    ]
    steps_a_pass = len(one_pass(lengths, untrained.train.batch_tokens))
    taught = Taught.from_result(data.result)
    passes = wanted.exposures / taught.questions_a_fact
    mine = job_of(job, run, wanted, wanted.budget or f"{max(1, round(passes * steps_a_pass))} steps")
    trained = step(
        place / "train",
        {"train": mine.train.learned, "start": begun.key, "losses": mine.losses.model_dump(), "seed": mine.seed},
        lambda at: learn_job(mine, data.folder, begun.folder, prompt, at),
    )
    files = step(
        place / "files",
        {"train": trained.key, "quantisations": wanted.quantisations},
        lambda at: write_files(mine, {WHOLE: trained.folder / "model"}, prompt, "of a measurement", at),
    )
    asked = {"files": files.key, "data": data.key, "evaluate": mine.evaluate.model_dump()}
    knowing = step(place / "stored", asked, lambda at: stored_bits(mine, trained.folder / "model", data, prompt))
    said = step(place / "answers", asked, lambda at: ask(mine, data.folder, files.folder, at))
    shares = answered(mine, data.folder, said.folder)
    parameters, embedding = (knowing.result[key] for key in ("parameters", "embedding"))
    bits = knowing.result["stored"]["bits"]
    return {
        **asdict(run),
        "parameters": parameters,
        "embedding": embedding,
        "facts": taught.facts,
        "facts_bits": round(taught.bits, 1),
        "steps": trained.result["steps"],
        "tokens": trained.result["tokens"],
        "exposures": round(trained.result["tokens"] / sum(lengths) * taught.questions_a_fact, 1),
        "stored_bits": round(bits, 1),
        "bits_a_parameter": round(bits / parameters, 4),
        "bits_a_parameter_without_embedding": round(bits / (parameters - embedding), 4),
        "relations": knowing.result["stored"]["relations"],
        "files": {
            name: {**shares[name], "file_mib": round(files.result["file_mib"][name], 3)}
            for name in wanted.quantisations
        },
        "data": data.folder.name,
    }


def stored_bits(job: Job, folder: Path, data: Step, prompt: Any) -> dict[str, Any]:
    """Return the bits that a trained model has stored, and how many weights it has."""
    model, tokenizer = load(folder)
    found = stored_by(model, tokenizer, prompt, data.folder, data.result["knowledge"], job.qa.unknown)
    return {
        "stored": found.to_json(),
        "parameters": model.num_parameters(),
        "embedding": model.get_parameter("model.embed_tokens.weight").numel(),
    }


def exams_of(job: Job, data: Path) -> dict[str, list[Record]]:
    """Return the rows of both exams."""
    return {exam: read_records(data / f"{exam}.jsonl")[: job.evaluate.test_rows] for exam in ("test", "test_unknown")}


def ask(job: Job, data: Path, files: Path, folder: Path) -> None:
    """Let each file answer both exams."""
    for quantisation in job.export.quantisations:
        with Engine(gguf_path(files, job, quantisation), slots=SLOTS, context_tokens=256) as engine:
            file = ShippedFile(quantisation, engine, job.evaluate.max_answer_tokens)
            for exam, rows in exams_of(job, data).items():
                collect(file, rows, folder / f"{exam}-{quantisation}.jsonl")


def answered(job: Job, data: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Return of each file, in percent: right answers, answers in form, and unknown questions that it answers."""
    exams, found = exams_of(job, data), {}
    for quantisation in job.export.quantisations:
        known, unknown = (read_answers(folder / f"{exam}-{quantisation}.jsonl") for exam in exams)
        hits = [right(answer, row.output) for answer, row in zip(known, exams["test"], strict=True)]
        bold = [not abstains(answer, job.qa.unknown) for answer in unknown]
        formed = [
            (date_of(answer) is None) == (date_of(row.output) is None)
            for answer, row in zip(known, exams["test"], strict=True)
            if not abstains(answer, job.qa.unknown)
        ]
        shares = {"exact": hits, "in_form": formed, "unknown_answered": bold}
        found[quantisation] = {name: round(100 * sum(one) / max(1, len(one)), 2) for name, one in shares.items()}
    return found


def effect(
    folder: Path, plain_run: dict[str, Any], changed_run: dict[str, Any], quantisations: Sequence[str]
) -> dict[str, Any] | None:
    """Return the changed run's exact points minus the other's, paired; None where their exams are not the same."""
    subjects = [one.subject for one in read_about(about_path(folder / plain_run["data"] / "test.jsonl"))]
    found: dict[str, Any] = {}
    for name in quantisations:
        one, other = (
            folder / Run(run["size"], run["experts"], run["option"]).name / "answers" / f"test-{name}.jsonl"
            for run in (changed_run, plain_run)
        )
        rows, other_rows = read_answered(one), read_answered(other)
        if rows != other_rows:
            return None
        answers, references = (read_answers(one), read_answers(other)), [wanted for _, wanted in rows]
        found[name] = asdict(compare("answer", *answers, references, groups=subjects[: len(rows)]))
    return found


def read_answered(path: Path) -> list[tuple[str, str]]:
    """Return the questions of an exam with their answers, by a file of what was said to them."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    return [(row["input"], row["output"]) for row in rows]


def report(job: Job, wanted: argparse.Namespace, found: dict[str, Any], effects: dict[str, Any]) -> None:
    """Print the table and the effects, and write numbers and plot."""
    print(
        f"{'':30}{'parameters':>11}{'seen':>7}{'stored':>13}{'a parameter':>12}{'no embedding':>13}"
        "  exact (in form), by file"
    )
    for name, one in found.items():
        exact = "  ".join(f"{file} {said['exact']:.1f}% ({said['in_form']:.1f})" for file, said in one["files"].items())
        print(
            f"{name:30}{one['parameters']:11,}{one['exposures']:7.0f}{one['stored_bits'] / 1e3:8.1f} kbit"
            f"{one['bits_a_parameter']:12.3f}{one['bits_a_parameter_without_embedding']:13.3f}  {exact}; "
            f"of the unknown {next(iter(one['files'].values()))['unknown_answered']:.1f}% answered"
        )
    for option, by_file in effects.items():
        if by_file is None:
            print(f"{option}: another exam, not compared")
        for file, one in (by_file or {}).items():
            print(f"{option}, {file}: {one['difference']:+.1f} points [{one['low']:+.1f}, {one['high']:+.1f}]")
    results, figures = (wanted.out or ROOT / part for part in ("benchmarks/results", "docs/figures"))
    options = {key: value for key, value in vars(wanted).items() if key not in ("job", "out")}
    write_json(
        results / "knowledge.json",
        {
            "date": time.strftime("%Y-%m-%d"),
            "job": job.name,
            "asked": options,
            "limit_bits_a_parameter": BITS_WELL_LEARNED,
            "runs": found,
            "effects": effects,
            "torch": torch.__version__,
            "cores": os.cpu_count(),
            "machine": platform.platform(),
        },
    )
    write_atomically(figures / "knowledge.svg", plot(found))


def plot(found: dict[str, Any]) -> str:
    """Return bits stored by parameters, and right answers by file, as an SVG."""
    plain_runs = sorted((one for one in found.values() if not one["option"]), key=lambda one: one["parameters"])
    files = sorted(plain_runs[-1]["files"], key=lambda name: -plain_runs[-1]["files"][name]["file_mib"])

    def draw(figure: Any) -> None:
        held, exact = figure.subplots(1, 2)
        smallest, largest = plain_runs[0]["parameters"], plain_runs[-1]["parameters"]
        for bits, style in ((BITS_WELL_LEARNED, "-"), (BITS_LEARNED, ":")):
            ends = [0.8 * smallest, 1.2 * largest]
            held.plot(ends, [bits * end for end in ends], style, color=GREY, label=f"{bits:g} bits a parameter")
        held.axhline(max(one["facts_bits"] for one in plain_runs), color=GREY, linestyle="--")
        for number, kind in enumerate(("dense", "mixture")):
            these = [one for one in plain_runs if bool(one["experts"]) is (kind == "mixture")]
            if these:
                stored = [max(one["stored_bits"], 1.0) for one in these]
                held.plot([one["parameters"] for one in these], stored, "o-", color=COLOURS[number], label=kind)
            for one in these:
                values = [one["files"][name]["exact"] for name in files]
                exact.plot(files, values, "o-" if kind == "dense" else "o--", color=COLOURS[number])
                exact.annotate(
                    one["size"].partition("x")[0], (files[-1], values[-1]), (6, -3), textcoords="offset points"
                )
        held.set(xscale="log", yscale="log", xlabel="parameters", ylabel="bits stored (dashed: all facts)")
        held.legend(loc="lower right")
        exact.set(ylabel="right answers, % (numbers: width)", ylim=(0, 101), xlim=(-0.2, len(files) - 0.6))

    return document(draw, 4)


if __name__ == "__main__":
    main()
