"""The step ``exam``: the chosen file and its base, head to head on the test set, and the verdict.

Where no file was asked for, the checkpoint takes its place; it is not released.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metier.data.records import Record, read_records
from metier.evaluate.answers import collect
from metier.evaluate.metrics import score
from metier.evaluate.significance import Comparison, compare
from metier.evaluate.sweep import Candidate
from metier.evaluate.verdict import Contestant, Licences, Limit, Parity, decide
from metier.export.contestants import PromptedFile, ShippedFile, tokens_per_s
from metier.model.answer import Checkpoint
from metier.model.bases import find_base
from metier.model.loading import load
from metier.run.engine import Engine
from metier.spec.job import Job
from metier.steps.answering import SLOTS
from metier.steps.answering_memory import memory_mib
from metier.steps.ship import gguf_path
from metier.tasks.prompt import PromptFormat
from metier.tasks.registry import Task, task_from_json

_TIMED_ROWS = 8


@dataclass(frozen=True)
class HeadToHead:
    """The shipped file's (or, without one, the checkpoint's) scores, first, and the base's; how they differ."""

    contestants: tuple[Contestant, ...]
    comparison: Comparison | None
    """Shipped file minus base; None for a model from scratch."""


def examine(
    job: Job,
    data: Path,
    files: Path,
    model_folder: Path,
    parity: dict[str, Any],
    prompts: dict[str, Any],
    shipping: dict[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """Put the chosen file and its base through the test set, once, and decide."""
    rows = read_records(data / "test.jsonl")[: job.evaluate.test_rows]
    chosen = gguf_path(files, job, parity["chosen"]) if parity["chosen"] else None
    met = head_to_head(job, chosen or model_folder, prompts, rows, folder)
    verdict = decide(
        must_beat=job.release.must_beat,
        comparisons={"base": met.comparison} if met.comparison else {},
        file_mib=Limit(chosen.stat().st_size / 2**20 if chosen else None, job.limits.file_mib),
        ram_mib=Limit(memory_mib(chosen, rows[0].input) if chosen else None, job.limits.ram_mib),
        parity=_parity(job, parity),
        licences=Licences(shipping["allowed"], "; ".join(shipping["terms"]), tuple(shipping["reasons"])),
        scores=met.contestants,
    )
    return verdict.to_json()


def _parity(job: Job, parity: dict[str, Any]) -> Parity:
    if not parity["chosen"]:
        return Parity(False, "a file that answers like the checkpoint", {}, "no file: export.quantisations is empty")
    exam = Candidate.from_json(parity["candidates"][parity["chosen"]])
    found = exam.comparison
    assert found is not None, "a failed file is never chosen"
    return Parity(
        exam.passed,
        f"{found.metric} to the checkpoint above -{job.release.parity_margin:g} (95% bound), and the same "
        "token at 99.5% of decided positions (F16)",
        {"low": found.low, "difference": found.difference, "agreement": parity["walks"][exam.cut]["agreement"]},
    )


def head_to_head(job: Job, ours: Path, prompts: dict[str, Any], rows: Sequence[Record], folder: Path) -> HeadToHead:
    """Ask the job's model and its base the same rows; answers are kept in the folder.

    Args:
        job: the job description.
        ours: the shipped file, or the checkpoint's folder where there is none.
        prompts: the result of the step ``prompt``.
        rows: questions and references.
        folder: where the answers are kept, so that a killed exam goes on.
    """
    task = task_from_json(job.task_settings)
    limit = job.evaluate.max_answer_tokens
    prompt = PromptFormat.from_json(prompts["prompt"])
    timed = [prompt.render(row.input) for row in rows[:_TIMED_ROWS]]
    if ours.is_dir():
        answers = collect(Checkpoint(job.name, *load(ours), prompt, limit), rows, folder / "shipped.jsonl")
        contestants = [_graded(task, "checkpoint", answers, rows, None, None)]
    else:
        with Engine(ours, slots=SLOTS) as engine:
            answers = collect(ShippedFile(job.name, engine, limit), rows, folder / "shipped.jsonl")
            contestants = [_graded(task, ours.stem, answers, rows, ours, tokens_per_s(engine, timed))]
    if job.base.from_scratch:
        return HeadToHead(tuple(contestants), None)
    base = find_base(job.base.model, job.base.licence)
    shown = PromptFormat.from_json(prompts["base_prompt"])
    if base.gguf:
        with Engine(base.gguf, slots=SLOTS) as engine:
            theirs = collect(PromptedFile("base", engine, shown, limit), rows, folder / "base.jsonl")
            contestants.append(_graded(task, "base", theirs, rows, base.gguf, tokens_per_s(engine, timed)))
    else:
        checkpoint = Checkpoint("base", *load(base.folder), shown, limit, stop="\n")
        theirs = collect(checkpoint, rows, folder / "base.jsonl")
        contestants.append(_graded(task, "base", theirs, rows, None, None))
    comparison = compare(task.primary_metric, answers, theirs, [row.output for row in rows], seed=job.seed)
    return HeadToHead(tuple(contestants), comparison)


def _graded(
    task: Task, name: str, answers: Sequence[str], rows: Sequence[Record], path: Path | None, speed: float | None
) -> Contestant:
    references = [row.output for row in rows]
    language = task.output_language or ""
    scores = tuple(score(metric, answers, references, language=language) for metric in task.metrics)
    return Contestant(name, scores, path.stat().st_size / 2**20 if path else None, speed)
