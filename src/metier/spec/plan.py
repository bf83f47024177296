"""``metier plan``: what will fit and what to expect, said before anything is fetched or trained."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from metier.spec.advice import Advice, Evidence, advise, basis
from metier.spec.changes import LEAST_PIECES, changes
from metier.spec.contestants import kind_and_name
from metier.spec.estimates import share_of_peak, width_of
from metier.spec.job import Job
from metier.spec.knowledge import Knowledge, Taught, knowledge_of
from metier.spec.machine import Machine
from metier.spec.needs import File, Stage, TextBytes, file_of, files_of, missing_files, stages_of
from metier.spec.released import Known, PiecesAre
from metier.spec.shape import Shape, shape_of
from metier.spec.weights import Weights, of_shape

CHINCHILLA = 20
"""Tokens a parameter that make the most of pretraining (Hoffmann et al. 2022, arXiv 2203.15556, table 3)."""


@dataclass(frozen=True)
class Plan:
    """What a job's model will be and need."""

    job: str
    known: str
    """How the model's weights are known, or why they are not."""
    machine: Machine
    fits: bool | None = None
    """Whether a file and every training fit; None where the model is not known yet, or where it hangs on how many
    pieces the text uses."""
    pieces: int | None = None
    pieces_are: PiecesAre = "exact"
    parameters: int | None = None
    active_parameters: int | None = None
    parts: dict[str, int] | None = None
    share_of_peak: float | None = None
    files: tuple[File, ...] = ()
    stages: tuple[Stage, ...] = ()
    tokens_a_parameter: float | None = None
    """Of a model from scratch; of a mixture, an active one."""
    knowledge: Knowledge | None = None
    """Of a model from scratch about facts that were counted."""
    advice: Advice | None = None
    advice_basis: str = ""
    changes: tuple[str, ...] = ()
    """What to change where something does not fit."""
    missing: tuple[str, ...] = ()
    """Local files of the job that are not there."""

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON-able values."""
        return asdict(self)


def make_plan(
    job: Job,
    known: Known | None,
    machine: Machine,
    evidence: Evidence,
    taught: Taught | None = None,
    text_bytes: TextBytes = lambda sources: None,
) -> Plan:
    """Plan a job.

    Args:
        job: the job description.
        known: what its model is made of; None when its base is not on this machine, or not in a form that can be read.
        machine: where it is to be trained.
        evidence: of dense models and mixtures.
        taught: what was counted of a job about facts; None where nothing was.
        text_bytes: tells how much text sources have; by default nobody knows.

    Raises:
        SpecError: when the model has no parts for what is to be cut from it.
    """
    if known is None:
        return Plan(job.name, _unknown(job.base.model), machine, missing=missing_files(job.data))
    weights = known.weights
    scratch = job.base.from_scratch
    slowdown = evidence.seconds_ratio if weights.experts and evidence.seconds_ratio else 1.0

    tokens = taught.tokens if taught else None

    def needs(weights: Weights) -> tuple[tuple[File, ...], tuple[Stage, ...]]:
        return files_of(job, weights), stages_of(job, weights, machine, slowdown, text_bytes, tokens)

    files, stages = needs(weights)
    fits: bool | None = _fit(files, stages)
    least = weights.with_pieces(min(LEAST_PIECES, weights.pieces))
    if not fits and known.pieces_are != "exact" and _fit(*needs(least)):
        fits = None
    advised = scratch and job.base.architecture != "openmoe" and job.task != "qa"  # of facts it was not measured
    advice = _advice(job, weights, evidence) if advised else None
    plan = Plan(
        job=job.name,
        known=known.how,
        machine=machine,
        fits=fits,
        pieces=weights.pieces,
        pieces_are=known.pieces_are,
        parameters=weights.parameters,
        active_parameters=weights.active_parameters,
        parts=weights.parts(),
        share_of_peak=round(share_of_peak(width_of(weights)), 2),
        files=files,
        stages=stages,
        tokens_a_parameter=sum(s.tokens for s in stages) / weights.active_parameters if scratch else None,
        knowledge=knowledge_of(taught, job.base, weights, stages[-1].tokens) if taught and scratch else None,
        advice=advice,
        advice_basis=basis(evidence) if advice and advice.choice != "not measured" else "",
        missing=missing_files(job.data),
    )
    return plan if plan.fits else replace(plan, changes=tuple(changes(job, weights, plan.files, stages, machine)))


def _fit(files: Iterable[File], stages: Iterable[Stage]) -> bool:
    """Whether one of the files, if there are any, and every training fit; what is not known counts as fitting."""
    found = [file.fits for file in files]
    return (not found or any(found)) and all(stage.fits is not False for stage in stages)


def _unknown(base: str) -> str:
    """Say why a base's weights are not known."""
    if kind_and_name(base)[0] == "path":
        return f"{base} holds no *.safetensors: known after 'metier build' has read its weights"
    return f"{base} is not on this machine: known after 'metier build' fetched it"


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
