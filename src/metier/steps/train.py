"""The step ``train``: what the model learns from the job's rows."""

import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedTokenizerFast

from metier.data.records import Record, each_record, read_records
from metier.errors import DataError
from metier.export.huggingface import write_folder
from metier.model.loading import load_model, load_tokenizer, padding
from metier.progress import say
from metier.spec.job import Job
from metier.spec.training import Training
from metier.steps.training_folder import Write, check_disk, train_once
from metier.tasks.prompt import PromptFormat
from metier.tasks.registry import task_from_json
from metier.tasks.translation import Translation
from metier.tokenizer.read import special_names
from metier.train.batches import Examples, encode
from metier.train.joining import joined
from metier.train.loop import train
from metier.train.router import gives_room_by_tokens

WATCHED_ROWS = 100


def learn_job(job: Job, data: Path, start: Path, prompt: PromptFormat, folder: Path) -> dict[str, Any]:
    """Train the model; leave it as a Hugging Face folder ``model`` and return the training's facts.

    Raises:
        DataError: when no row is short enough to be learned.
    """
    return train_once(folder, partial(_learn, job, data, start, prompt, folder))


def learned(job: Job, settings: Training, start: Path) -> dict[str, Any]:
    """Return what a training's result depends on; a rate that is stated is the same as one by default.

    Args:
        job: the job.
        settings: the training's.
        start: folder of the model that it starts from, which may count the room of experts by what is computed at once.
    """
    found = settings.learned | {"peak_lr": settings.peak(from_scratch=job.base.from_scratch)}
    if settings.micro_batch_tokens is not None:
        config = AutoConfig.from_pretrained(start, trust_remote_code=False, local_files_only=True)
        if gives_room_by_tokens(config, settings):
            found["micro_batch_tokens"] = settings.micro_batch_tokens
    return found


class TextRows:
    """The training rows that are text to a tokenizer: not those in which it finds the name of a special piece.

    In a row about HTML with ``<s>`` in it, for example, the piece would be read in the name's place, and an answer with
    the piece that ends texts would teach to end early.

    Attributes:
        left_out: how many rows were left out when they were last read.
    """

    def __init__(self, data: Path, tokenizer: PreTrainedTokenizerFast) -> None:
        self.left_out = 0
        self._file = data / "train.jsonl"
        self._special = re.compile("|".join(map(re.escape, special_names(tokenizer))) or "(?!)")

    def __iter__(self) -> Iterator[Record]:
        self.left_out = 0
        for row in each_record(self._file):
            if self._special.search(row.input) or self._special.search(row.output):
                self.left_out += 1
            else:
                yield row


def rows_to_learn(job: Job, rows: Iterable[Record]) -> Iterable[Record]:
    """Return the training rows, some of them joined if the job says so."""
    task = task_from_json(job.task_settings)
    if not (job.train.joined_share and isinstance(task, Translation)):
        return rows
    return joined(rows, job.train.joined_share, job.train.max_tokens, task, job.seed)


def _learn(job: Job, data: Path, start: Path, prompt: PromptFormat, folder: Path) -> tuple[dict[str, Any], Write]:
    torch.manual_seed(job.seed)
    check_disk(folder, start, job.train)
    tokenizer = load_tokenizer(start)
    rows = TextRows(data, tokenizer)
    examples = encode(tokenizer, prompt, rows_to_learn(job, rows), job.train.max_tokens)
    if rows.left_out:
        say(f"  {rows.left_out:,} rows are left out: they hold the name of a special piece, which would be read as it")
        if not examples and not examples.left_out:
            found = f"all of the {rows.left_out:,} rows hold the name of a special piece of the vocabulary"
            raise DataError("data.train", found, "Take such marks out: metier puts its own prompt around each row")
    _tell_left_out(examples, job.train.max_tokens)
    validation = read_records(data / "validation.jsonl")[:WATCHED_ROWS]
    peak_lr = job.train.peak(from_scratch=job.base.from_scratch)
    model, facts = train(
        lambda: load_model(start),
        examples,
        encode(tokenizer, prompt, validation, job.train.max_tokens),
        job.train,
        peak_lr,
        folder,
        pad=padding(tokenizer),
        seed=job.seed,
        losses=job.losses,
    )
    facts |= {
        "peak_lr": peak_lr,
        "examples": len(examples),
        "left_out": examples.left_out,
        "left_out_special": rows.left_out,
        "lora": job.train.lora.model_dump() if job.train.lora else None,
    }
    return facts, lambda part: write_folder(part, model, tokenizer, prompt)


def _tell_left_out(examples: Examples, max_tokens: int) -> None:
    """Say how many rows are too long to be learned, where it is more than one in a hundred."""
    rows = len(examples) + examples.left_out
    if examples.left_out > 0.01 * rows:
        share = examples.left_out / rows
        counted = f"{examples.left_out:,} of {rows:,} rows ({share:.0%}) are left out"
        loudly = "MOST OF THE TEXT IS NOT LEARNED: " if share > 0.5 else ""
        say(f"  {loudly}{counted}: they have more than train.max_tokens = {max_tokens} tokens")
