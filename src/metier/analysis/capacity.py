"""Which choices find no room: the two capacity rules of OpenMoE, applied to choices that were made without one.

Sources: ``flaxformer``'s ``TokensChooseMaskedRouter`` (rule "jax", with which OpenMoE was trained) and ColossalAI's
``MoeRouter`` (rule "pytorch", with which it was released). They differ by about a factor of K.
"""

# N = tokens of a group, in order: earlier row first, then earlier position; K = choices of a token, best first

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Rule = Literal["jax", "pytorch"]
RULES: tuple[Rule, ...] = get_args(Rule)
LEAST = 4
"""Both rules give an expert room for at least so many choices."""


def capacity(rule: Rule, factor: float, tokens: int, experts: int, chosen: int) -> int:
    """Return how many choices an expert has room for, among all choices of a group of tokens.

    jax: ``max(round(factor * tokens / experts), 4)``. pytorch: ``floor(chosen * factor * tokens / experts)``, made
    even by adding one, and at least 4.
    """
    if rule == "jax":
        return max(round(factor * tokens / experts), LEAST)
    room = math.floor(chosen * factor * tokens / experts)
    return max(room + room % 2, LEAST)


def kept(experts_NK: NDArray[np.int64], room: int) -> NDArray[np.bool_]:
    """Return which choices of a group find room, under either rule.

    All first choices come before all second choices, and among them earlier tokens before later ones. The n-th
    choice of an expert is kept if n is at most the room.

    Args:
        experts_NK: the chosen experts, best first.
        room: how many choices an expert takes.
    """
    asked_M = experts_NK.T.ravel()  # first choices of all tokens, then second choices, ...
    by_expert_M = np.argsort(asked_M, kind="stable")
    sorted_M = asked_M[by_expert_M]
    begin_M = np.searchsorted(sorted_M, sorted_M, side="left")
    kept_M = np.empty(len(asked_M), bool)
    kept_M[by_expert_M] = np.arange(len(asked_M)) - begin_M < room
    return kept_M.reshape(experts_NK.shape[::-1]).T
