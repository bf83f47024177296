"""Speed of training beside trl's SFTTrainer, on a job's own base and rows; the processor alone is used.

    pip install trl
    metier build jobs/ja-en
    python benchmarks/training.py jobs/ja-en [--only step|loss|profile] [--turns 3] [--steps 60]

Of the build the steps data, start and prompt are needed. Three measurements:

*step*: both trainers make the same steps on the same untrimmed base: the same rows in the same batches (as many rows
each, in the order they come), the same rates. Each works in a fresh process, turn by turn. Printed: tokens a second,
padding not counted, median [lowest, highest] over the turns, each the median of its steps but the first; and the peak
resident memory. The losses of the steps are compared first: they must be the same, or the work was not.

*loss*: trl trains the untrimmed base for ``steps`` steps on rows grouped by length. metier trains as a build does, but
not on the grid of `train.quantisation`: the base with its trimmed vocabulary, in batches of `train.batch_tokens`, for
as many steps as it makes in a third of the time that trl's took, by the pace of a dozen; rows a step are the same on
average. Printed: the minutes of steps until metier's validation loss is that of trl's end. The vocabularies differ, so
it is counted in nats a character of the answers, over the same rows. Loading, validations and checkpoints are not
counted, nor the milliseconds that metier takes to make a batch. At the end both models answer the same validation rows,
300 at most, and the job's metric is compared (paired bootstrap). No row by which the vocabulary's size was chosen is
among those of the loss, and none of these among the answered ones.

*profile*: where the time of metier's step goes, on the trimmed model, and how many of the floating-point operations
that this machine's products reach at best it makes a second. Bytes that move without being multiplied are time, too.

Peak learning rate, warm-up, decay and clipping are the job's; weights are float32, and products bfloat16 where the
processor multiplies it, for both.
"""

import argparse
import json
import multiprocessing
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from training_contestants import Questions, metier_steps, metier_training, trl_steps, trl_training
from training_profile import profile_steps

from metier.artifact import load_step, versions
from metier.data.records import Record, read_records
from metier.evaluate.metrics import score
from metier.evaluate.significance import compare
from metier.home import run_dir
from metier.model.bases import find_base
from metier.model.loading import load_tokenizer
from metier.spec.job import Job
from metier.spec.load import load_job
from metier.spec.training import Train
from metier.tasks.prompt import PromptFormat
from metier.tasks.registry import task_from_json
from metier.train.batches import Example, encode, plan_batches

STEPS_A_TURN = 4
"""Of *step*; the first warms up and does not count."""
TIMED_STEPS = 4
"""Of *profile*."""
PACE_STEPS = 12
"""To know how many steps fit a time; the first warms up and does not count."""
SOONER = 3
"""Of *loss*: metier is given the time that trl took, divided by this."""
WATCHED_ROWS = 100
ASKED_ROWS = 300
VALIDATIONS = 12


def main() -> None:
    """Measure, print, and write the numbers to benchmarks/results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path)
    parser.add_argument("--only", choices=("step", "loss", "profile"))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    wanted = parser.parse_args()
    os.environ |= {"GOMP_SPINCOUNT": "2000", "THP_MEM_ALLOC_ENABLE": "1"}  # as a build does; for both
    lesson = Lesson(load_job(wanted.job))
    path = Path(__file__).parent / "results" / f"training-{lesson.job.name}.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    report = {"job": lesson.job.name} | {name: earlier[name] for name in ("step", "loss", "profile") if name in earlier}
    made = {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "machine": platform.platform(),
        "versions": versions("torch", "transformers", "trl", "accelerate"),
    }

    def keep(name: str, found: dict[str, Any]) -> None:
        report[name] = made | found
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    if wanted.only in (None, "step"):
        keep("step", compare_steps(lesson, wanted.turns))
    if wanted.only in (None, "loss"):
        compare_to_loss(lesson, wanted.steps, partial(keep, "loss"))
    if wanted.only in (None, "profile"):
        keep("profile", profiled(lesson))


class Lesson:
    """What is trained on what: the untrimmed base and what the build made of it, and the same rows for both."""

    def __init__(self, job: Job) -> None:
        self.job, run = job, run_dir(job.name)
        for name in ("data", "start", "prompt"):
            load_step(run / name)
        self.base, self.trimmed = find_base(job.base.model).folder, run / "start"
        self.tokenizers = {folder: load_tokenizer(folder) for folder in (self.base, self.trimmed)}
        self.prompt = PromptFormat.from_json(load_step(run / "prompt").result["prompt"])
        self.trimming_seconds = load_step(run / "start").manifest["seconds"]
        self.train = read_records(run / "data" / "train.jsonl")
        validation = read_records(run / "data" / "validation.jsonl")
        end = 2 * WATCHED_ROWS  # by the first ones a vocabulary's size is measured
        self.held_out, self.asked = validation[WATCHED_ROWS:end], validation[end : end + ASKED_ROWS]
        random.Random(job.seed).shuffle(self.train)
        self.settings = Train(**job.train.model_dump(exclude={"quantisation", "lora"}, exclude_unset=True))
        self.peak_lr = self.settings.peak(from_scratch=job.base.from_scratch)

    def examples(self, folder: Path, records: list[Record]) -> Sequence[Example]:
        """Return rows as a model's tokens."""
        return encode(self.tokenizers[folder], self.prompt, records, self.settings.max_tokens)

    def steps(self, number: int, **changes: Any) -> Train:
        """Return the job's settings for a number of steps."""
        return self.settings.model_copy(update={"budget": f"{number} steps", **changes})

    def rows_a_step(self, examples: Sequence[Example]) -> int:
        """Return how many rows a step of metier has on average."""
        batches = plan_batches([example.tokens for example in examples], self.settings.batch_tokens, self.job.seed)
        return round(statistics.mean(len(batch) for batch in islice(batches, 200)))


def compare_steps(lesson: Lesson, turns: int) -> dict[str, Any]:
    """Let both make the same steps, turn by turn."""
    examples = lesson.examples(lesson.base, lesson.train[:4000])
    rows = lesson.rows_a_step(examples)
    batches = [examples[i * rows : (i + 1) * rows] for i in range(STEPS_A_TURN)]
    settings = lesson.steps(len(batches))
    found: dict[str, list[dict[str, Any]]] = {"trl": [], "metier": []}
    for _ in range(turns):
        for name, work in (("trl", trl_steps), ("metier", metier_steps)):
            found[name].append(fresh(work, lesson.base, batches, settings, lesson.peak_lr))
    apart = max(abs(a - b) for a, b in zip(found["trl"][0]["losses"], found["metier"][0]["losses"], strict=True))
    print(f"step: {rows} rows a step; the losses of the {len(batches)} steps differ by {apart:.4f} nats at most")
    tokens = [sum(example.tokens for example in batch) for batch in batches]
    result: dict[str, Any] = {"rows_a_step": rows, "losses_apart_nats": apart, "runs": found}
    for name, runs in found.items():
        speeds = [statistics.median(n / s for n, s in zip(tokens[1:], run["seconds"][1:], strict=True)) for run in runs]
        memory = [run["peak_mib"] for run in runs]
        result[name] = {"tokens_per_s": spread(speeds), "peak_mib": spread(memory)}
        print(f"  {name:6} {shown(speeds)} tokens/s, {shown(memory)} MiB")
    return result


def compare_to_loss(lesson: Lesson, steps: int, keep: Callable[[dict[str, Any]], None]) -> None:
    """Let trl train, then see when metier's loss is as low; keep what is found as soon as it is."""
    examples = lesson.examples(lesson.trimmed, lesson.train)
    rows = lesson.rows_a_step(examples)
    learned = lesson.examples(lesson.base, lesson.train[: 2 * steps * rows])[: steps * rows]
    both = (lesson.base, lesson.trimmed)
    held_out = [record for record in lesson.held_out if all(lesson.examples(folder, [record]) for folder in both)]
    theirs, ours = (lesson.examples(folder, held_out) for folder in both)
    asked = Questions([row.input for row in lesson.asked], lesson.prompt, lesson.job.evaluate.max_answer_tokens)
    trl = fresh(trl_training, lesson.base, learned, theirs, asked, lesson.steps(steps), lesson.peak_lr, rows)
    keep({"rows_a_step": rows, "trl": trl})
    in_time = round(trl["seconds"] / SOONER / seconds_a_step(lesson, examples))
    settings = lesson.steps(in_time, validations=VALIDATIONS, precision="auto")
    metier = fresh(metier_training, lesson.trimmed, examples, ours, asked, settings, lesson.peak_lr, lesson.job.seed)

    characters = sum(len(record.output) for record in held_out)
    nats = {"trl": answer_tokens(theirs) / characters, "metier": answer_tokens(ours) / characters}
    first, target = (trl["loss_nats"][when] * nats["trl"] for when in ("before", "after"))
    curve = [point | {"nats_a_character": point["loss_nats"] * nats["metier"]} for point in metier["curve"]]
    reached = next((point for point in curve if point["nats_a_character"] <= target), None)
    print(f"loss: {len(held_out)} held-out rows, nats a character of the answers")
    print(f"  trl    {first:.4f} -> {target:.4f} in {in_minutes(trl)}, {rows} rows each, {trl['peak_mib']:.0f} MiB")
    start, end = (point["nats_a_character"] for point in (curve[0], curve[-1]))
    share = curve[-1]["seconds"] / trl["seconds"]
    print(
        f"  metier {start:.4f} -> {end:.4f} in {in_minutes(curve[-1])}, {metier['peak_mib']:.0f} MiB, {share:.0%} of it"
    )
    print(f"  metier is at {target:.4f} after {in_minutes(reached) if reached else 'none of its steps'}")
    print(f"  (trimming the vocabulary took {lesson.trimming_seconds / 60:.2f} minutes, once)")
    trained = {"trl": trl, "metier": metier | {"curve": curve}}
    found = {"rows_a_step": rows, "target": target, "reached": reached, "share_of_trl": share}
    answers = {name: one["answers"] for name, one in trained.items()}
    keep(found | trained)
    short = {name: {key: value for key, value in one.items() if key != "answers"} for name, one in trained.items()}
    keep(found | {"ends": compare_answers(lesson, answers)} | short)


def compare_answers(lesson: Lesson, answers: dict[str, list[str]]) -> dict[str, Any]:
    """Compare what the two trained models answer to the same rows."""
    metric, references = task_from_json(lesson.job.task_settings).primary_metric, [row.output for row in lesson.asked]
    scores = {name: score(metric, said, references) for name, said in answers.items()}
    ahead = compare(metric, answers["metier"], answers["trl"], references, seed=lesson.job.seed)
    for name, one in scores.items():
        print(f"  {name:6} answers {one.n} rows: {metric} {one.value:.1f} [{one.low:.1f}, {one.high:.1f}]")
    print(f"  metier {ahead.difference:+.1f} [{ahead.low:+.1f}, {ahead.high:+.1f}], p = {ahead.p:.3f}")
    return {"scores": {name: asdict(one) for name, one in scores.items()}, "metier_ahead": asdict(ahead)}


def seconds_a_step(lesson: Lesson, examples: Sequence[Example]) -> float:
    """Return how long a step of metier takes on average: by padded tokens, for a few batches are longer or shorter."""
    coming = planned(lesson, examples, 200)
    padded = [len(batch) * max(row.tokens for row in batch) for batch in coming]
    timed = coming[:PACE_STEPS]
    seconds = fresh(metier_steps, lesson.trimmed, timed, lesson.steps(len(timed)), lesson.peak_lr)["seconds"]
    pace: float = statistics.median(s / n for s, n in zip(seconds[1:], padded[1:], strict=False))
    return pace * statistics.mean(padded)


def planned(lesson: Lesson, examples: Sequence[Example], most: int = TIMED_STEPS) -> list[list[Example]]:
    """Return the first batches that metier makes of some rows."""
    batches = plan_batches([row.tokens for row in examples], lesson.settings.batch_tokens, lesson.job.seed)
    return [[examples[i] for i in numbers] for numbers in islice(batches, most)]


def answer_tokens(examples: Sequence[Example]) -> int:
    """Return how many tokens are predicted."""
    return sum(len(example.answer) for example in examples)


def in_minutes(training: dict[str, Any]) -> str:
    """Return time and steps of a training as text."""
    return f"{training['seconds'] / 60:.2f} minutes, {training['steps']} steps"


def profiled(lesson: Lesson) -> dict[str, Any]:
    """Profile metier's step on the trimmed model."""
    batches = planned(lesson, lesson.examples(lesson.trimmed, lesson.train[:4000]))
    found: dict[str, Any] = fresh(profile_steps, lesson.trimmed, batches, lesson.settings, lesson.peak_lr)
    reached = found["gflop_a_step"] / found["mean_step_seconds"]
    print(f"profile: {found['step_seconds']:.2f} s a step, {found['gflop_a_step']:.0f} GFLOP: {reached:.0f} GFLOP/s")
    for kind, peak in found["peak_gflop_per_s"].items():
        used = " (used)" if kind == found["products_in"] else ""
        print(f"  {reached / peak:.0%} of the {peak:.0f} GFLOP/s of large products in {kind}{used}")
    for name, share in found["shares"].items():
        print(f"  {share:6.1%} {name}", flush=True)
    return found | {"gflop_per_s": reached}


def fresh(work: Callable[..., Any], *arguments: Any) -> Any:
    """Do a piece of work in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def spread(values: list[float]) -> dict[str, float]:
    """Return median, lowest and highest."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def shown(values: list[float]) -> str:
    """Return median and spread as text."""
    return f"{statistics.median(values):.0f} [{min(values):.0f}, {max(values):.0f}]"


if __name__ == "__main__":
    main()
