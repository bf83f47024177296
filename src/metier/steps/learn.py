"""The steps ``prompt`` and ``train``: how the job is put to the model, and what it learns from it."""

import shutil
from pathlib import Path
from typing import Any

import torch

from metier.data.records import read_records
from metier.errors import RunError
from metier.export.huggingface import write_folder
from metier.model.loading import load
from metier.progress import say
from metier.spec.job import Job
from metier.tasks.prompt import PromptFormat
from metier.tasks.registry import task_from_json
from metier.tokenizer.chat import turn_of
from metier.train import processes
from metier.train.batches import encode
from metier.train.loop import train
from metier.train.prompt_choice import measure, typical_examples

_PROBE_ROWS = 64
WATCHED_ROWS = 100
_SHOTS = (3, 5)
COPIES = 10
"""What a training of all weights writes, in sizes of the model: checkpoints with moments, the best and the result."""


def choose_prompt(job: Job, data: Path, start: Path) -> dict[str, Any]:
    """Choose the job's prompt format, and the best one for the untrained base, on validation rows."""
    model, tokenizer = load(start)
    plain = task_from_json(job.task_settings).prompts(turn_of(tokenizer))
    if job.base.from_scratch:
        shortest = min(plain, key=lambda p: len(tokenizer(p.render("")).input_ids))
        return {"prompt": shortest.to_json(), "base_prompt": None, "candidates": []}
    validation = read_records(data / "validation.jsonl")[:_PROBE_ROWS]
    found = measure(model, tokenizer, plain, validation, job.train.max_tokens)
    easiest = min(found, key=lambda candidate: candidate.loss_nats).prompt
    records = read_records(data / "train.jsonl")
    shown = [easiest.with_shots(typical_examples(records, number)) for number in _SHOTS]
    found += measure(model, tokenizer, shown, validation, 10**9)
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


def learn_job(job: Job, data: Path, start: Path, prompt: PromptFormat, folder: Path) -> dict[str, Any]:
    """Train the model; leave it as a Hugging Face folder ``model`` and return the training's facts."""
    torch.manual_seed(job.seed)
    small = job.train.lora is not None and "embedding" not in job.train.lora.also
    check_disk(folder, start, copies=2 if small else COPIES)
    tokenizer = load(start).tokenizer
    examples = encode(tokenizer, prompt, read_records(data / "train.jsonl"), job.train.max_tokens)
    validation = read_records(data / "validation.jsonl")[:WATCHED_ROWS]
    peak_lr = job.train.peak(from_scratch=job.base.from_scratch)
    model, facts = train(
        lambda: load(start).model,
        examples,
        encode(tokenizer, prompt, validation, job.train.max_tokens),
        job.train,
        peak_lr,
        folder,
        seed=job.seed,
        losses=job.losses,
    )
    if processes.first():
        write_folder(folder / "model", model, tokenizer, prompt)
        clear(folder)
    lora = job.train.lora.model_dump() if job.train.lora else None
    return facts | {"peak_lr": peak_lr, "examples": len(examples), "lora": lora}


def clear(folder: Path) -> None:
    """Remove what only an unfinished training needs."""
    for left_over in (*folder.glob("step-????????"), *folder.glob("*.part")):
        shutil.rmtree(left_over)
    (folder / "best.safetensors").unlink(missing_ok=True)


def check_disk(folder: Path, start: Path, *, copies: int) -> None:
    """Refuse to begin what would fill the disk.

    Args:
        folder: where the training is to work.
        start: the folder of the untrained model.
        copies: how many times its size will be written.
    """
    needed = copies * sum(file.stat().st_size for file in start.glob("*.safetensors"))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunError(
            str(folder),
            f"{free / 2**20:.0f} MiB free, training needs about {needed / 2**20:.0f} MiB for its checkpoints",
            "Free some space, or set METIER_HOME to a folder on a larger disk",
        )
