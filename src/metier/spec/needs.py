"""What a job's files and trainings will need, beside its limits and the machine."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from os.path import exists

from metier.spec.compress import WHOLE_MODEL, Cut, file_name
from metier.spec.data import AnySource, Data
from metier.spec.estimates import STORE_MIB, Memory, answering_mib, session_tokens, tokens_per_s, training_memory
from metier.spec.job import Job
from metier.spec.machine import Machine
from metier.spec.training import Pretrain, Training
from metier.spec.weights import Weights

BYTES_A_TOKEN = 4
"""Of a text, roughly: English and Japanese in a vocabulary of some ten thousand pieces."""

TextBytes = Callable[[Iterable[AnySource]], int | None]
"""Tells roughly how many bytes of text sources have, or None where that cannot be told."""


@dataclass(frozen=True)
class File:
    """One file that the build will try to ship."""

    name: str
    """The quantisation, after the name of the cut if it is of a cut model."""
    cut: str
    """Name of the cut; ``whole`` for the whole model."""
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
    """Over the text, where it lies on this machine, or over the questions that were made; a guess from the bytes."""
    memory_mib: dict[str, float]
    """By what holds it, and in all."""
    fits: bool | None
    """Whether it fits into this machine's memory, or its graphics card's; None where the system does not say how much
    there is, or where the training is shared out (``shard``) among nobody knows how many processes: its memory is that
    of a single one."""
    shared: bool = False
    """Whether several processes share it out."""


def file_of(job: Job, weights: Weights, quantisation: str, cut: Cut = WHOLE_MODEL) -> File:
    """Return what a file of a type will need, beside the job's limits.

    Args:
        job: the job description.
        weights: the whole model's.
        quantisation: type of the file.
        cut: what of the model is in it.
    """
    weights = weights.cut(cut)
    size = weights.file_mib(quantisation)
    ram = answering_mib(weights, quantisation, session_tokens(job)) + (STORE_MIB if job.task == "qa" else 0)
    fits = within(size, job.limits.file_mib), within(ram, job.limits.ram_mib)
    return File(file_name(cut.name, quantisation), cut.name, quantisation, size, ram, *fits)


def files_of(job: Job, weights: Weights) -> tuple[File, ...]:
    """Return the files that the build will try: of the whole model and of every cut.

    Raises:
        SpecError: when the model has no parts for a cut.
    """
    if job.compress.cuts:
        job.compress.check(weights.layers, mixture=bool(weights.experts))
    cuts = (WHOLE_MODEL, *job.compress.cuts)
    return tuple(file_of(job, weights, name, cut) for cut in cuts for name in job.export.quantisations)


def within(found: float, limit: float | None) -> bool | None:
    """Return whether a number is within a limit; None where there is none."""
    return None if limit is None else found <= limit


def stages_of(
    job: Job,
    weights: Weights,
    machine: Machine,
    slowdown: float,
    text_bytes: TextBytes,
    question_tokens: int | None = None,
) -> tuple[Stage, ...]:
    """Return what the trainings of a job will need.

    Args:
        job: the job description.
        weights: the model's.
        machine: where it is to be trained.
        slowdown: of a mixture, against a dense model.
        text_bytes: tells how much text sources have.
        question_tokens: of a job about facts, roughly the tokens of its training rows; None where there are none yet.
    """
    tokens = question_tokens if job.task == "qa" else _tokens(text_bytes(job.data.train))
    trainings: list[tuple[str, Training, int | None, str | None]] = [
        ("train", job.train, tokens, job.train.quantisation)
    ]
    if job.pretrain:
        trainings.insert(0, ("pretrain", job.pretrain, _tokens(text_bytes(job.data.text)), None))
    return tuple(
        _stage(name, settings, text, training_memory(weights, settings, rounded), machine, pace)
        for name, settings, text, rounded in trainings
        for pace in [tokens_per_s(weights, settings, machine, slowdown)]
    )


def _tokens(text_bytes: int | None) -> int | None:
    return None if text_bytes is None else text_bytes // BYTES_A_TOKEN


def _stage(name: str, settings: Training, text: int | None, memory: Memory, machine: Machine, pace: float) -> Stage:
    if settings.budget_seconds is not None:
        seconds = settings.budget_seconds
        tokens = int(pace * seconds)
    else:
        step = settings.step_tokens if isinstance(settings, Pretrain) else settings.batch_tokens
        tokens = (settings.budget_steps or 0) * step
        seconds = tokens / pace
    return Stage(
        name=name,
        tokens_per_s=pace,
        tokens=tokens,
        minutes=seconds / 60,
        passes=tokens / text if text else None,
        memory_mib={**asdict(memory), "total": memory.total},
        fits=None if settings.shard else within(memory.total, machine.training_mib),
        shared=settings.shard,
    )


def missing_files(data: Data) -> tuple[str, ...]:
    """Return the local files and folders that the sources name and that are not there, each with its key."""
    keys = ("train", "test", "text", "facts")
    named = ((name, key) for key in keys for source in getattr(data, key) for name in source.local_names())
    return tuple(f"{name} (data.{key})" for name, key in named if not exists(name))  # noqa: PTH110 - never raises
