"""What to change in a job that does not fit: each change alone makes fit what it is about."""

from collections.abc import Callable, Iterable, Sequence
from math import ceil
from typing import Any

from metier.spec.compress import WHOLE_MODEL
from metier.spec.estimates import adapters_of, longest_row, tokens_at_once, training_memory
from metier.spec.job import Job
from metier.spec.machine import Machine
from metier.spec.needs import File, Stage, file_of, within
from metier.spec.quantisation import TYPES
from metier.spec.released import CLOSURE
from metier.spec.shape import ImpossibleShapeError
from metier.spec.training import Lora, Train, Training
from metier.spec.weights import Weights, of_shape

LEAST_PIECES = 300
"""Below this no vocabulary is learned: bytes and marks alone are 260."""


def changes(
    job: Job, weights: Weights, files: Sequence[File], stages: Sequence[Stage], machine: Machine
) -> Iterable[str]:
    """Yield what would make files or trainings fit that do not."""
    if files and not any(file.fits for file in files):
        smallest = min(files, key=lambda file: file.file_mib)
        cut = next(one for one in (WHOLE_MODEL, *job.compress.cuts) if one.name == smallest.cut)
        others = [file_of(job, weights, name, cut) for name in TYPES if name not in job.export.quantisations]
        fitting = next((file for file in others if file.fits), None)
        found = (
            [f"ask for {fitting.quantisation!r} in export.quantisations: {fitting.file_mib:.1f} MiB"] if fitting else []
        )
        found += _smaller(job, weights, lambda changed: file_of(job, changed, smallest.quantisation, cut).fits)
        yield from found
        yield f"{'or ' if found else ''}raise the limits: {_needed(smallest)}"
    for stage in stages:
        if stage.fits is False:
            yield from _less_memory(job, stage, weights, machine)


def _less_memory(job: Job, stage: Stage, weights: Weights, machine: Machine) -> Iterable[str]:
    settings: Training = job.train if stage.name == "train" or job.pretrain is None else job.pretrain
    rounded = job.train.quantisation if stage.name == "train" else None

    def fits(changed: Weights, settings: Training = settings) -> bool:
        return within(training_memory(changed, settings, rounded).total, machine.training_mib) is not False

    def fits_with(**keys: Any) -> bool:
        return fits(weights, settings.model_copy(update=keys))

    whole = settings.optimizer == "adamw" and adapters_of(settings) is None
    rate = "" if settings.peak_lr is None else " and remove peak_lr, a rate for AdamW on all weights"
    micro = _most(max(16, longest_row(settings)), tokens_at_once(settings), lambda n: fits_with(micro_batch_tokens=n))
    if micro is not None and not settings.limits_room:  # room is that of what is computed at once
        yield f"write micro_batch_tokens = {micro} under [{stage.name}]: the same steps, a part at a time"
    if not settings.activation_checkpointing and fits_with(activation_checkpointing=True):
        yield f"write activation_checkpointing = true under [{stage.name}]: the same steps, in more time"
    if whole and fits_with(optimizer="adafactor"):
        yield f"write optimizer = 'adafactor' under [{stage.name}]{rate}"
    if whole and _takes_adapters(job, settings) and fits_with(lora=Lora()):
        yield f"learn adapters instead of all weights: write a table [{stage.name}.lora]{rate}"
    yield from _smaller(job, weights, fits)


def _takes_adapters(job: Job, settings: Training) -> bool:
    """Whether the table [train.lora] fits the rest of the description."""
    known = job.pretrain is not None or not job.base.from_scratch
    stated = isinstance(settings, Train) and not settings.quantisation
    return known and stated and not settings.shard and settings.freeze_router_after is None


def _smaller(job: Job, weights: Weights, fits: Callable[[Weights], bool]) -> Iterable[str]:
    """Yield the most pieces, layers that fit."""
    pieces = _most(LEAST_PIECES, weights.pieces, lambda n: fits(weights.with_pieces(n)))
    if pieces is not None:
        # of a base, merges bring more pieces than are asked for
        key, asked = ("base.vocabulary", 1.0) if job.base.from_scratch else ("vocabulary.pieces", CLOSURE)
        yield f"write {key} = {int(pieces / asked)}"
    if job.base.from_scratch:
        layers = _most(
            1 + max(job.compress.layers), job.base.layers, lambda n: fits(_with_layers(job, weights.pieces, n))
        )
        if layers is not None:
            yield f"write layers = {layers} under [base]"


def _with_layers(job: Job, pieces: int, layers: int) -> Weights:
    try:
        return of_shape(job.base.model_copy(update={"layers": layers}).shape, pieces)
    except ImpossibleShapeError:  # an interval of mixtures above the layers
        return of_shape(job.base.shape, pieces)


def _most(least: int, now: int, fits: Callable[[int], bool]) -> int | None:
    """Return the highest number from ``least`` to ``now`` that fits, or None; what fits, fits with less, too."""
    if least > now or not fits(least):
        return None
    low, high = least, now
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _needed(file: File) -> str:
    parts = []
    if file.file_fits is False:
        parts.append(f"file_mib = {ceil(file.file_mib * 1.01)}")
    if file.ram_fits is False:
        parts.append(f"ram_mib = {ceil(file.ram_mib * 1.1)}")
    return ", ".join(parts)
