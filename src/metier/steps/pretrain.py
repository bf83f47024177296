"""The step ``pretrain``: the model learns from plain text, before it learns the job."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from metier.artifact import Step
from metier.data.records import read_documents
from metier.errors import DataError
from metier.export.huggingface import write_folder
from metier.model.loading import load_model, load_tokenizer
from metier.spec.job import Job
from metier.steps.training_folder import Write, check_disk, train_once, write_whole
from metier.train.pretraining import corpora, pretrain


def pretrain_job(job: Job, data: Step, start: Path, folder: Path) -> dict[str, Any]:
    """Train on the job's plain text; leave a Hugging Face folder ``model`` and return the training's facts.

    Models kept on the way are the folders ``kept/step-<number>``.

    Raises:
        DataError: when the text holds no token to learn or to validate on.
    """
    return train_once(folder, partial(_learn, job, data, start, folder))


def _learn(job: Job, data: Step, start: Path, folder: Path) -> tuple[dict[str, Any], Write]:
    assert job.pretrain
    torch.manual_seed(job.seed)
    check_disk(folder, start, job.pretrain, models=job.pretrain.keep_checkpoints)
    tokenizer = load_tokenizer(start)
    weights = data.result["text"]["weights"]
    learned = corpora(tokenizer, read_documents(data.folder / "text.jsonl"), weights)
    held_out = corpora(tokenizer, read_documents(data.folder / "text_validation.jsonl"), weights)
    if not learned or not held_out:
        raise DataError("pretraining", "the text holds no tokens", "Add text to [[data.text]]")

    def keep(done: int, model: PreTrainedModel) -> None:
        write_whole(folder / "kept" / f"step-{done:08d}", lambda part: write_folder(part, model, tokenizer))

    peak_lr = job.pretrain.peak(from_scratch=job.base.from_scratch)
    model, facts = pretrain(
        lambda: load_model(start),
        tokenizer,
        learned,
        held_out,
        job.pretrain,
        folder,
        peak_lr=peak_lr,
        seed=job.seed,
        losses=job.losses,
        keep=keep,
    )
    tokens = {source.name: len(source.tokens) for source in learned}
    return facts | {"peak_lr": peak_lr, "source_tokens": tokens}, lambda part: write_folder(part, model, tokenizer)
