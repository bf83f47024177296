"""The training loop: from a wall-clock budget to weights, resumable at any moment."""

import json
import math
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch
from transformers import PreTrainedModel

from metier.artifact import write_atomically
from metier.errors import ArtifactError, DataError, MetierError, SpecError
from metier.model.loading import free_memory, to_accelerator
from metier.progress import bar, say
from metier.spec.training import Losses, Train, Training
from metier.train import processes
from metier.train.batches import Batch, Example, JobBatches, Stream, collate, one_pass
from metier.train.budget import Plan, pause_between, plan_training, stored_plan, tell_threads
from metier.train.checkpoint import Best, read_best, resume, save_best, save_checkpoint
from metier.train.lora import merged, with_adapters
from metier.train.numerics import Numerics, route_exactly, tell_precision
from metier.train.objective import PLAIN, LossFunction, Objective, batch_loss, mean_loss, predict, update
from metier.train.optimizers import optimizer_for, trained_parameters
from metier.train.router import freeze_routers, route_as_asked
from metier.train.schedule import learning_rate

_PROBED_BATCHES = 32


def train(
    make_model: Callable[[], PreTrainedModel],
    examples: Sequence[Example],
    validation: Sequence[Example],
    settings: Train,
    peak_lr: float,
    folder: Path,
    *,
    pad: int,
    seed: int,
    losses: Losses = PLAIN,
    loss_of: LossFunction = batch_loss,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Train on examples of the job: `fit`, with batches of examples of like length, and with adapters if asked for.

    Args:
        make_model: returns the untrained model, the same at every call.
        examples: what is learned.
        validation: what the loss is watched on.
        settings: budget, batch size, schedule.
        peak_lr: the highest learning rate.
        folder: where plan, log and checkpoints live.
        pad: id of the piece that rows are filled up with.
        seed: seed of the order of batches, and of a model's own randomness.
        losses: what is minimised beside the loss on the answers.
        loss_of: tells what a batch costs.

    Raises:
        DataError: when there is nothing to learn or to validate on.
        ArtifactError: when the untrained model has no finite loss, or the best weights are damaged.
        SpecError: when the budget has no room for a single step, or the loss is no longer finite.
    """
    if not examples or not validation:
        raise DataError("training", "no example is short enough", "Raise train.max_tokens or look at the lengths")
    held_out = [
        collate([validation[i] for i in numbers], pad)
        for numbers in one_pass([example.tokens for example in validation], settings.batch_tokens)
    ]

    def make_learner() -> PreTrainedModel:
        return with_adapters(make_model(), settings.lora, seed) if settings.lora else make_model()

    model, facts = fit(
        make_learner,
        lambda position: JobBatches(examples, settings.batch_tokens, pad, seed, position),
        held_out,
        settings,
        peak_lr,
        folder,
        seed=seed,
        losses=losses,
        loss_of=loss_of,
        quantisation=settings.quantisation,
    )
    return merged(model) if settings.lora else model, facts


def fit(
    make_model: Callable[[], PreTrainedModel],
    batches: Callable[[Any], Stream],
    held_out: list[Batch],
    settings: Training,
    peak_lr: float,
    folder: Path,
    *,
    seed: int,
    losses: Losses = PLAIN,
    loss_of: LossFunction = batch_loss,
    quantisation: str | None = None,
    keep: Callable[[int, PreTrainedModel], None] = lambda done, model: None,
    kept: int = 0,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Train to the end of the budget and return the model of the lowest validation loss, with the facts.

    Called again after a kill with the same arguments, it goes on from the last checkpoint in ``folder``: same
    batches, same steps. Every step is a line of ``steps.jsonl``. Where torchrun started several processes, each of them
    calls it with the same arguments, and the first one writes the files; a sharded model is returned whole in the
    first, and as it is in the others.

    Args:
        make_model: returns the untrained model, the same at every call.
        batches: returns the batches from a position on, or from the first on for None; their targets are what is
            learned.
        held_out: what the loss is watched on.
        settings: budget, optimiser, schedule.
        peak_lr: the highest learning rate.
        folder: where plan, log and checkpoints live.
        seed: seed of the model's own randomness, such as dropout; each step has its own.
        losses: what is minimised beside the loss on the targets.
        loss_of: tells what a batch costs.
        quantisation: the GGUF type that the weights are rounded to in every step, if any.
        keep: called with the number of steps done and the model as it is then, to write it somewhere. A step made
            again after a kill is kept again.
        kept: how often, evenly spaced; the last time is the end.

    Raises:
        ArtifactError: when the untrained model has no finite loss, or the best weights are damaged.
        SpecError: when the budget has no room for a single step, or the loss is no longer finite.
    """

    def learner() -> PreTrainedModel:
        return route_as_asked(make_model(), settings)

    def placed() -> PreTrainedModel:
        return _placed(learner(), settings)

    path = folder / "plan.json"
    plan = stored_plan(path)
    begun = time.monotonic()
    model = placed()
    loading_seconds = time.monotonic() - begun
    # fitted to the untrained weights, so that a run that goes on after a kill has the same grid
    numerics = Numerics.of(model, settings, quantisation, plan.precision if plan else None)
    objective = Objective(losses, numerics, loss_of)
    tell_precision(numerics, settings, model.device)
    if plan:
        tell_threads(plan, model.device)
    else:
        coming = partial(_probed, batches)
        plan = plan_training(
            path, model, coming, held_out, settings, objective, begun=begun, loading_seconds=loading_seconds
        )
        if settings.budget_seconds is not None:
            del model  # which the probe has spoiled: there is to be one at a time in memory
            free_memory()
            model = placed()
    settings.check_steps(plan.steps)
    run = _Run(
        model=model,
        make_model=learner,
        plan=plan,
        settings=settings,
        peak_lr=peak_lr,
        folder=folder,
        held_out=held_out,
        seed=seed,
        objective=objective,
        keep=keep,
        kept_at=evenly(plan.steps, kept),
    )
    return run.to_the_end(batches)


@dataclass
class _State:
    """What a checkpoint holds beside tensors and plan."""

    seconds: float = 0.0
    step_seconds: float = 0.0
    """Seconds spent in steps."""
    tokens: int = 0
    validation: dict[str, float] = field(default_factory=dict)
    """The validation loss after some numbers of steps."""
    curve: list[dict[str, Any]] = field(default_factory=list)
    """Steps, tokens, seconds in steps and loss, at each validation."""
    position: Any = None
    """Where the next batch begins."""


@dataclass
class _Run:
    """One training under way: what a checkpoint must bring back, and where it goes."""

    model: PreTrainedModel
    make_model: Callable[[], PreTrainedModel]
    plan: Plan
    settings: Training
    peak_lr: float
    folder: Path
    held_out: list[Batch]
    seed: int
    objective: Objective
    keep: Callable[[int, PreTrainedModel], None]
    kept_at: set[int]
    best_step: int = 0
    best_loss: float = math.inf

    def __post_init__(self) -> None:
        self.optimizer = optimizer_for(self.model, self.settings)
        self.state = _State()

    def to_the_end(self, batches: Callable[[Any], Stream]) -> tuple[PreTrainedModel, dict[str, Any]]:
        """Make the steps that are left; load the best weights; return the model and the training's facts."""
        first = 0
        if checkpoint := resume(self.folder, self.model, self.optimizer):
            first, state = checkpoint
            self.state = _State(**{name: value for name, value in state.items() if name != "plan"})
            best = self._kept_best() if processes.is_main() else (0, 0.0)
            processes.barrier()  # for its hash
            self.best_step, self.best_loss = processes.broadcast_object(best)
            say(f"  going on after step {first} of {self.plan.steps}")
        coming = batches(self.state.position)
        saved = time.monotonic()
        clock, pause = saved - self.state.seconds, self.settings.checkpoint_seconds
        if first == 0:
            self._validate(0)
        watched_at = evenly(self.plan.steps, self.settings.validations)
        with (
            _log(self.folder / "steps.jsonl", first) as log,
            bar("loss {task.fields[loss_nats]:.3f}", "{task.fields[tokens_per_s]:.0f} tokens/s") as progress,
        ):
            shown = progress.add_task(
                "training", total=self.plan.steps, completed=first, loss_nats=0.0, tokens_per_s=0.0
            )
            for step in range(first, self.plan.steps):
                facts = self._step(step, next(coming))
                log.write(json.dumps(facts) + "\n")
                log.flush()
                progress.update(shown, advance=1, loss_nats=facts["loss_nats"], tokens_per_s=facts["tokens_per_s"])
                done = step + 1
                if done in watched_at:
                    self._validate(done)
                if done in self.kept_at:
                    self._keep(done)
                self.state.seconds = time.monotonic() - clock
                due = time.monotonic() - saved >= pause and done < self.plan.steps
                if processes.broadcast_object(due):
                    self.state.position = coming.position
                    begun = time.monotonic()
                    state = asdict(self.state) | {"plan": asdict(self.plan)}
                    save_checkpoint(self.folder, done, self.model, self.optimizer, state)
                    saved = time.monotonic()
                    pause = pause_between(self.settings.checkpoint_seconds, saved - begun)
        return self._best().eval(), self._facts()

    def _step(self, step: int, batch: Batch) -> dict[str, Any]:
        start, settings = time.monotonic(), self.settings
        _seed(self.seed, step)
        if settings.freeze_router_after is not None and step >= round(self.plan.steps * settings.freeze_router_after):
            freeze_routers(self.model)
        rate = learning_rate(step, self.plan.steps, self.peak_lr, settings.warmup_share, settings.schedule)
        facts = update(self.model, self.optimizer, batch, rate, settings.clip_norm, self.objective)
        for what, found in (("loss", facts["loss_nats"]), ("gradient", facts["grad_norm"])):
            if not math.isfinite(found):
                raise self._diverged(f"the {what} is {found}", step)
        seconds = time.monotonic() - start
        self.state.tokens += batch.tokens
        self.state.step_seconds += seconds
        return {
            "step": step,
            "lr": rate,
            **facts,
            "tokens": batch.tokens,
            "tokens_per_s": round(batch.tokens / seconds, 1),
        }

    def _validate(self, done: int) -> None:
        """Record the validation loss after ``done`` steps; keep the weights it is of when they are the best so far."""
        loss_nats = mean_loss(self.model, self.held_out, self.objective.numerics)
        if not math.isfinite(loss_nats):
            raise self._diverged(f"the validation loss is {loss_nats}", done)
        if loss_nats <= self.best_loss:
            self.best_step, self.best_loss = done, loss_nats
            with self.objective.numerics.weights(self.model):
                weights = processes.whole(trained_parameters(self.model, self.optimizer))
                if processes.is_main():
                    save_best(self.folder, Best(done, loss_nats, weights))
            processes.barrier()  # for the first, which writes and hashes
        self.state.validation[str(done)] = loss_nats
        point = {"steps": done, "tokens": self.state.tokens, "seconds": round(self.state.step_seconds, 2)}
        self.state.curve.append(point | {"loss_nats": loss_nats})
        say(f"  validation loss after {done} steps: {loss_nats:.4f} nats a token")

    def _keep(self, done: int) -> None:
        weights = processes.whole(trained_parameters(self.model, self.optimizer))
        if processes.is_main():
            self.keep(done, self._with(weights))
        processes.barrier()  # for the first, which writes

    def _kept_best(self) -> tuple[int, float]:
        """Return after how many steps the best weights were taken, and their loss; infinity where there are none."""
        try:
            best = read_best(self.folder)
        except ArtifactError as error:
            say(f"  {error.where}: {error.found}; a later validation takes its place")
            return 0, math.inf
        return best.steps, best.loss_nats

    def _diverged(self, found: str, done: int) -> MetierError:
        """Return what to say when numbers are not finite after so many steps. Going on meets them again."""
        exactly = f", or {self.settings.key('precision')} = 'float32'" if self.objective.numerics.bfloat16 else ""
        if done == 0:
            fix = f"Fetch or build it again, or choose another base{exactly}"
            return ArtifactError("the model that training starts from", found, fix)
        found = f"{found} after {done} of {self.plan.steps} steps, at a highest rate of {self.peak_lr:g}"
        return SpecError(
            self.settings.key("peak_lr"), found, f"Write a lower one, such as {self.peak_lr / 3:.1g}{exactly}"
        )

    def _best(self) -> PreTrainedModel:
        return self._with(read_best(self.folder).weights) if processes.is_main() else self.model

    def _with(self, weights: dict[str, torch.Tensor]) -> PreTrainedModel:
        """Return a whole model with these weights: the one that learns, unless it is sharded."""
        model = self.make_model() if processes.is_sharded(self.model) else self.model
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in weights:
                    parameter.copy_(weights[name])
        return model

    def _facts(self) -> dict[str, Any]:
        losses = self.state.validation
        learned = trained_parameters(self.model, self.optimizer)
        return {
            "steps": self.plan.steps,
            "trained_parameters": sum(parameter.numel() for parameter in learned.values()),
            "best_step": self.best_step,
            "tokens": self.state.tokens,
            "seconds": round(self.state.seconds, 1),
            "probe_seconds": self.plan.probe_seconds,
            "precision": self.objective.numerics.precision,
            "tokens_per_s": round(self.state.tokens / max(self.state.seconds, 1e-9), 1),
            "curve": self.state.curve,
            "validation_loss_nats": {done: round(loss, 4) for done, loss in losses.items()},
        }


def _placed(model: PreTrainedModel, settings: Training) -> PreTrainedModel:
    """Move a model to the accelerator torch finds, if any, whole or sharded.

    Raises:
        SpecError: when activations are to be recomputed by a model that cannot.
    """
    if settings.activation_checkpointing:
        if not model.supports_gradient_checkpointing:
            found = f"models of type {model.config.model_type!r} cannot compute their layers twice"
            raise SpecError(settings.key("activation_checkpointing"), found, "Remove the key")
        model.activation_checkpointing_enable()
    if settings.shard and processes.world_size() > 1:
        processes.shard(model, predict)
    else:
        to_accelerator(model)
    if settings.precision != "float32":
        route_exactly(model)
    return model


def _probed(batches: Callable[[Any], Stream]) -> list[Batch]:
    """Return the batches that a probe looks at."""
    coming = batches(None)
    return [next(coming) for _ in range(_PROBED_BATCHES)]


def _seed(seed: int, step: int) -> None:
    """Make what a model draws in a step, such as its dropout, a function of seed, step and process."""
    torch.manual_seed(random.Random(f"{seed}/{step}/{processes.rank()}").getrandbits(63))


def evenly(steps: int, times: int) -> set[int]:
    """Return after how many steps something is done that is done so many times, the last time at the end."""
    return {round(steps * part / times) for part in range(1, times + 1)}


def _log(path: Path, steps: int) -> TextIO:
    """Open the log behind the lines of so many steps: those after the checkpoint are about to be made again."""
    if not processes.is_main():
        return Path(os.devnull).open("a", encoding="utf-8")
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:steps]
        write_atomically(path, "".join(lines))
    return path.open("a", encoding="utf-8")
