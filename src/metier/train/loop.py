"""The training loop: from a wall-clock budget to weights, resumable at any moment."""

import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from metier.errors import DataError
from metier.model.experts import SORTED
from metier.progress import bar, say
from metier.spec.job import Train
from metier.spec.training import Losses, Training
from metier.train.batches import Batch, Example, collate, one_pass, plan_batches
from metier.train.budget import Plan, plan_training
from metier.train.checkpoint import resume, save_checkpoint
from metier.train.numerics import Grid, Numerics, multiplies_bfloat16
from metier.train.objective import PLAIN, LossFunction, batch_loss, mean_loss, update
from metier.train.optimizers import optimizer_for
from metier.train.router import freeze_routers
from metier.train.schedule import learning_rate

_PROBED_BATCHES = 32


def train(
    make_model: Callable[[], PreTrainedModel],
    examples: list[Example],
    validation: list[Example],
    settings: Train,
    peak_lr: float,
    folder: Path,
    *,
    seed: int,
    losses: Losses = PLAIN,
    loss_of: LossFunction = batch_loss,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Train on examples of the job: `fit`, with batches of examples of like length.

    Args:
        make_model: returns the untrained model, the same at every call.
        examples: what is learned.
        validation: what the loss is watched on.
        settings: budget, batch size, schedule.
        peak_lr: the highest learning rate.
        folder: where plan, log and checkpoints live.
        seed: seed of the order of batches.
        losses: what is minimised beside the loss on the answers.
        loss_of: tells what a batch costs.

    Raises:
        DataError: when there is nothing to learn or to validate on.
        SpecError: when the budget has no room for a single step.
    """
    if not examples or not validation:
        raise DataError("training", "no example is short enough", "Raise train.max_tokens or look at the lengths")
    model = make_model()
    pad = int(model.config.pad_token_id)
    held_out = [
        collate([validation[i] for i in numbers], pad)
        for numbers in one_pass([example.tokens for example in validation], settings.batch_tokens)
    ]

    def batches() -> Iterator[Batch]:
        for numbers in plan_batches([example.tokens for example in examples], settings.batch_tokens, seed):
            yield collate([examples[i] for i in numbers], pad)

    return fit(
        make_model,
        batches,
        held_out,
        settings,
        peak_lr,
        folder,
        losses=losses,
        loss_of=loss_of,
        quantisation=settings.quantisation,
    )


def fit(
    make_model: Callable[[], PreTrainedModel],
    batches: Callable[[], Iterator[Batch]],
    held_out: list[Batch],
    settings: Training,
    peak_lr: float,
    folder: Path,
    *,
    losses: Losses = PLAIN,
    loss_of: LossFunction = batch_loss,
    quantisation: str | None = None,
    keep: Callable[[int, PreTrainedModel], None] | None = None,
    kept: int = 0,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Train to the end of the budget and return the model of the lowest validation loss, with the facts.

    Called again after a kill with the same arguments, it goes on from the last checkpoint in ``folder``: same
    batches, same steps. Every step is a line of ``steps.jsonl``.

    Args:
        make_model: returns the untrained model, the same at every call.
        batches: returns the batches from the first on, the same at every call; their targets are what is learned.
        held_out: what the loss is watched on.
        settings: budget, optimiser, schedule.
        peak_lr: the highest learning rate.
        folder: where plan, log and checkpoints live.
        losses: what is minimised beside the loss on the targets.
        loss_of: tells what a batch costs.
        quantisation: the GGUF type that the weights are rounded to in every step, if any.
        keep: called with the number of steps done and the model as it is then, to write it somewhere. A step made
            again after a kill is kept again.
        kept: how often, evenly spaced; the last time is the end.

    Raises:
        SpecError: when the budget has no room for a single step.
    """
    coming = list(itertools.islice(batches(), _PROBED_BATCHES))
    model = _placed(make_model())
    # fitted to the untrained weights, so that a run that goes on after a kill has the same grid
    numerics = Numerics(Grid.fit(model, quantisation) if quantisation else None, _in_bfloat16(settings, model))
    plan = plan_training(folder / "plan.json", model, coming, held_out, settings, losses, numerics, loss_of)
    run = _Run(_placed(make_model()), plan, settings, peak_lr, folder, held_out, losses, numerics, loss_of)
    if keep is not None:
        run.keep, run.kept_at = keep, evenly(plan.steps, kept)
    return run.to_the_end(batches())


class _Run:
    """One training under way: what a checkpoint must bring back, and where it goes."""

    def __init__(
        self,
        model: PreTrainedModel,
        plan: Plan,
        settings: Training,
        peak_lr: float,
        folder: Path,
        held_out: list[Batch],
        losses: Losses,
        numerics: Numerics,
        loss_of: LossFunction,
    ) -> None:
        self.model, self.optimizer, self.plan = model, optimizer_for(model, settings), plan
        self.settings, self.peak_lr, self.folder, self.held_out = settings, peak_lr, folder, held_out
        self.losses, self.numerics, self.loss_of = losses, numerics, loss_of
        self.keep: Callable[[int, PreTrainedModel], None] = lambda done, model: None
        self.kept_at: set[int] = set()
        self.state: dict[str, Any] = {"seconds": 0.0, "step_seconds": 0.0, "tokens": 0, "validation": {}, "curve": []}
        """Seconds, those spent in steps, and tokens so far; the validation loss after some numbers of steps; and the
        four together, as the training's curve."""

    def to_the_end(self, batches: Iterator[Batch]) -> tuple[PreTrainedModel, dict[str, Any]]:
        """Make the steps that are left; load the best weights; return the model and the training's facts."""
        first = 0
        if checkpoint := resume(self.folder, self.model, self.optimizer):
            first, self.state = checkpoint
            say(f"  going on after step {first} of {self.plan.steps}")
        log_path = self.folder / "steps.jsonl"
        _truncate(log_path, first)
        saved = time.monotonic()
        clock = saved - self.state["seconds"]
        if first == 0:
            self._validate(0)
        watched_at = evenly(self.plan.steps, self.settings.validations)
        with (
            log_path.open("a", encoding="utf-8") as log,
            bar("loss {task.fields[loss_nats]:.3f}", "{task.fields[tokens_per_s]:.0f} tokens/s") as progress,
        ):
            shown = progress.add_task(
                "training", total=self.plan.steps, completed=first, loss_nats=0.0, tokens_per_s=0.0
            )
            for step, batch in enumerate(itertools.islice(batches, first, self.plan.steps), first):
                facts = self._step(step, batch)
                log.write(json.dumps(facts) + "\n")
                log.flush()
                progress.update(shown, advance=1, loss_nats=facts["loss_nats"], tokens_per_s=facts["tokens_per_s"])
                done = step + 1
                if done in watched_at:
                    self._validate(done)
                if done in self.kept_at:
                    self.keep(done, self.model)
                self.state["seconds"] = time.monotonic() - clock
                if time.monotonic() - saved >= self.settings.checkpoint_seconds and done < self.plan.steps:
                    save_checkpoint(self.folder, done, self.model, self.optimizer, self.state)
                    saved = time.monotonic()
        self._load_best()
        return self.model.eval(), self._facts()

    def _step(self, step: int, batch: Batch) -> dict[str, Any]:
        start, settings = time.monotonic(), self.settings
        if settings.freeze_router_after is not None and step >= round(self.plan.steps * settings.freeze_router_after):
            freeze_routers(self.model)
        rate = learning_rate(step, self.plan.steps, self.peak_lr, settings.warmup_share, settings.schedule)
        facts = update(
            self.model, self.optimizer, batch, rate, settings.clip_norm, self.losses, self.numerics, self.loss_of
        )
        seconds = time.monotonic() - start
        self.state["tokens"] += batch.tokens
        self.state["step_seconds"] += seconds
        return {
            "step": step,
            "lr": rate,
            **facts,
            "tokens": batch.tokens,
            "tokens_per_s": round(batch.tokens / seconds, 1),
        }

    def _validate(self, done: int) -> None:
        """Record the validation loss after ``done`` steps; keep the weights it is of when they are the best so far."""
        loss_nats = mean_loss(self.model, self.held_out, self.numerics)
        if loss_nats <= min(self.state["validation"].values(), default=float("inf")):
            part = self.folder / "best.safetensors.part"
            with self.numerics.weights(self.model):
                save_file({n: p.detach().contiguous() for n, p in self.model.named_parameters()}, part)
            part.replace(self.folder / "best.safetensors")
        self.state["validation"][str(done)] = loss_nats
        point = {"steps": done, "tokens": self.state["tokens"], "seconds": round(self.state["step_seconds"], 2)}
        self.state["curve"].append(point | {"loss_nats": loss_nats})
        say(f"  validation loss after {done} steps: {loss_nats:.4f} nats a token")

    def _load_best(self) -> None:
        best = load_file(self.folder / "best.safetensors")
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(best[name])

    def _facts(self) -> dict[str, Any]:
        losses = self.state["validation"]
        return {
            "steps": self.plan.steps,
            "best_step": int(min(losses, key=lambda done: (losses[done], -int(done)))),
            "tokens": self.state["tokens"],
            "seconds": round(self.state["seconds"], 1),
            "probe_seconds": self.plan.probe_seconds,
            "precision": "bfloat16" if self.numerics.bfloat16 else "float32",
            "tokens_per_s": round(self.state["tokens"] / max(self.state["seconds"], 1e-9), 1),
            "curve": self.state["curve"],
            "validation_loss_nats": {done: round(loss, 4) for done, loss in losses.items()},
        }


def _placed(model: PreTrainedModel) -> PreTrainedModel:
    """Move a model to the accelerator torch finds, if any; on a CPU its experts, if any, are computed sorted."""
    move: Any = model.to
    placed: PreTrainedModel = move(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    if placed.device.type == "cpu" and placed._can_set_experts_implementation():
        placed.set_experts_implementation(SORTED)
    return placed


def _in_bfloat16(settings: Training, model: PreTrainedModel) -> bool:
    if settings.precision == "auto":
        return multiplies_bfloat16(model.device)
    return settings.precision == "bfloat16"


def evenly(steps: int, times: int) -> set[int]:
    """Return after how many steps something is done that is done so many times, the last time at the end."""
    return {round(steps * part / times) for part in range(1, times + 1)}


def _truncate(path: Path, steps: int) -> None:
    """Drop the log's lines after the checkpoint: those steps are about to be made again."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:steps]
        path.write_text("".join(lines), encoding="utf-8")
