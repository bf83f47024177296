"""Everything that is remembered of a model's routing: counts, whose size does not grow with the text."""

# L = mixture layers, E = experts, K = experts a token chooses, D = texts (domains), H = the two halves of a text,
# T = positions in a row, I = token ids that are followed one by one, R = drop rules; N = tokens of a batch

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from metier.analysis.watch import Routing
from metier.model.openmoe.routing import jax_capacity, pytorch_capacity, rank_of

Group = Literal["sequence", "batch"]
GROUPS: tuple[Group, ...] = get_args(Group)
RULES = ("jax", "pytorch")
"""OpenMoE's rules of capacity: those of its training code and of the code it was released with, a factor of K apart."""
LEAST = 4
"""Both give an expert room for at least so many choices."""
OWN = "model"
"""Name of the drops a model makes itself, beside those of the simulated rules."""
DROP_RULES = (*RULES, OWN)


def room_of(rule: str, factor: float, tokens: int, experts: int, chosen: int) -> int:
    """Return how many choices an expert has room for, by one of `RULES`, among all choices of a group of tokens."""
    if rule == "jax":
        return jax_capacity(tokens, experts, factor, LEAST)
    return pytorch_capacity(tokens, experts, chosen, factor, LEAST)


@dataclass(frozen=True)
class Sizes:
    """What the counts are counted over."""

    layers: int
    experts: int
    chosen: int
    texts: int
    positions: int
    ids_I: NDArray[np.int64]
    """Token ids that are followed one by one, sorted."""


class Counts:
    """Counts of choices, by text, position, token id and pair of experts.

    Args:
        sizes: what is counted over.
        factor: capacity factor of the simulated drop rules.
        group: which tokens compete for room: those of a row, or of a batch.
    """

    def __init__(self, sizes: Sizes, factor: float, group: Group) -> None:
        self.sizes, self.factor, self.group = sizes, factor, group
        L, E, D, T = sizes.layers, sizes.experts, sizes.texts, sizes.positions
        I = len(sizes.ids_I)  # noqa: E741 -- as in the legend
        self.use_LDHE = np.zeros((L, D, 2, E), np.int64)
        self.at_LTE = np.zeros((L, T, E), np.int64)
        self.of_id_LIE = np.zeros((L, I, E), np.int32)
        self.pairs_LEE = np.zeros((L, E, E), np.int64)
        self.tokens_DT = np.zeros((D, T), np.int64)
        self.tokens_I = np.zeros(I, np.int64)
        self.dropped_RLDT = np.zeros((len(DROP_RULES), L, D, T), np.int64)
        """Choices that found no room."""
        self.lost_RLDT = np.zeros((len(DROP_RULES), L, D, T), np.int64)
        """Tokens none of whose choices found room."""
        self.weight_LK = np.zeros((L, sizes.chosen))
        """Sum over tokens of the weight of the best, second, ... choice."""
        self.mass_L = np.zeros(L)
        """Sum over tokens of the probability of the chosen experts."""
        self.entropy_L = np.zeros(L)
        """Sum over tokens of the entropy of the router's probabilities, in nats."""
        self.has_own_drops = False

    @property
    def tokens(self) -> int:
        """Tokens counted."""
        return int(self.tokens_DT.sum())

    def add(self, text: int, half: int, ids_BT: NDArray[Any], routings: list[Routing]) -> None:
        """Count one batch of rows of equal length.

        Args:
            text: number of the text the rows are of.
            half: 0 or 1: the half of the text, by which chance differences are estimated.
            ids_BT: the rows' token ids.
            routings: what each layer decided, for the tokens row after row.
        """
        rows, width = ids_BT.shape
        ids_N = ids_BT.ravel().astype(np.int64)
        at_N = np.tile(np.arange(width), rows)
        slot_N = np.searchsorted(self.sizes.ids_I, ids_N)
        known_N = slot_N < len(self.sizes.ids_I)
        known_N[known_N] = self.sizes.ids_I[slot_N[known_N]] == ids_N[known_N]
        self.tokens_DT[text, :width] += rows
        np.add.at(self.tokens_I, slot_N[known_N], 1)
        for layer, seen in enumerate(routings):
            self._add_choices(layer, text, half, at_N, slot_N, known_N, seen)
            self._add_confidence(layer, seen)
            self._add_drops(layer, text, rows, width, seen)

    def _add_choices(
        self,
        layer: int,
        text: int,
        half: int,
        at_N: NDArray[Any],
        slot_N: NDArray[Any],
        known_N: NDArray[np.bool_],
        seen: Routing,
    ) -> None:
        E = self.sizes.experts
        self.use_LDHE[layer, text, half] += np.bincount(seen.experts_NK.ravel(), minlength=E)
        chosen_NE = np.zeros((len(at_N), E), np.float32)
        np.put_along_axis(chosen_NE, seen.experts_NK, 1, axis=1)
        self.pairs_LEE[layer] += np.rint(chosen_NE.T @ chosen_NE).astype(np.int64)
        for choice_N in seen.experts_NK.T:
            np.add.at(self.at_LTE[layer], (at_N, choice_N), 1)
            np.add.at(self.of_id_LIE[layer], (slot_N[known_N], choice_N[known_N]), 1)

    def _add_confidence(self, layer: int, seen: Routing) -> None:
        p_NE = seen.probabilities_NE.astype(np.float64)
        self.weight_LK[layer] += seen.weights_NK.sum(0, dtype=np.float64)
        self.mass_L[layer] += np.take_along_axis(p_NE, seen.experts_NK, 1).sum()
        self.entropy_L[layer] -= (p_NE * np.log(np.maximum(p_NE, 1e-30))).sum()

    def _add_drops(self, layer: int, text: int, rows: int, width: int, seen: Routing) -> None:
        E, K = self.sizes.experts, self.sizes.chosen
        groups = rows if self.group == "sequence" else 1
        rank_NK = rank_of(torch.from_numpy(seen.experts_NK), E, groups).numpy()
        for number, rule in enumerate(RULES):
            kept_NK = rank_NK < room_of(rule, self.factor, rows * width // groups, E, K)
            self._add_kept(number, layer, text, kept_NK.reshape(rows, width, K))
        if seen.kept_NK is not None:
            self.has_own_drops = True
            self._add_kept(DROP_RULES.index(OWN), layer, text, seen.kept_NK.reshape(rows, width, K))

    def _add_kept(self, rule: int, layer: int, text: int, kept_BTK: NDArray[np.bool_]) -> None:
        width = kept_BTK.shape[1]
        self.dropped_RLDT[rule, layer, text, :width] += (~kept_BTK).sum((0, 2))
        self.lost_RLDT[rule, layer, text, :width] += (~kept_BTK.any(2)).sum(0)
