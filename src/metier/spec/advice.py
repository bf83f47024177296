"""Dense or a mixture of experts: what our own measurement says, as advice for a job from scratch."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from metier.artifact import read_json
from metier.errors import ArtifactError

EVIDENCE = Path(__file__).with_name("evidence.json")
"""Written by ``python benchmarks/moe_twins.py``."""

_AGAIN = "Install metier again"


@dataclass(frozen=True)
class Difference:
    """Loss of the mixture minus loss of its dense twin, in nats a token, with its 95% interval over the seeds."""

    mean: float
    low: float
    high: float

    @classmethod
    def read(cls, value: Any) -> Self | None:
        """Return a difference of the file; None while it is not measured."""
        return None if value is None or None in value.values() else cls(**{k: float(v) for k, v in value.items()})

    def text(self) -> str:
        """Return the difference in words."""
        side = "worse" if self.mean > 0 else "better"
        return f"{abs(self.mean):.3f} nats a token {side} [{self.low:+.3f}, {self.high:+.3f}]"


@dataclass(frozen=True)
class Evidence:
    """A mixture of experts against its dense twin: the same active weights a token, the same text."""

    command: str
    date: str | None
    active_parameters: int | None
    experts: int | None
    experts_per_token: int | None
    seeds: int | None
    tokens: int | None
    equal_tokens: Difference | None
    equal_time: Difference | None
    seconds_ratio: float | None
    """The mixture's time a token, divided by the dense twin's."""


@dataclass(frozen=True)
class Advice:
    """What to take, and why."""

    choice: Literal["dense", "moe", "undecided", "not measured"]
    reason: str


def load_evidence(path: Path = EVIDENCE) -> Evidence:
    """Read the measurement.

    Raises:
        ArtifactError: when the file is damaged.
    """
    found = read_json(path, _AGAIN)
    plain = ("command", "date", "active_parameters", "experts", "experts_per_token", "seeds", "tokens", "seconds_ratio")
    try:
        return Evidence(
            equal_tokens=Difference.read(found["loss_difference_equal_tokens_nats"]),
            equal_time=Difference.read(found["loss_difference_equal_time_nats"]),
            **{key: found[key] for key in plain},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(str(path), f"is no measurement ({error!r})", _AGAIN) from error


def advise(evidence: Evidence, *, by_time: bool, file_ratio: float, dense_fits: bool, mixture_fits: bool) -> Advice:
    """Advise for a job from scratch.

    A budget of wall clock is decided by what both learned in equal time. In one of tokens or steps a mixture must be
    better from equal tokens, and not worse in equal time, for they take it longer; a mixture whose file does not fit is
    out whatever it learned.

    Args:
        evidence: the measurement.
        by_time: whether the job's budget is a time.
        file_ratio: size of the mixture's file, divided by that of its dense twin.
        dense_fits: whether the dense twin's file is within the limits.
        mixture_fits: whether the mixture's is.
    """
    deciding = evidence.equal_time if by_time else evidence.equal_tokens
    if deciding is None or evidence.equal_tokens is None or evidence.equal_time is None:
        return Advice("not measured", f"run {evidence.command!r} to compare a mixture with its dense twin")
    facts = [
        f"at equal time the mixture was {evidence.equal_time.text()}, from equal tokens {evidence.equal_tokens.text()}",
        f"a token took it {_times(evidence.seconds_ratio)} as long",
        f"its file is {_times(file_ratio)} as large",
    ]
    if dense_fits and not mixture_fits:
        return Advice("dense", "; ".join(["the mixture's file is above the limit", *facts]))
    if deciding.low > 0:
        return Advice("dense", "; ".join(facts))
    if deciding.high < 0 < evidence.equal_time.low:
        return Advice("undecided", "; ".join(["the same steps teach a mixture more, and take it longer", *facts]))
    if deciding.high < 0:
        return Advice("moe", "; ".join(facts))
    return Advice("undecided", "; ".join(["the interval holds 0, and the dense file is the smaller", *facts]))


def basis(evidence: Evidence) -> str:
    """Return in words what the measurement was made with."""
    return (
        f"measured {evidence.date} with {_number(evidence.active_parameters)} active parameters, "
        f"{evidence.experts} experts of which {evidence.experts_per_token} a token, "
        f"{_number(evidence.tokens)} tokens, {evidence.seeds} seeds: {evidence.command}"
    )


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _times(ratio: float | None) -> str:
    return f"{ratio:.2f} x" if ratio is not None and math.isfinite(ratio) else "? x"
