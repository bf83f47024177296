"""The gates between a build and a release, and what was found at each."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from metier.errors import ArtifactError
from metier.evaluate.calibration import Rate
from metier.evaluate.confidence import Knowledge
from metier.evaluate.metrics import Score
from metier.evaluate.significance import LEVEL, Comparison

NOT_ASKED = "not asked"
NOT_MEASURED = "not measured"
_AGAIN = "Delete the step's folder and run 'metier build' again"


@dataclass(frozen=True)
class Contestant:
    """What one contestant achieved; the first score is the job's own metric.

    ``file_mib`` is the size of its file in MiB and ``tokens_per_s`` its generated tokens a second.
    """

    name: str
    scores: tuple[Score, ...]
    file_mib: float | None = None
    tokens_per_s: float | None = None

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read what was written as JSON."""
        return TypeAdapter(cls).validate_python(value)


@dataclass(frozen=True)
class Limit:
    """A measurement in MiB and the most it may be; None: not measured, or nothing demanded."""

    measured: float | None
    wanted: float | None


@dataclass(frozen=True)
class Parity:
    """Whether the shipped file answers like the checkpoint: what was demanded, and the numbers found."""

    passed: bool
    wanted: str
    numbers: Mapping[str, float]
    why_not_measured: str = NOT_MEASURED


@dataclass(frozen=True)
class Licences:
    """Whether the model may be shipped at all, under what terms, and why (not)."""

    allowed: bool
    terms: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gate:
    """One condition of a release. One that demands nothing passes, with ``wanted`` = 'not asked'."""

    name: str
    passed: bool
    wanted: str
    found: str


@dataclass(frozen=True)
class Verdict:
    """All gates, and the numbers behind them."""

    gates: tuple[Gate, ...]
    scores: tuple[Contestant, ...]
    comparisons: Mapping[str, Comparison]

    @property
    def released(self) -> bool:
        """Whether every gate was passed; without gates nothing is released."""
        return bool(self.gates) and all(gate.passed for gate in self.gates)

    @property
    def reasons(self) -> list[str]:
        """Why it is not released: one sentence for each gate that was not passed."""
        return [f"{gate.name}: wanted {gate.wanted}, found {gate.found}" for gate in self.gates if not gate.passed]

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as JSON-able values."""
        return {"released": self.released, "reasons": self.reasons, **asdict(self)}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ArtifactError: when it is not a verdict, or contradicts itself.
        """
        try:
            verdict = TypeAdapter(cls).validate_python(value)
            consistent = value["released"] == verdict.released
        except (ValidationError, KeyError, TypeError) as error:
            raise ArtifactError("the verdict", f"cannot be read ({error})", _AGAIN) from error
        if not consistent:
            raise ArtifactError("the verdict", "it contradicts its own gates", _AGAIN)
        return verdict


def decide(
    *,
    must_beat: Sequence[str],
    comparisons: Mapping[str, Comparison],
    file_mib: Limit,
    ram_mib: Limit,
    parity: Parity,
    licences: Licences,
    scores: Sequence[Contestant],
    risk: float | None = None,
    knowledge: Knowledge | None = None,
) -> Verdict:
    """Decide whether the shipped file is released; what was not measured passes no gate.

    Args:
        must_beat: contestants that must be beaten significantly.
        comparisons: the shipped file minus the contestant of that name, on the test set.
        file_mib: size of the shipped file.
        ram_mib: most resident memory while answering.
        parity: how the shipped file compares to the checkpoint.
        licences: what the ledger says about shipping.
        scores: everybody's scores on the test set, the shipped file's first.
        risk: of a job about facts, the largest share, 0 to 1, of wrong answers among those given, and of questions
            without an answer that are answered; None for other jobs.
        knowledge: what the shipped file was found to know; None when that was not measured.
    """
    gates = (
        *([_beats(name, comparisons.get(name)) for name in must_beat] or [_nobody_to_beat(scores)]),
        _within("file size", file_mib),
        _within("memory", ram_mib),
        _parity(parity),
        _licences(licences),
        *([] if risk is None else _risks(risk, knowledge)),
    )
    return Verdict(gates, tuple(scores), dict(comparisons))


def _beats(name: str, found: Comparison | None) -> Gate:
    wanted = f"better than {name} with p < {LEVEL}"
    if found is None:
        return Gate(f"beats {name}", False, wanted, NOT_MEASURED)
    return Gate(f"beats {name}", found.beats, wanted, difference_text(found))


def difference_text(found: Comparison) -> str:
    """Return a comparison as text: difference, interval, p and number of rows."""
    return (
        f"{found.metric} {found.difference:+.2f} [{found.low:+.2f}, {found.high:+.2f}], "
        f"p = {found.p:.4g}, n = {found.n}"
    )


def _nobody_to_beat(scores: Sequence[Contestant]) -> Gate:
    found = "; ".join(
        f"{one.name} {score.metric} {score.value:.2f} [{score.low:.2f}, {score.high:.2f}], n = {score.n}"
        for one in scores
        for score in one.scores[:1]
    )
    return Gate("beats", True, NOT_ASKED, found or NOT_MEASURED)


def _within(name: str, limit: Limit) -> Gate:
    found = NOT_MEASURED if limit.measured is None else f"{_apart(limit.measured, limit.wanted, 2)} MiB"
    if limit.wanted is None:
        return Gate(name, True, NOT_ASKED, found)
    # a size of nothing is a failed measurement, and so is not-a-number
    passed = limit.measured is not None and 0 < limit.measured <= limit.wanted
    return Gate(name, passed, f"at most {limit.wanted:g} MiB", found)


def _parity(parity: Parity) -> Gate:
    numbers = parity.numbers
    measured = bool(numbers) and all(math.isfinite(number) for number in numbers.values())
    found = ", ".join(f"{name} {number:.4g}" for name, number in numbers.items())
    return Gate("parity", parity.passed and measured, parity.wanted, found or parity.why_not_measured)


def _licences(licences: Licences) -> Gate:
    why = f" ({'; '.join(licences.reasons)})" if licences.reasons else ""
    passed = licences.allowed and bool(licences.terms.strip())
    return Gate(
        "licences", passed, "every licence known and allowing release", (licences.terms.strip() or "no terms") + why
    )


def _risks(risk: float, knowledge: Knowledge | None) -> tuple[Gate, Gate]:
    """Return the gates of a job about facts, with the threshold on top.

    They look at the share that was found, not at its bound: the threshold was chosen by bounds, on other questions.
    """
    wrong, unknown = (knowledge.sure.wrong, knowledge.sure.unknown) if knowledge else (None, None)
    return (
        _at_most("wrong answers", risk, "of the answers given", wrong),
        _at_most("unknown questions", risk, "answered", unknown),
    )


def _at_most(name: str, risk: float, of_what: str, found: Rate | None) -> Gate:
    wanted = f"at most {100 * risk:g}% {of_what}"
    if found is None:
        return Gate(name, False, wanted, NOT_MEASURED)
    if found.share is None:
        return Gate(name, False, wanted, "none: no answer is given" if name == "wrong answers" else "no such question")
    return Gate(name, found.share <= risk, wanted, rate_text(found, risk))


def rate_text(rate: Rate, limit: float | None = None) -> str:
    """Return a share as text: per cent, interval and n; as many digits as tell it from a limit that it is above."""
    if rate.share is None:
        return "-"
    share = _apart(100 * rate.share, None if limit is None else 100 * limit, 1)
    return f"{share}% [{rate.low:.1%}, {rate.high:.1%}], n = {rate.n}"


def _apart(number: float, limit: float | None, digits: int) -> str:
    """Return a number with so many digits behind the point; more where it is above a limit and would look equal."""
    while limit is not None and number > limit and round(number, digits) <= limit and digits < 9:
        digits += 1
    return f"{number:.{digits}f}"
