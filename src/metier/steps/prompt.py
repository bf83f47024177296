"""The step ``prompt``: how the job is put to the model, and its untrained base.

No question of an exam is shown as an example, so the step reads the exams, too, and is done again with other ones.
"""

from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

from metier.artifact import Step, key_of
from metier.data.records import Record, each_record, read_records
from metier.errors import DataError
from metier.model.loading import load_model, load_tokenizer, to_accelerator
from metier.progress import say
from metier.spec.job import Job
from metier.tasks.registry import task_from_json
from metier.tokenizer.chat import turn_of
from metier.train.prompt_choice import Candidate, fitting, measure, typical_examples

_PROBE_ROWS = 64
_SHOTS = (3, 5)
_EXAMS = ("validation", "test", "validation_unknown", "test_unknown")


def exams(data: Step) -> dict[str, str]:
    """Return the hashes of the exams that are read where examples are chosen.

    Args:
        data: the step with the rows.
    """
    return {exam: data.hashes[exam] for exam in _files(data.hashes)}


def decided(tried: dict[str, Any], data: Path) -> dict[str, str]:
    """Return what a choice of prompts was decided by, as part of the step's result; `decided_by` reads it.

    The exams decide by the training rows that they ask alone, for these are not shown.

    Args:
        tried: what the choice depends on beside the exams: model, task, and rows to learn from.
        data: the folder of the rows.
    """
    asked = _asked(data)
    withheld = sorted({row.input for row in each_record(data / "train.jsonl") if row.input in asked})
    return {"decided_by": key_of({**tried, "withheld": withheld} if withheld else tried)}


def decided_by(prompt: Step) -> str:
    """Return a key of all that decided a choice of prompts, for the steps that use it.

    It is not the step's own key: with another exam the choice is made again, and where it cannot come out otherwise,
    nobody is trained or asked again for it.

    Args:
        prompt: a step ``prompt``; of one in which no example was chosen, it is the step's own key.
    """
    return str(prompt.result.get("decided_by", prompt.key))


def choose_prompt(job: Job, data: Path, start: Path) -> dict[str, Any]:
    """Choose the job's prompt format, and the best one for the untrained base, on validation rows.

    Raises:
        DataError: when no row is short enough to be trained on.
    """
    if job.base.from_scratch:
        tokenizer = load_tokenizer(start)
        plain = task_from_json(job.task_settings).prompts(turn_of(tokenizer))
        shortest = min(plain, key=lambda p: len(tokenizer(p.render("")).input_ids))
        return {"prompt": shortest.to_json(), "base_prompt": None, "candidates": []}
    found = try_prompts(job, data, start, job.train.max_tokens)
    best_for_base = min(found, key=lambda candidate: candidate.loss_nats).prompt
    chosen = next(candidate for candidate in found if candidate.longest <= job.train.max_tokens)
    return {
        "prompt": chosen.prompt.to_json(),
        "base_prompt": best_for_base.to_json(),
        "candidates": [candidate.to_json() for candidate in found],
    }


def try_prompts(
    job: Job, data: Path, model_folder: Path, longest: int, *, chat_with_examples: bool = False
) -> list[Candidate]:
    """Return every format with the loss of a model on validation rows, lowest price first.

    The format that the model finds easiest is tried with worked examples in front, too.

    Args:
        job: the job description.
        data: the folder of the rows.
        model_folder: the model and its tokenizer, as a Hugging Face folder.
        longest: the most tokens of a row, in this model's vocabulary.
        chat_with_examples: whether a chat is tried with examples even if it is not the easiest format.

    Raises:
        DataError: when no row is short enough to be trained on.
    """
    tokenizer = load_tokenizer(model_folder)
    plain = task_from_json(job.task_settings).prompts(turn_of(tokenizer))
    probed = read_records(data / "validation.jsonl")[:_PROBE_ROWS]
    rows = fitting(tokenizer, plain, probed, longest)
    if not rows:
        too_long = f"none of the first {len(probed)} validation rows is within {longest} tokens"
        raise DataError("train.max_tokens", too_long, "Write a larger number, or look at the lengths of the rows")
    model = to_accelerator(load_model(model_folder))
    found = measure(model, tokenizer, plain, rows)
    easiest = min(found, key=lambda candidate: candidate.loss_nats).prompt
    chats = [prompt for prompt in plain if prompt.name == "chat" and prompt != easiest and chat_with_examples]
    records, unknown = _to_be_shown(data), job.qa.unknown if job.task == "qa" else None
    examples = [typical_examples(records, number, unknown) for number in _SHOTS]
    shown = [prompt.with_shots(these) for prompt in (easiest, *chats) for these in examples]
    found += measure(model, tokenizer, shown, rows)
    found.sort(key=lambda candidate: candidate.price)
    for candidate in found:
        say(f"  {candidate.loss_nats:.3f} nats a token, {candidate.tokens:6.1f} tokens: {candidate.prompt.name}")
    return found


def _to_be_shown(data: Path) -> Sequence[Record]:
    """Return the training rows whose question is in no exam."""
    asked = _asked(data)
    return [row for row in read_records(data / "train.jsonl") if row.input not in asked]


def _asked(data: Path) -> set[str]:
    """Return the questions of all exams."""
    there = _files([path.name for path in data.glob("*.jsonl")])
    return {row.input for exam in there for row in each_record(data / exam)}


def _files(there: Container[str]) -> list[str]:
    """Return the files of the exams that are there; only a job about facts asks what cannot be known."""
    return [exam for name in _EXAMS if (exam := f"{name}.jsonl") in there]
