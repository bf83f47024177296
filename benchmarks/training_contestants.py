"""The two trainers that ``training.py`` compares: metier, and the SFTTrainer of trl.

Each function needs a process of its own, because the peak memory that it tells is that of the process. Both minimise
the mean cross entropy of the answers with AdamW (decay 0.01, not on norms), a linear warm-up and fall of the rate,
gradients clipped to a norm of 1, float32 weights, and products in bfloat16 where the processor has them. trl is left
its ways of computing the loss and of stepping; gradient checkpointing, which would make it slower, is off.
"""

import re
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, PrinterCallback, TrainerCallback

from metier.model.answer import Checkpoint
from metier.model.loading import load, load_tokenizer
from metier.spec.training import Train
from metier.tasks.prompt import PromptFormat
from metier.train.batches import IGNORED, Example, collate, one_pass
from metier.train.loop import train
from metier.train.numerics import Numerics, multiplies_bfloat16
from metier.train.objective import Objective, mean_loss, update
from metier.train.optimizers import optimizer_for
from metier.train.schedule import learning_rate

CPU = torch.device("cpu")


def metier_steps(folder: Path, batches: list[list[Example]], settings: Train, peak_lr: float) -> dict[str, Any]:
    """Make a step on each batch of rows; return seconds and loss of each step, and the peak memory in MiB."""
    model, tokenizer = load(folder)
    optimizer, pad = optimizer_for(model, settings), int(tokenizer.pad_token_id)
    seconds, losses = [], []
    for step, rows in enumerate(batches):
        start = time.perf_counter()
        rate = learning_rate(step, len(batches), peak_lr, settings.warmup_share, settings.schedule)
        facts = update(model, optimizer, collate(rows, pad), rate, settings.clip_norm, Objective(numerics=numerics()))
        seconds.append(time.perf_counter() - start)
        losses.append(facts["loss_nats"])
    return {"seconds": seconds, "losses": losses, "peak_mib": peak_mib()}


def trl_steps(folder: Path, batches: list[list[Example]], settings: Train, peak_lr: float) -> dict[str, Any]:
    """Do as `metier_steps` does; every batch has the same number of rows."""
    model, tokenizer = load(folder)
    rows = [row for batch in batches for row in batch]
    clock, losses = _trl(model, tokenizer, rows, len(batches[0]), "sequential", settings, peak_lr)
    seconds = [after - before for before, after in pairwise(clock)]
    return {"seconds": seconds, "losses": losses, "peak_mib": peak_mib()}


class Questions(NamedTuple):
    """What a trained model is asked, greedily."""

    inputs: list[str]
    prompt: PromptFormat
    max_answer_tokens: int

    def ask(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> list[str]:
        """Return one answer a question, in order."""
        checkpoint = Checkpoint("trained", model.eval(), tokenizer, self.prompt, self.max_answer_tokens)
        return [text for text, _ in checkpoint.answer(self.inputs)]


def trl_training(
    folder: Path,
    rows: list[Example],
    held_out: list[Example],
    questions: Questions,
    settings: Train,
    peak_lr: float,
    rows_a_step: int,
) -> dict[str, Any]:
    """Train on all rows once, those of like length together as trl groups them; return seconds, losses and answers.

    The held-out losses, in nats a token before and after, and the answers are not part of the time.
    """
    model, tokenizer = load(folder)
    watched = _watched(held_out, settings, int(tokenizer.pad_token_id))
    before = mean_loss(model, watched, numerics())
    clock, _ = _trl(model, tokenizer, rows, rows_a_step, "group_by_length", settings, peak_lr)
    peak = peak_mib()
    return {
        "seconds": clock[-1] - clock[0],
        "steps": len(clock) - 1,
        "loss_nats": {"before": before, "after": mean_loss(model, watched, numerics())},
        "peak_mib": peak,
        "answers": questions.ask(model, tokenizer),
    }


def metier_training(
    folder: Path,
    rows: list[Example],
    held_out: list[Example],
    questions: Questions,
    settings: Train,
    peak_lr: float,
    seed: int,
) -> dict[str, Any]:
    """Train as a build does; return answers and the validation curve, whose seconds are those of the steps alone."""
    tokenizer = load_tokenizer(folder)
    pad = int(tokenizer.pad_token_id)
    with tempfile.TemporaryDirectory() as work:
        model, facts = train(
            lambda: load(folder).model, rows, held_out, settings, peak_lr, Path(work), pad=pad, seed=seed
        )
    peak = peak_mib()
    return {"curve": facts["curve"], "peak_mib": peak, "answers": questions.ask(model, tokenizer)}


def numerics() -> Numerics:
    """Return the precision of products that this processor is fast at."""
    return Numerics(bfloat16=multiplies_bfloat16(CPU))


def peak_mib() -> float:
    """Return the most resident memory of this process so far, in MiB (Linux)."""
    peak_kib = re.search(r"VmHWM:\s*([0-9]+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(peak_kib[1]) / 1024 if peak_kib else float("nan")


def _watched(held_out: list[Example], settings: Train, pad: int) -> list[Any]:
    numbers = one_pass([example.tokens for example in held_out], settings.batch_tokens)
    return [collate([held_out[i] for i in batch], pad) for batch in numbers]


class _Clock(TrainerCallback):
    """The time when the training begins and after each step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.times.append(time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(time.perf_counter())


def _trl(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    rows: list[Example],
    rows_a_step: int,
    order: str,
    settings: Train,
    peak_lr: float,
) -> tuple[list[float], list[float]]:
    """Train with trl; return the times from the start on, one more than steps, and the loss of each step."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    steps = len(rows) // rows_a_step
    optimizer = optimizer_for(model, settings)
    for group in optimizer.param_groups:
        group["lr"] = peak_lr
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate(step, steps, 1.0, settings.warmup_share, settings.schedule)
    )
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model,
            args=SFTConfig(
                folder,
                max_steps=steps,
                per_device_train_batch_size=rows_a_step,
                train_sampling_strategy=order,
                max_grad_norm=settings.clip_norm,
                bf16=multiplies_bfloat16(CPU),
                gradient_checkpointing=False,
                dataset_kwargs={"skip_prepare_dataset": True},
                max_length=None,
                use_cpu=True,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(
                [
                    {"input_ids": row.prompt + row.answer, "labels": [IGNORED] * len(row.prompt) + row.answer}
                    for row in rows
                ]
            ),
            processing_class=tokenizer,
            optimizers=(optimizer, schedule),
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return clock.times, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
