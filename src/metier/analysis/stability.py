"""How early routing is settled: the choices of checkpoints compared with those of the last, token by token.

Sources: OpenMoE (arXiv 2402.01739), section 4, "early routing learning"; OLMoE (arXiv 2409.02060), "router
saturation": the mean over tokens of ``|chosen(t) & chosen(T)| / K`` for a checkpoint t and the last, T.
"""

# L = mixture layers, N = tokens, K = experts a token chooses, I = token ids, E = experts, C = checkpoints

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metier.analysis.watch import Routing

CHOICES_BYTES = 256 * 2**20
"""Choices are remembered for the first tokens only, as many as fit into this."""
SETTLED = 0.9
"""Routing counts as learned when so much of it is that of the last checkpoint."""


@dataclass
class Choices:
    """The experts chosen for the first tokens of the text, in the order in which they were read."""

    experts_LNK: NDArray[np.uint16]
    filled: int = 0

    @classmethod
    def sized(cls, layers: int, chosen: int, tokens: int) -> "Choices":
        """Return an empty memory for so many tokens, or fewer where that would take too much room."""
        room = min(tokens, CHOICES_BYTES // (2 * layers * chosen))
        return cls(np.zeros((layers, room, chosen), np.uint16))

    def add(self, routings: Sequence[Routing]) -> None:
        """Remember one more batch."""
        count = min(len(routings[0].experts_NK), self.experts_LNK.shape[1] - self.filled)
        for layer, seen in enumerate(routings):
            self.experts_LNK[layer, self.filled : self.filled + count] = seen.experts_NK[:count]
        self.filled += count


@dataclass
class Agreement:
    """Counts how far choices agree with remembered ones of the same tokens."""

    reference: Choices
    tokens: int = 0
    shared_L: NDArray[np.int64] = field(init=False)
    """Number of choices that both made for the same token."""
    equal_L: NDArray[np.int64] = field(init=False)
    """Number of tokens for which both chose the same experts, in any order."""

    def __post_init__(self) -> None:
        self.shared_L = np.zeros(len(self.reference.experts_LNK), np.int64)
        self.equal_L = np.zeros_like(self.shared_L)

    def add(self, routings: Sequence[Routing]) -> None:
        """Compare one more batch."""
        count = min(len(routings[0].experts_NK), self.reference.filled - self.tokens)
        for layer, seen in enumerate(routings):
            then_NK = self.reference.experts_LNK[layer, self.tokens : self.tokens + count].astype(np.int64)
            shared_N = (seen.experts_NK[:count, :, None] == then_NK[:, None, :]).sum((1, 2))
            self.shared_L[layer] += shared_N.sum()
            self.equal_L[layer] += (shared_N == then_NK.shape[1]).sum()
        self.tokens += count

    @property
    def saturation(self) -> NDArray[np.float64]:
        """Share of a token's choices that are those of the last checkpoint, by layer."""
        shares: NDArray[np.float64] = self.shared_L / (self.tokens * self.reference.experts_LNK.shape[2])
        return shares

    @property
    def equal_share(self) -> NDArray[np.float64]:
        """Share of tokens whose choices are all those of the last checkpoint, by layer."""
        shares: NDArray[np.float64] = self.equal_L / self.tokens
        return shares


def cosines(one_IE: NDArray[Any], other_IE: NDArray[Any]) -> NDArray[np.float64]:
    """Return the cosine between two checkpoints' routing vectors of each token id (counts or ratios)."""
    one, other = one_IE.astype(np.float64), other_IE.astype(np.float64)
    lengths_I = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    found: NDArray[np.float64] = (one * other).sum(1) / lengths_I
    return found


def settled_at(saturation_C: Sequence[float]) -> int | None:
    """Return from which checkpoint on all agree with the last in more than `SETTLED` of the choices, if from any."""
    first = None
    for number, saturation in enumerate(saturation_C):
        if saturation <= SETTLED:
            first = None
        elif first is None:
            first = number
    return first
