"""A wall-clock budget as a number of steps: measured once, stored, never changed by a restart."""

import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from transformers import PreTrainedModel

from metier.artifact import write_json
from metier.errors import ArtifactError, SpecError
from metier.progress import say
from metier.spec.training import Training
from metier.train import processes
from metier.train.batches import Batch
from metier.train.checkpoint import newest_state, save_checkpoint
from metier.train.objective import TARGETS, Objective, mean_loss, update
from metier.train.optimizers import optimizer_for

_TIMES_A_CHECKPOINT = 20
_PROBE_STEPS = 4


@dataclass(frozen=True)
class Plan:
    """How far the training goes."""

    steps: int
    step_seconds: float
    """Median time of a step when the plan was made; 0 for a budget in steps."""
    probe_seconds: float = 0.0
    """What making the plan took; it counts towards the budget."""
    precision: str | None = None
    """Of the products, as the training began; None in plans of earlier versions."""
    threads: int | None = None
    """Of each process, as the training began; None in plans of earlier versions."""


_PLANS = TypeAdapter(Plan)


def stored_plan(path: Path) -> Plan | None:
    """Return the plan of a training that was begun, or None; of several processes the first one reads it for all.

    Checkpoints hold the plan under their hash: theirs is believed, and written again where ``path`` says otherwise.

    Raises:
        ArtifactError: when the plan cannot be read, and no checkpoint knows it.
    """
    stored = processes.broadcast_object(_read_plan(path) if processes.is_main() else None)
    return Plan(**stored) if stored else None


def _read_plan(path: Path) -> dict[str, Any] | None:
    known = (newest_state(path.parent) or {}).get("plan")
    found, wrong = None, "is missing"
    if path.exists():
        try:
            found, wrong = asdict(_PLANS.validate_json(path.read_bytes())), "is not the one in the checkpoint"
        except (OSError, ValidationError) as error:
            wrong = "cannot be read"
            if known is None:
                raise ArtifactError(str(path), wrong, "Delete this file: the same command plans again") from error
    if known is None or known == found:
        return found
    plan: dict[str, Any] = known
    say(f"  {path}: {wrong}; going on with that one of {plan['steps']} steps")
    write_json(path, plan)
    return plan


def tell_threads(plan: Plan, device: torch.device) -> None:
    """Say where sums are taken in another order than those of the steps before."""
    threads = torch.get_num_threads()
    if device.type == "cpu" and plan.threads not in (None, threads):
        say(f"  by {threads} threads, not {plan.threads} as the training began: the same bits are no longer promised")


def plan_training(
    path: Path,
    model: PreTrainedModel,
    coming: Callable[[], Sequence[Batch]],
    held_out: Sequence[Batch],
    settings: Training,
    objective: Objective = TARGETS,
    *,
    begun: float | None = None,
    loading_seconds: float = 0.0,
) -> Plan:
    """Make the plan and store it: a budget in steps as it is, a wall-clock budget by a probe.

    Of several processes, the first one writes and measures for all.

    Args:
        path: where the plan is stored.
        model: the untrained model, which a probe spoils.
        coming: returns the first batches of the training, enough to know their mean size.
        held_out: the validation batches.
        settings: budget and schedule.
        objective: what is minimised.
        begun: when the training's time began, on the monotonic clock; None for now.
        loading_seconds: what another model takes to load, in the place of the spoiled one.

    Raises:
        SpecError: when the budget has no room for a single step.
    """
    start = time.monotonic() if begun is None else begun
    if settings.budget_steps is not None:
        precision = objective.numerics.precision
        plan = Plan(settings.budget_steps, 0.0, precision=precision, threads=torch.get_num_threads())
    else:
        probed = path.parent / "probe", model, coming(), held_out, settings, objective
        plan = _probe(*probed, start=start, loading_seconds=loading_seconds)
        say(f"  {plan.steps} steps of {plan.step_seconds:.2f} s fit the budget of {settings.budget}")
    if processes.is_main():
        write_json(path, asdict(plan))
    return plan


def _probe(
    folder: Path,
    model: PreTrainedModel,
    coming: Sequence[Batch],
    held_out: Sequence[Batch],
    settings: Training,
    objective: Objective,
    *,
    start: float,
    loading_seconds: float,
) -> Plan:
    """Make a few real steps, a validation and a checkpoint, and divide what is left of the budget by a step's time."""
    assert settings.budget_seconds is not None
    optimizer = optimizer_for(model, settings)
    # by padded tokens, because a probe's batches may be shorter or longer than the mean
    pace = []
    for batch in coming[: _PROBE_STEPS + 1]:
        step = partial(update, model, optimizer, batch, 0.0, settings.clip_norm, objective)
        pace.append(_seconds(step) / batch.ids_NT.numel())
    step_seconds = statistics.median(pace[1:] or pace) * statistics.mean(batch.ids_NT.numel() for batch in coming)
    validation_seconds = _seconds(lambda: mean_loss(model, held_out, objective.numerics))
    checkpoint_seconds = _seconds(lambda: save_checkpoint(folder, 0, model, optimizer, {}))
    if processes.is_main():
        shutil.rmtree(folder)
    step_seconds, validation_seconds, checkpoint_seconds, probe_seconds, loading_seconds = processes.broadcast_object(
        (step_seconds, validation_seconds, checkpoint_seconds, time.monotonic() - start, loading_seconds)
    )
    # A validation may save the best weights: a third of a checkpoint, which holds the moments, too.
    validations_seconds = (settings.validations + 1) * (validation_seconds + checkpoint_seconds / 3)
    aside = probe_seconds + loading_seconds + validations_seconds
    checkpoints_share = checkpoint_seconds / (
        pause_between(settings.checkpoint_seconds, checkpoint_seconds) + checkpoint_seconds
    )
    steps = int((settings.budget_seconds - aside) * (1 - checkpoints_share) / step_seconds)
    if steps < 1:
        raise SpecError(
            settings.key("budget"),
            f"{settings.budget} has no room for a step of {step_seconds:.1f} s after {aside:.0f} s of loading, probing "
            "and validation",
            f"Write at least '{int(aside + 10 * step_seconds) + 1}s', or a number of steps",
        )
    return Plan(
        steps=steps,
        step_seconds=step_seconds,
        probe_seconds=round(probe_seconds, 1),
        precision=objective.numerics.precision,
        threads=torch.get_num_threads(),
    )


def pause_between(wished: float, checkpoint_seconds: float) -> float:
    """Return the seconds between two checkpoints: as wished; longer where they would take more than a twentieth of all.

    That is for those of a second or more.
    """
    return wished if checkpoint_seconds < 1 else max(wished, _TIMES_A_CHECKPOINT * checkpoint_seconds)


def _seconds(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start
