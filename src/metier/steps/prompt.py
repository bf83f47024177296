"""The step ``prompt``: how the job is put to the model, and its untrained base."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metier.data.records import Record, each_record, read_records
from metier.errors import DataError
from metier.model.loading import load, load_tokenizer
from metier.progress import say
from metier.spec.job import Job
from metier.tasks.registry import task_from_json
from metier.tokenizer.chat import turn_of
from metier.train.prompt_choice import Candidate, fitting, measure, typical_examples

_PROBE_ROWS = 64
_SHOTS = (3, 5)
_EXAMS = ("validation", "test", "validation_unknown", "test_unknown")


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
    found = try_prompts(job, data, start)
    best_for_base = min(found, key=lambda candidate: candidate.loss_nats).prompt
    chosen = next(candidate for candidate in found if candidate.longest <= job.train.max_tokens)
    return {
        "prompt": chosen.prompt.to_json(),
        "base_prompt": best_for_base.to_json(),
        "candidates": [candidate.to_json() for candidate in found],
    }


def try_prompts(job: Job, data: Path, model_folder: Path, *, chat_with_examples: bool = False) -> list[Candidate]:
    """Return every format with the loss of a model on validation rows, lowest price first.

    The format that the model finds easiest is tried with worked examples in front, too.

    Args:
        job: the job description.
        data: the folder of the rows.
        model_folder: the model and its tokenizer, as a Hugging Face folder.
        chat_with_examples: whether a chat is tried with examples even if it is not the easiest format.

    Raises:
        DataError: when no row is short enough to be trained on.
    """
    tokenizer = load_tokenizer(model_folder)
    plain = task_from_json(job.task_settings).prompts(turn_of(tokenizer))
    probed = read_records(data / "validation.jsonl")[:_PROBE_ROWS]
    rows = fitting(tokenizer, plain, probed, job.train.max_tokens)
    if not rows:
        too_long = f"none of the first {len(probed)} validation rows is within {job.train.max_tokens} tokens"
        raise DataError("train.max_tokens", too_long, "Write a larger number, or look at the lengths of the rows")
    model = load(model_folder, tokenizer=False)[0]
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
    exams = (data / f"{name}.jsonl" for name in _EXAMS)
    asked = {row.input for exam in exams if exam.exists() for row in each_record(exam)}
    return [row for row in read_records(data / "train.jsonl") if row.input not in asked]
