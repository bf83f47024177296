"""The step ``prompt``: how the job is put to the model, and its untrained base."""

from pathlib import Path
from typing import Any

from metier.data.records import read_records
from metier.errors import DataError
from metier.model.loading import load, load_tokenizer
from metier.progress import say
from metier.spec.job import Job
from metier.tasks.registry import task_from_json
from metier.tokenizer.chat import turn_of
from metier.train.prompt_choice import fitting, measure, typical_examples

_PROBE_ROWS = 64
_SHOTS = (3, 5)


def choose_prompt(job: Job, data: Path, start: Path) -> dict[str, Any]:
    """Choose the job's prompt format, and the best one for the untrained base, on validation rows.

    Raises:
        DataError: when no row is short enough to be trained on.
    """
    tokenizer = load_tokenizer(start)
    plain = task_from_json(job.task_settings).prompts(turn_of(tokenizer))
    if job.base.from_scratch:
        shortest = min(plain, key=lambda p: len(tokenizer(p.render("")).input_ids))
        return {"prompt": shortest.to_json(), "base_prompt": None, "candidates": []}
    probed = read_records(data / "validation.jsonl")[:_PROBE_ROWS]
    rows = fitting(tokenizer, plain, probed, job.train.max_tokens)
    if not rows:
        too_long = f"none of the first {len(probed)} validation rows is within {job.train.max_tokens} tokens"
        raise DataError("train.max_tokens", too_long, "Write a larger number, or look at the lengths of the rows")
    model = load(start, tokenizer=False)[0]
    found = measure(model, tokenizer, plain, rows)
    easiest = min(found, key=lambda candidate: candidate.loss_nats).prompt
    records = read_records(data / "train.jsonl")
    shown = [easiest.with_shots(typical_examples(records, number)) for number in _SHOTS]
    found += measure(model, tokenizer, shown, rows)
    found.sort(key=lambda candidate: candidate.price)
    for candidate in found:
        say(f"  {candidate.loss_nats:.3f} nats a token, {candidate.tokens:6.1f} tokens: {candidate.prompt.name}")
    best_for_base = min(found, key=lambda candidate: candidate.loss_nats).prompt
    chosen = next(candidate for candidate in found if candidate.longest <= job.train.max_tokens)
    return {
        "prompt": chosen.prompt.to_json(),
        "base_prompt": best_for_base.to_json(),
        "candidates": [candidate.to_json() for candidate in found],
    }
