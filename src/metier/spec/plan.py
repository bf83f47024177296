"""``metier plan``: what will fit and what to expect, said before anything is fetched or trained."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from metier.spec.advice import Advice, Evidence, advise, basis
from metier.spec.estimates import (
    Memory,
    answering_mib,
    context_of,
    share_of_peak,
    tokens_per_s,
    training_memory,
    width_of,
)
from metier.spec.job import AnySource, Job
from metier.spec.machine import Machine
from metier.spec.released import CLOSURE, Known
from metier.spec.shape import ImpossibleShapeError, Shape, shape_of
from metier.spec.training import Pretrain, Training
from metier.spec.weights import Weights, of_shape

BYTES_A_TOKEN = 4
"""Of a text, roughly: English and Japanese in a vocabulary of some ten thousand pieces."""
CHINCHILLA = 20
"""Tokens a parameter that make the most of pretraining (Hoffmann et al. 2022, arXiv 2203.15556, table 3)."""
LEAST_PIECES = 300
"""Below this no vocabulary is learned: bytes and marks alone are 260."""
QUANTISATIONS = ("F16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
"""Types a file may have, largest first."""


@dataclass(frozen=True)
class File:
    """One file that the build will try to ship."""

    quantisation: str
    file_mib: float
    ram_mib: float
    """Most resident memory while answering."""
    file_fits: bool | None
    """None: there is no limit."""
    ram_fits: bool | None

    @property
    def fits(self) -> bool:
        """Whether no limit is exceeded."""
        return self.file_fits is not False and self.ram_fits is not False


@dataclass(frozen=True)
class Stage:
    """One training: how long, how much text, how much memory."""

    name: str
    tokens_per_s: float
    tokens: int
    minutes: float
    passes: float | None
    """Over the text, where it lies on this machine; a guess from the bytes of the files."""
    memory_mib: dict[str, float]
    """By what holds it, and in all."""
    fits: bool | None
    """Whether it fits into this machine's memory; None where the system does not say how much there is."""


@dataclass(frozen=True)
class Plan:
    """What a job's model will be and need."""

    job: str
    known: str
    """How the model's weights are known, or why they are not."""
    machine: Machine
    pieces: int | None = None
    parameters: int | None = None
    active_parameters: int | None = None
    parts: dict[str, int] | None = None
    share_of_peak: float | None = None
    files: tuple[File, ...] = ()
    stages: tuple[Stage, ...] = ()
    tokens_a_parameter: float | None = None
    """Of a model from scratch; of a mixture, an active one."""
    advice: Advice | None = None
    advice_basis: str = ""
    changes: tuple[str, ...] = ()
    """What to change where something does not fit."""

    @property
    def fits(self) -> bool:
        """Whether a file and every training fit; what is not known yet counts as fitting."""
        file = not self.files or any(one.fits for one in self.files)
        return file and all(stage.fits is not False for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON-able values."""
        return {"fits": self.fits, **asdict(self)}


def make_plan(job: Job, known: Known | None, machine: Machine, evidence: Evidence) -> Plan:
    """Plan a job.

    Args:
        job: the job description.
        known: what its model is made of; None when its base is not on this machine.
        machine: where it is to be trained.
        evidence: of dense models and mixtures.
    """
    if known is None:
        return Plan(
            job.name, f"{job.base.model} is not on this machine: known after 'metier build' fetched it", machine
        )
    weights = known.weights
    scratch = job.base.from_scratch
    slowdown = evidence.seconds_ratio if weights.experts and evidence.seconds_ratio else 1.0
    stages = _stages(job, weights, machine, slowdown)
    advice = _advice(job, weights, evidence) if scratch and job.base.architecture != "openmoe" else None
    plan = Plan(
        job=job.name,
        known=known.how,
        machine=machine,
        pieces=weights.pieces,
        parameters=weights.parameters,
        active_parameters=weights.active_parameters,
        parts=weights.parts(),
        share_of_peak=round(share_of_peak(width_of(weights)), 2),
        files=tuple(file_of(job, weights, quantisation) for quantisation in job.export.quantisations),
        stages=stages,
        tokens_a_parameter=sum(s.tokens for s in stages) / weights.active_parameters if scratch else None,
        advice=advice,
        advice_basis=basis(evidence) if advice and advice.choice != "not measured" else "",
    )
    return plan if plan.fits else replace(plan, changes=tuple(_changes(job, plan, weights)))


def file_of(job: Job, weights: Weights, quantisation: str) -> File:
    """Return what a file of a type will need, beside the job's limits."""
    size = weights.file_mib(quantisation)
    ram = answering_mib(weights, size, context_of(job))
    limits = job.limits
    return File(quantisation, size, ram, _within(size, limits.file_mib), _within(ram, limits.ram_mib))


def _within(found: float, limit: float | None) -> bool | None:
    return None if limit is None else found <= limit


def _stages(job: Job, weights: Weights, machine: Machine, slowdown: float) -> tuple[Stage, ...]:
    trainings: list[tuple[str, Training, Sequence[AnySource], str | None]] = [
        ("train", job.train, job.data.train, job.train.quantisation)
    ]
    if job.pretrain:
        trainings.insert(0, ("pretrain", job.pretrain, job.data.text, None))
    return tuple(
        _stage(name, settings, sources, training_memory(weights, settings, rounded), machine, pace)
        for name, settings, sources, rounded in trainings
        for pace in [tokens_per_s(weights, settings, machine, slowdown)]
    )


def _stage(
    name: str, settings: Training, sources: Sequence[AnySource], memory: Memory, machine: Machine, pace: float
) -> Stage:
    if settings.budget_seconds is not None:
        seconds = settings.budget_seconds
        tokens = int(pace * seconds)
    else:
        step = settings.step_tokens if isinstance(settings, Pretrain) else settings.batch_tokens
        tokens = (settings.budget_steps or 0) * step
        seconds = tokens / pace
    text = text_tokens(sources)
    return Stage(
        name=name,
        tokens_per_s=pace,
        tokens=tokens,
        minutes=seconds / 60,
        passes=tokens / text if text else None,
        memory_mib={**asdict(memory), "total": memory.total},
        fits=_within(memory.total, machine.memory_mib),
    )


def text_tokens(sources: Iterable[AnySource]) -> int | None:
    """Return roughly how many tokens the sources have, or None when one of them is not a local file."""
    total = 0
    for source in sources:
        kind, _, rest = source.source.partition(":")
        if kind != "file":
            return None
        files = [Path(rest)] if Path(rest).is_file() else [Path(name) for name in rest.split(",")]
        if not all(file.is_file() for file in files):
            return None
        total += sum(file.stat().st_size for file in files)
    return total // BYTES_A_TOKEN


def _advice(job: Job, weights: Weights, evidence: Evidence) -> Advice:
    mixture = job.base.architecture == "moe"
    twin = of_shape(_twin(job.base.shape, evidence), weights.pieces)
    dense, moe = (twin, weights) if mixture else (weights, twin)
    # without a file the ratio is that of the weights
    types = job.export.quantisations or ["F16"]
    smallest = min(types, key=dense.file_mib)
    first = job.pretrain or job.train
    return advise(
        evidence,
        by_time=first.budget_seconds is not None,
        file_ratio=moe.file_mib(smallest) / dense.file_mib(smallest),
        dense_fits=file_of(job, dense, smallest).fits,
        mixture_fits=file_of(job, moe, smallest).fits,
    )


def _twin(shape: Shape, evidence: Evidence) -> Shape:
    """Return the dense twin of a mixture; or a dense model's mixture, with as many experts as were measured."""
    same = {key: getattr(shape, key) for key in ("heads", "key_value_heads", "head_dim")}
    if shape.architecture == "moe":
        return shape_of("dense", shape.hidden_size, shape.layers, **same, feed_forward_size=shape.feed_forward_size)
    used = min(evidence.experts_per_token or 2, shape.feed_forward_size)
    width = shape.feed_forward_size // used * used
    numbers = {"experts": evidence.experts, "experts_per_token": used, "feed_forward_size": width}
    return shape_of("moe", shape.hidden_size, shape.layers, **same, **numbers)


def _changes(job: Job, plan: Plan, weights: Weights) -> Iterable[str]:
    """Yield what would make it fit, each alone."""
    if plan.files and not any(file.fits for file in plan.files):
        smallest = min(plan.files, key=lambda file: file.file_mib).quantisation
        others = [file_of(job, weights, name) for name in QUANTISATIONS if name not in job.export.quantisations]
        if fitting := next((file for file in others if file.fits), None):
            yield f"ask for {fitting.quantisation!r} in export.quantisations: {fitting.file_mib:.1f} MiB"
        yield from _smaller(job, weights, lambda changed: file_of(job, changed, smallest).fits)
        yield f"or raise the limits: {_needed(file_of(job, weights, smallest))}"
    for stage in plan.stages:
        if stage.fits is False:
            yield from _less_memory(job, stage, weights, plan.machine)


def _less_memory(job: Job, stage: Stage, weights: Weights, machine: Machine) -> Iterable[str]:
    settings: Training = job.train if stage.name == "train" or job.pretrain is None else job.pretrain
    rounded = job.train.quantisation if stage.name == "train" else None

    def fits(changed: Weights, settings: Training = settings) -> bool:
        return _within(training_memory(changed, settings, rounded).total, machine.memory_mib) is not False

    if settings.optimizer == "adamw" and fits(weights, settings.model_copy(update={"optimizer": "adafactor"})):
        yield f"write optimizer = 'adafactor' under [{stage.name}]"
    least = settings.row_tokens if isinstance(settings, Pretrain) else 16
    batch = _most(
        least, settings.batch_tokens, lambda n: fits(weights, settings.model_copy(update={"batch_tokens": n}))
    )
    if batch is not None:
        yield f"write batch_tokens = {batch} under [{stage.name}]"
    yield from _smaller(job, weights, fits)


def _smaller(job: Job, weights: Weights, fits: Callable[[Weights], bool]) -> Iterable[str]:
    """Yield the most pieces, layers that fit."""
    pieces = _most(LEAST_PIECES, weights.pieces, lambda n: fits(weights.with_pieces(n)))
    if pieces is not None:
        # of a base, merges bring more pieces than are asked for
        key, asked = ("base.vocabulary", 1.0) if job.base.from_scratch else ("vocabulary.pieces", CLOSURE)
        yield f"write {key} = {int(pieces / asked)}"
    if job.base.from_scratch:
        layers = _most(1, job.base.layers, lambda n: fits(_with_layers(job, weights.pieces, n)))
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
