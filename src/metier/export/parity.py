"""The parity gate: is the exported file as good as the checkpoint it was made from?

Two looks. The *exam*: the file answers the validation rows through its own chat template in llama.cpp; its score may
be lower than the checkpoint's by no more than a margin. The *forced walk*, for F16: on the same token ids,
llama.cpp's most likely next token must be the checkpoint's wherever the checkpoint is not undecided, and as likely; and
it must cut the prompts into the same ids.
The exam sees a broken template or a vocabulary out of step; the walk sees a wrong norm or rotation that the exam's
noise would hide.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, NamedTuple

from metier.evaluate.significance import Comparison
from metier.progress import track
from metier.run.engine import Engine

MARGIN_NATS = 0.05
"""Below this lead of the best token over the second the checkpoint counts as undecided."""

AGREEMENT = 0.995
"""Least share of decided positions where both name the same token."""


GAP_NATS = 0.02
"""Largest mean difference of the log-probabilities that both give to the same token."""


class Decided(NamedTuple):
    """A position where the checkpoint is not undecided."""

    ids: list[int]
    """What stands before."""
    token: int
    """The checkpoint's most likely next id."""
    logprob: float
    """Its log-probability, in nats."""


class Cut(NamedTuple):
    """A text, and the ids that the checkpoint's tokenizer cuts it into, names of special tokens read as text."""

    text: str
    ids: list[int]


@dataclass(frozen=True)
class Walk:
    """How often checkpoint and file name the same next token on the same ids, and how equally likely."""

    positions: int
    """Decided positions compared."""
    agreed: int
    gap_nats: float | None
    """Mean absolute difference of the token's log-probability where both name the same; None if the file tells none."""
    cut_otherwise: tuple[str, ...] = ()
    """Texts that the file cuts into other ids than the checkpoint's tokenizer."""

    @property
    def agreement(self) -> float:
        """Share of positions where both agree, from 0 to 1."""
        return self.agreed / self.positions if self.positions else 0.0

    @property
    def passed(self) -> bool:
        """Whether the file is the same function as the checkpoint."""
        near = self.gap_nats is not None and self.gap_nats <= GAP_NATS
        return self.agreement >= AGREEMENT and near and not self.cut_otherwise

    def to_json(self) -> dict[str, Any]:
        """Return the walk as JSON-able values."""
        return {
            **asdict(self),
            "cut_otherwise": [*self.cut_otherwise],
            "agreement": round(self.agreement, 5),
            "passed": self.passed,
        }


def exam_passed(comparison: Comparison, margin: float) -> bool:
    """Whether the file's 95% lower bound, file minus checkpoint, stays above minus the margin, in points."""
    return comparison.low > -margin


def walk(engine: Engine, decided: Sequence[Decided], cuts: Sequence[Cut] = ()) -> Walk:
    """Ask the file for its most likely next token after the same ids, and how likely it is; let it cut the texts."""

    def best(ids: list[int]) -> tuple[int, float | None]:
        found = engine.complete(ids, max_tokens=1, probabilities=1)
        # llama.cpp names no probability for the first byte of a character, only the token.
        return found.top[0] if found.top else (found.token_ids[0], None)

    answers = track(
        engine.many(best, [place.ids for place in decided]), "walking beside the checkpoint", total=len(decided)
    )
    agreed = [
        (place, logprob) for place, (token, logprob) in zip(decided, answers, strict=True) if token == place.token
    ]
    gaps = [abs(place.logprob - logprob) for place, logprob in agreed if logprob is not None]
    otherwise = tuple(cut.text for cut in cuts if engine.tokenize(cut.text, special=False) != cut.ids)
    return Walk(len(decided), len(agreed), round(fmean(gaps), 5) if gaps else None, otherwise)
