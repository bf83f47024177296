"""What routing counts say: every measure with its formula, its source, and what chance alone would give.

OpenMoE is arXiv 2402.01739 (section 4 and appendix E), OLMoE is arXiv 2409.02060 (section 5).
"""

# E = experts, K = experts a token chooses, G = groups of tokens (texts, positions or token ids), n = tokens of a group

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[Any]
Shares = NDArray[np.float64]


def ratios(counts_GE: Counts) -> Shares:
    """Return each group's routing ratio: choices of an expert / all choices of the group's tokens.

    OpenMoE calls it "ratio of tokens routed to the i-th expert"; it sums to 1 over the experts. Empty groups give
    zeros.
    """
    counts = np.asarray(counts_GE, np.float64)
    shares: Shares = counts / np.maximum(counts.sum(-1, keepdims=True), 1)
    return shares


def spread(counts_GE: Counts) -> Shares:
    """Return each group's specialisation: the standard deviation over experts of its routing ratio.

    OpenMoE, appendix E. 0 is a group spread evenly over the experts.
    """
    deviations: Shares = ratios(counts_GE).std(axis=-1)
    return deviations


def largest_spread(experts: int, chosen: int) -> float:
    """Return the spread of a group whose tokens all go to the same K experts.

    ``sqrt(K * (1/K)^2 / E - 1/E^2)``: K experts have ratio 1/K, the others 0, the mean is 1/E.
    """
    return float(np.sqrt(max(1 / (chosen * experts) - 1 / experts**2, 0)))


def chance_spread(tokens_G: Counts, experts: int, chosen: int) -> Shares:
    """Return the spread that uniform routing shows because a group has only n tokens.

    A token picks K of E experts at random, so an expert's count is binomial with p = K/E, and its ratio has variance
    ``p (1 - p) / (n K^2) = (1/(K E) - 1/E^2) / n``: the largest spread divided by ``sqrt(n)`` (root mean square).
    """
    tokens = np.maximum(np.asarray(tokens_G, np.float64), 1)
    expected: Shares = largest_spread(experts, chosen) / np.sqrt(tokens)
    return expected


class Specialisation(NamedTuple):
    """How far groups of tokens (all of one id, or of one position) have experts of their own."""

    groups: int
    """Groups with enough tokens."""
    mean: float
    """Mean over the groups of the spread, as a share of the largest possible."""
    low: float
    high: float
    """Tenth and ninetieth percentile of the same."""
    chance: float
    """What uniform routing would show with these numbers of tokens."""
    load: float
    """What a group would show that is routed like the average token: unequal load alone."""


def specialisation(counts_GE: Counts, tokens_G: Counts, overall_E: Counts, chosen: int) -> Specialisation:
    """Return the context-independent specialisation of groups of tokens, as shares of its maximum.

    Args:
        counts_GE: choices of each expert, by group; every group must have tokens.
        tokens_G: the groups' tokens.
        overall_E: choices of each expert, of all tokens.
        chosen: experts a token chooses.
    """
    experts = counts_GE.shape[1]
    largest = largest_spread(experts, chosen) or 1.0  # with K = E there is nothing to choose: 0 of 1
    share_G = spread(counts_GE) / largest
    low, high = np.quantile(share_G, [0.1, 0.9])
    return Specialisation(
        groups=len(share_G),
        mean=float(share_G.mean()),
        low=float(low),
        high=float(high),
        chance=float(chance_spread(tokens_G, experts, chosen).mean() / largest),
        load=float(spread(overall_E) / largest),
    )


def vocabulary_specialisation(counts_GE: Counts, tokens_G: Counts) -> float:
    """Return the mean over token ids of the largest share of an id's tokens that one expert gets.

    OLMoE: ``N(x, i) / N(x)`` for token id x and expert i. Uniform routing gives K/E, and somewhat more when an id
    has few tokens.
    """
    return float((np.asarray(counts_GE).max(1) / np.asarray(tokens_G)).mean())


def distance(one_E: Counts, other_E: Counts) -> float:
    """Return the part of the choices that would have to move to make two uses of the experts equal.

    Total variation of the routing ratios: ``1/2 sum_i |r_i - s_i|``; 0 is equal, 1 is no expert in common.
    """
    return float(np.abs(ratios(one_E) - ratios(other_E)).sum() / 2)


class Balance(NamedTuple):
    """How evenly the experts are used."""

    max_over_mean: float
    variation: float
    """Coefficient of variation: standard deviation over mean."""
    variation_chance: float
    """What uniform routing would show with so many tokens."""
    unused: int
    """Experts that no token chose."""


def balance(use_E: Counts, tokens: int, chosen: int) -> Balance:
    """Return the load balance of a layer's experts."""
    experts = len(use_E)
    chance = float(chance_spread(np.array(tokens), experts, chosen)) * experts
    return Balance(
        max_over_mean=float(use_E.max() / use_E.mean()),
        variation=float(use_E.std() / use_E.mean()),
        variation_chance=chance,
        unused=int((use_E == 0).sum()),
    )


def chance_drops(tokens: int, room: int, experts: int, chosen: int) -> float:
    """Return the share of the choices that find no room when every token picks K of E experts at random.

    ``E / (n K) * E[max(0, X - room)]`` for n tokens that compete, where X, an expert's choices, is binomial with
    p = K/E. Even routing would drop ``max(0, 1 - room E / (n K))``; chance drops more, for it fills some experts first.
    """
    if chosen == experts:
        return max(0.0, 1 - room / tokens)
    p = chosen / experts
    logs = np.concatenate([[0.0], np.log(np.arange(1, tokens + 1)).cumsum()])  # log n!
    x = np.arange(tokens + 1)
    share_X = np.exp(logs[-1] - logs - logs[::-1] + x * np.log(p) + (tokens - x) * np.log1p(-p))
    return float((share_X * np.maximum(x - room, 0)).sum() * experts / (tokens * chosen))


def coactivation(pairs_EE: Counts) -> Shares:
    """Return, for experts i and j, the share of i's tokens that also go to j; the diagonal is 0.

    OLMoE: ``N(i, j) / N(i)``. Independent, even choices give ``(K - 1) / (E - 1)``.

    Args:
        pairs_EE: tokens that chose both; on the diagonal, tokens that chose the expert.
    """
    pairs = np.asarray(pairs_EE, np.float64)
    shares: Shares = pairs / np.maximum(pairs.diagonal(), 1)[:, None]
    np.fill_diagonal(shares, 0)
    return shares


def binned(values_XT: Counts, width: int) -> Counts:
    """Return sums over bins of so many neighbouring positions (the last axis); the last bin may be narrower."""
    starts = np.arange(0, values_XT.shape[-1], width)
    sums: Counts = np.add.reduceat(values_XT, starts, axis=-1)
    return sums
