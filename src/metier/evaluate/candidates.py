"""Candidates for the file that ships: what was measured of each, which one is best, and which are worth a look."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from pydantic import TypeAdapter

from metier.evaluate.metrics import Score
from metier.evaluate.significance import Comparison

Preference = Literal["size", "speed"]


@dataclass(frozen=True)
class Candidate:
    """One file that could ship.

    Attributes:
        name: the quantisation, after the name of the cut if it is of a cut model.
        cut: name of the cut; ``whole`` for the whole model.
        file_mib: its size.
        passed: whether it is admissible: good enough beside the checkpoint, by the parity gate.
        failed: why llama.cpp could not answer with it; then nothing else was measured.
        score: in the job's own metric, on the validation rows.
        comparison: its score minus the checkpoint's.
        ram_mib: most resident memory while answering.
        tokens_per_s: how fast it answers.
    """

    name: str
    cut: str
    file_mib: float
    passed: bool = False
    failed: str = ""
    score: Score | None = None
    comparison: Comparison | None = None
    ram_mib: float | None = None
    tokens_per_s: float | None = None

    def fits(self, file_mib: float | None, ram_mib: float | None) -> bool:
        """Whether it is within limits in MiB; None is no limit."""
        return self.file_mib <= (file_mib or float("inf")) and (self.ram_mib or 0.0) <= (ram_mib or float("inf"))

    def to_json(self) -> dict[str, Any]:
        """Return the candidate as JSON-able values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return TypeAdapter(cls).validate_python(value)


def choose(
    candidates: Iterable[Candidate],
    prefer: Preference = "size",
    *,
    file_mib: float | None = None,
    ram_mib: float | None = None,
) -> Candidate | None:
    """Return the smallest or the fastest candidate that passed and is within the limits.

    Without one it is the best guess, the largest that is within them or else the smallest of all, so that a verdict can
    name what fails; None when llama.cpp could answer with none.

    Args:
        candidates: all of them.
        prefer: what makes one better.
        file_mib: largest file, in MiB.
        ram_mib: most memory while answering, in MiB.
    """
    by_size = sorted((one for one in candidates if not one.failed), key=lambda one: one.file_mib)
    fitting = [one for one in by_size if one.fits(file_mib, ram_mib)]
    passing = [one for one in fitting if one.passed]
    if passing:
        return max(passing, key=lambda one: one.tokens_per_s or 0.0) if prefer == "speed" else passing[0]
    return next(iter([*fitting[-1:], *by_size]), None)


def frontier(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates, smallest first, that score better than every smaller one."""
    best, found = float("-inf"), []
    measured = [(one, one.score.value) for one in candidates if one.score is not None]
    for one, value in sorted(measured, key=lambda pair: (pair[0].file_mib, -pair[1])):
        if value > best:
            best = value
            found.append(one)
    return found
