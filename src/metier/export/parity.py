"""The parity gate: is the exported file as good as the checkpoint it was made from?

Two looks. The *exam*: the file answers the validation rows through its own chat template in llama.cpp; its chrF2 may
be lower than the checkpoint's by no more than a margin. The *forced walk*, for F16: on the same token ids, llama.cpp's
most likely next token must be the checkpoint's wherever the checkpoint is not undecided. The exam sees a broken
template or a vocabulary out of step; the walk sees a wrong norm or rotation that the exam's noise would hide.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from metier.evaluate.significance import Comparison
from metier.progress import track
from metier.run.engine import Engine

AGREEMENT = 0.995
"""Least share of decided positions where both name the same token."""


@dataclass(frozen=True)
class Walk:
    """How often checkpoint and file name the same next token on the same ids."""

    positions: int
    """Decided positions compared."""
    agreed: int

    @property
    def agreement(self) -> float:
        """Share of positions where both agree, from 0 to 1."""
        return self.agreed / self.positions if self.positions else 0.0

    @property
    def passed(self) -> bool:
        """Whether the file is the same function as the checkpoint."""
        return self.agreement >= AGREEMENT

    def to_json(self) -> dict[str, Any]:
        """Return the walk as JSON-able values."""
        return {**asdict(self), "agreement": round(self.agreement, 5), "passed": self.passed}


def exam_passed(comparison: Comparison, margin: float) -> bool:
    """Whether the file's 95% lower bound, file minus checkpoint, stays above minus the margin (in chrF2)."""
    return comparison.low > -margin


def walk(engine: Engine, decided: Sequence[tuple[list[int], int]]) -> Walk:
    """Ask the file for its most likely next token after the same ids."""

    def best(ids: list[int]) -> int:
        found = engine.complete(ids, max_tokens=1, probabilities=1)
        # llama.cpp names no probability for the first byte of a character, only the token.
        return found.top[0][0] if found.top else found.token_ids[0]

    prefixes = [ids for ids, _ in decided]
    answers = track(engine.many(best, prefixes), "walking beside the checkpoint", total=len(prefixes))
    return Walk(len(decided), sum(mine == theirs for mine, (_, theirs) in zip(answers, decided, strict=True)))
