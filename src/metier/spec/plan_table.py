"""A plan for people, on the terminal."""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from metier.spec.job import Job
from metier.spec.needs import Stage
from metier.spec.plan import CHINCHILLA, Plan

_CHOICES = {
    "dense": "dense",
    "moe": "a mixture of experts",
    "undecided": "undecided",
    "not measured": "not measured yet",
}


def render(plan: Plan, job: Job) -> RenderableType:
    """Return what fits and what to expect, for a rich console.

    Args:
        plan: of the job.
        job: its description, for the limits.
    """
    if plan.parameters is None:
        return Group(Text(plan.known), *_lines(_missing(plan)), *_lines(_about_the_machine(plan)))
    blocks: list[RenderableType] = [_model(plan), Text(), _parts(plan)]
    if plan.files:
        blocks += [Text(), _files(plan, job)]
    talk = (*_about_the_machine(plan), *_shared(plan), *_expectations(plan), *_facts(plan, job), *_cuts(job))
    blocks += [Text(), _stages(plan), Text(), *_lines(talk), Text()]
    return Group(*blocks, *_lines((*_missing(plan), *_conclusion(plan))))


def _missing(plan: Plan) -> Iterable[str]:
    return (f"There is no {file}: 'metier build' will need it." for file in plan.missing)


def _model(plan: Plan) -> Text:
    active = (
        f", {_millions(plan.active_parameters)} active a token" if plan.active_parameters != plan.parameters else ""
    )
    bound = {"exact": "", "at most": "at most about ", "about": "about "}[plan.pieces_are]
    return Text(
        f"{plan.job}: {_millions(plan.parameters)} parameters{active}, {bound}{plan.pieces:,} pieces ({plan.known})",
        style="bold",
    )


def _parts(plan: Plan) -> Table:
    parts = plan.parts or {}
    rows = [(name, f"{count:,}", f"{count / sum(parts.values()):.1%}") for name, count in parts.items()]
    return _table(("part", "parameters", "share"), rows)


def _files(plan: Plan, job: Job) -> Table:
    limits, sure = job.limits, _is_sure(plan)
    rows = [
        (
            file.name,
            f"{file.file_mib:.1f}",
            _beside(file.file_fits, limits.file_mib, sure),
            f"{file.ram_mib:.0f}",
            _beside(file.ram_fits, limits.ram_mib, sure),
        )
        for file in plan.files
    ]
    return _table(("file", "MiB", "limit", "answering, MiB", "limit"), rows)


def _stages(plan: Plan) -> Table:
    return _table(
        (
            "training",
            "tokens/s",
            "tokens",
            "minutes",
            "passes",
            "memory, MiB",
            "machine" if plan.machine.card_mib is None else "card",
        ),
        [_stage(stage, plan.machine.training_mib, _is_sure(plan)) for stage in plan.stages],
    )


def _stage(stage: Stage, memory_mib: float | None, sure: bool) -> tuple[str, ...]:
    return (
        stage.name,
        f"{stage.tokens_per_s:,.0f}",
        f"{stage.tokens:,}",
        f"{stage.minutes:,.1f}",
        "?" if stage.passes is None else f"{stage.passes:.2g}",
        f"{stage.memory_mib['total']:,.0f}",
        _beside(stage.fits, memory_mib and round(memory_mib), sure),
    )


def _about_the_machine(plan: Plan) -> Iterable[str]:
    machine = plan.machine
    memory = "unknown memory" if machine.memory_mib is None else f"{machine.memory_mib:,.0f} MiB"
    yield (
        f"This machine: {machine.cores} cores, {memory}, {machine.gflop_per_s:.0f} GFLOP/s in float32 products "
        f"(measured now{', while other programs were at work' if machine.busy else ''})."
    )
    if machine.card_mib is not None:
        yield (
            f"Trainings are compared with the memory of the graphics card, {machine.card_mib:,.0f} MiB. Time is that "
            "of the processor: a card takes less."
        )
    elif machine.memory_mib is not None:
        yield "Trainings are compared with main memory."
    if plan.share_of_peak is not None:
        yield f"Time is estimated at {plan.share_of_peak:.0%} of that and 6 operations a parameter and token."


def _expectations(plan: Plan) -> Iterable[str]:
    if plan.tokens_a_parameter is not None:
        yield (
            f"{plan.tokens_a_parameter:.2g} tokens a parameter; about {CHINCHILLA} make the most of pretraining "
            "(Hoffmann et al. 2022)."
        )
    if plan.advice is not None:
        yield f"Dense or mixture: {_CHOICES[plan.advice.choice]}; {plan.advice.reason}."
    if plan.advice_basis:
        yield f"  ({plan.advice_basis})"


def _facts(plan: Plan, job: Job) -> Iterable[str]:
    if job.task != "qa" or not job.base.from_scratch:
        return
    if plan.knowledge is None:
        yield "The facts are counted by 'metier build'; then this says how much of them the model can hold."
        return
    found = plan.knowledge
    yield (
        f"{found.facts:,} facts, {_bits(found.bits)}. This model holds about {_bits(found.well_learned_bits)} of facts "
        f"seen 1,000 times each, {_bits(found.learned_bits)} of facts seen 100 times; a file of 4 bits a weight at "
        f"most {_bits(found.int4_bits)} (Allen-Zhu and Li 2024)."
    )
    yield f"The budget lets it see each fact about {found.seen:,.0f} times."
    if not found.enough:
        yield "It cannot hold them all. What would change that:"
        yield from (f"  - {change}" for change in found.changes)


def _bits(count: float) -> str:
    return f"{count / 1e6:.1f} Mbit" if count >= 1e6 else f"{count / 1e3:.1f} kbit"


def _shared(plan: Plan) -> Iterable[str]:
    for stage in plan.stages:
        if stage.shared:
            yield (
                f"The memory of {stage.name!r} is that of one process alone: with shard = true each of several holds a "
                "part of weights, gradients and moments. On one machine that is as much together, on several less each."
            )


def _cuts(job: Job) -> Iterable[str]:
    if count := len(job.compress.cuts):
        yield f"Not counted: {count} cut models that learn for {job.compress.heal} each, and the exams of their files."


def _conclusion(plan: Plan) -> Iterable[str]:
    if plan.fits:
        yield "It fits."
        return
    if plan.fits is None:
        yield "It may not fit, for the number of pieces is an estimate. What would make room:"
    else:
        yield "It does not fit. What would change that:"
    yield from (f"  - {change}" for change in plan.changes)


def _lines(lines: Iterable[str]) -> Sequence[Text]:
    return [Text(line) for line in lines]


def _is_sure(plan: Plan) -> bool:
    """Whether what does not fit will not fit, however few pieces the text uses."""
    return plan.pieces_are == "exact" or plan.fits is False


def _beside(fits: bool | None, limit: float | None, sure: bool) -> str:
    if fits is None or limit is None:
        return "-"
    return f"{'fits' if fits else 'DOES NOT FIT' if sure else 'may not fit'} {limit:,.10g}"


def _millions(count: int | None) -> str:
    return f"{(count or 0) / 1e6:.1f} M"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for number, title in enumerate(header):
        shown.add_column(Text(title), justify="left" if number == 0 else "right")
    for row in rows:
        shown.add_row(*map(Text, row))
    return shown
