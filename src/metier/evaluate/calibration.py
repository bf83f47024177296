"""From log-probabilities and right or wrong to a calibrated curve, a threshold with a guarantee, and what they reach.

N = answers or questions, G = groups of equal ones; S = what is said to be an answer, L = levels of confidence.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import betaincinv, expit

from metier.facts.confidence import logit

NEVER = 2.0
"""A threshold that no confidence reaches."""
LEVEL = 0.05
"""One minus the confidence of bounds and intervals."""
BINS = 15
_POINTS = 200
"""Of a curve that is shown."""
_STARTS = (2, 8)
"""A threshold is looked for from a half and from an eighth of the answers on."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rate:
    """How many of how many, with the 95% interval of Clopper and Pearson (1934) for the share, 0 to 1.

    Several rows about one subject count as fewer, see `effective`.
    """

    n: int
    count: int
    low: float
    high: float

    @classmethod
    def of(cls, flags: Sequence[bool] | Flags, subjects: Sequence[str] | None = None) -> Self:
        """Return how many flags are set; ``subjects`` says what each row is about, None that all stand alone."""
        n, count = len(flags), int(np.sum(flags))
        worth = n if subjects is None else effective(np.array(flags, bool), _numbered(subjects))
        share = count / n if n else 0.0
        low = lower_bound(share * worth, worth, LEVEL / 2)
        return cls(n, count, low, upper_bound(share * worth, worth, LEVEL / 2))

    @property
    def share(self) -> float | None:
        """The share, 0 to 1; None of nothing."""
        return self.count / self.n if self.n else None


def effective(flag_N: Flags, subject_N: npt.NDArray[np.intp]) -> float:
    """Return how many rows about different subjects would tell as much of a share as these.

    Korn and Graubard 1998 ("Confidence intervals for proportions with small expected number of positive counts
    estimated from survey data", Survey Methodology 24): n over the design effect, the variance of the share between
    subjects over that of rows that stand alone. Never more than there are subjects: where all rows but a few are alike
    that variance is not known, and one wrong answer more must not make a bound lower.
    """
    n, subjects = len(flag_N), len(np.unique(subject_N))
    if subjects == n:
        return float(n)
    share = float(flag_N.mean()) if n else 0.0
    if share in (0.0, 1.0) or subjects < 2:
        return float(subjects)
    apart_G = np.bincount(subject_N, flag_N - share)
    variance = subjects / (subjects - 1) * float(np.sum(apart_G**2)) / n**2
    return min(float(subjects), share * (1 - share) / variance) if variance else float(subjects)


def _numbered(subjects: Sequence[str]) -> npt.NDArray[np.intp]:
    return np.unique(np.array(subjects, str), return_inverse=True)[1]


def upper_bound(count: float, n: float, delta: float) -> float:
    """Return the share that the true one exceeds with a probability of at most delta (Clopper and Pearson 1934)."""
    return 1.0 if count >= n else float(betaincinv(count + 1, n - count, 1 - delta))


def lower_bound(count: float, n: float, delta: float) -> float:
    """Return the share that the true one falls below with a probability of at most delta."""
    return 0.0 if count == 0 else float(betaincinv(count, n - count + 1, delta))


def fit(logprobs: Sequence[float], right: Sequence[bool]) -> tuple[float, float]:
    """Return slope and intercept of the logistic curve from an answer's probability to that of being right.

    Platt 1999 ("Probabilistic Outputs for Support Vector Machines", section 2.2: targets drawn in from 0 and 1 by as
    much as the number of answers asks for, so that answers that are all right, or few, do not make it certain). Where
    likelier answers are less often right, the curve is flat: the probabilities say nothing.

    Args:
        logprobs: of the answers, in nats, shape (N,).
        right: whether each is right.
    """
    x_N, right_N = np.array([logit(one) for one in logprobs], float), np.array(right, bool)
    count, n = int(right_N.sum()), len(right_N)
    high, low = (count + 1) / (count + 2), 1 / (n - count + 2)
    target_N = np.where(right_N, high, low)
    mean = float(target_N.mean()) if n else 0.5
    flat = 0.0, math.log(mean / (1 - mean))
    if not n:
        return flat
    slope, intercept = minimize(_cross_entropy, flat, (x_N, target_N), "BFGS", jac=True, options={"gtol": 1e-6}).x
    return (float(slope), float(intercept)) if slope > 0 else flat


def _cross_entropy(at: Floats, x_N: Floats, target_N: Floats) -> tuple[float, Floats]:
    """Return the cross-entropy of a curve, slope and intercept, and its gradient."""
    score_N = at[0] * x_N + at[1]
    error_N = expit(score_N) - target_N
    value = float(np.sum(np.logaddexp(0, score_N) - target_N * score_N))
    return value, np.array([np.dot(error_N, x_N), np.sum(error_N)])


@dataclass(frozen=True)
class Threshold:
    """A least confidence for an answer to be given, and what it was found to keep.

    Attributes:
        value: the threshold, 0 to 1; `NEVER` where none keeps the risk.
        given: answers given on the rows it was chosen on.
        wrong: how many of them are wrong.
        wrong_bound: the share of wrong ones that is not exceeded, at 95%.
        unknown_answered: how many of the questions without an answer are answered.
        unknown_bound: their share that is not exceeded, at 95%; 0 where there is no such question.
    """

    value: float
    given: int = 0
    wrong: int = 0
    wrong_bound: float = 0.0
    unknown_answered: int = 0
    unknown_bound: float = 0.0


def threshold(
    confidences: Sequence[float],
    right: Sequence[bool],
    unknown: Sequence[bool],
    said: Sequence[bool],
    risk: float,
    subjects: Sequence[str] | None = None,
) -> Threshold:
    """Return the least threshold found that keeps two risks, each by a one-sided 95% bound of Clopper and Pearson.

    Several questions about one subject count as fewer, see `effective`.

    The share of wrong answers among those given, the questions mixed as they are here: fixed sequence testing
    (Angelopoulos et al. 2021, "Learn then Test", arXiv 2110.01052). From each of two starts, a half and an eighth of
    the answers, the surest first, thresholds are lowered answer by answer until one does not keep it; each start has
    half of the 5%. And the share of the questions without an answer that are answered, which only grows as the
    threshold falls: the first threshold that breaks it decides alone, so that its bound needs no correction.

    Args:
        confidences: of all answers, 0 to 1, shape (N,).
        right: whether each is right; of a question without an answer, whether it is right all the same.
        unknown: whether a question has no answer.
        said: whether the answer is one; words for not knowing are never given.
        risk: most of either share, 0 to 1.
        subjects: what each question is about; None: each about another one.
    """
    said_N, unknown_N = np.array(said, bool), np.array(unknown, bool)
    wrong_S, unknown_S = ~np.array(right, bool)[said_N], unknown_N[said_N]
    less_L, level_S = np.unique(-np.array(confidences, float)[said_N], return_inverse=True)
    levels = -less_L
    given_L, wrong_L, answered_L = (
        np.cumsum(np.bincount(level_S[kind_S], minlength=len(levels)))
        for kind_S in (np.full(len(level_S), True), wrong_S, unknown_S)
    )
    unknowns, delta = int(unknown_N.sum()), LEVEL / len(_STARTS)
    subject_N = np.arange(len(unknown_N)) if subjects is None else _numbered(subjects)
    subject_S, given_U = subject_N[said_N], np.where(said_N, confidences, -1.0)[unknown_N]
    met_L = np.cumsum(np.bincount([level_S[subject_S == one].min() for one in set(subject_S)], minlength=len(levels)))
    fewest = math.ceil(math.log(delta) / math.log1p(-risk))  # that keep the risk, if none is wrong

    def tried(at: int) -> Threshold:
        given, wrong, answered = int(given_L[at]), int(wrong_L[at]), int(answered_L[at])
        among = level_S <= at
        worth = effective(wrong_S[among], subject_S[among])
        wrong_bound = upper_bound(wrong / given * worth, worth, delta)
        worth = effective(given_U >= levels[at], subject_N[unknown_N])
        bound = upper_bound(answered / unknowns * worth, worth, LEVEL) if unknowns else 0.0
        return Threshold(float(levels[at]), given, wrong, wrong_bound, answered, bound)

    best = Threshold(NEVER)
    for part in _STARTS:
        start = max(int(np.searchsorted(given_L, len(level_S) // part)), int(np.searchsorted(met_L, fewest)))
        for at in range(start, len(levels)):
            found = tried(at)
            if found.wrong_bound > risk or found.unknown_bound > risk:
                break
            if found.given > best.given:
                best = found
    return best


@dataclass(frozen=True)
class Bin:
    """Answers of like confidence: their number, mean confidence, and how many are right."""

    mean: float
    right: Rate


@dataclass(frozen=True)
class Reliability:
    """Bins of equal numbers of answers, and the expected calibration error, 0 to 1."""

    error: float | None
    bins: tuple[Bin, ...]


def reliability(
    confidences: Sequence[float], right: Sequence[bool], subjects: Sequence[str] | None = None
) -> Reliability:
    """Return how far confidence is from the share of right answers.

    Expected calibration error: the mean over answers of the distance in their bin, with bins of equal numbers of
    sorted answers (Naeini, Cooper and Hauskrecht 2015, "Obtaining Well Calibrated Probabilities Using Bayesian
    Binning"), 15 of them as in Guo et al. 2017 (arXiv 1706.04599, equation 3). Equal confidences share a bin.

    Args:
        confidences: of each answer, 0 to 1.
        right: whether it is right.
        subjects: what it is about; None that all stand alone.
    """
    sure_N, right_N = np.array(confidences, float), np.array(right, bool)
    if not len(sure_N):
        return Reliability(None, ())
    less_N, _ = _ranks(sure_N)
    bin_N = less_N * BINS // len(sure_N)
    about_N = np.arange(len(sure_N)).astype(str) if subjects is None else np.array(subjects)
    bins = tuple(
        Bin(float(sure_N[bin_N == b].mean()), Rate.of(right_N[bin_N == b], about_N[bin_N == b].tolist()))
        for b in np.unique(bin_N)
    )
    apart = sum(abs(one.right.count - one.mean * one.right.n) for one in bins)
    return Reliability(apart / len(sure_N), bins)


@dataclass(frozen=True)
class Curve:
    """Risk by coverage: the share of wrong answers among the surest, and the area under it, 0 to 1."""

    area: float | None
    coverage: tuple[float, ...]
    risk: tuple[float, ...]


def risk_coverage(sureness: Sequence[float], right: Sequence[bool]) -> Curve:
    """Return the risk-coverage curve (El-Yaniv and Wiener 2010; Geifman and El-Yaniv 2017).

    The area is the mean risk over all numbers of given answers. Equally sure answers are mixed evenly. The curve is
    thinned out to `_POINTS`.

    Args:
        sureness: of the answers, in any unit; higher is given earlier.
        right: whether each is right.
    """
    sure_N, wrong_N = np.array(sureness, float), ~np.array(right, bool)
    n = len(sure_N)
    if not n:
        return Curve(None, (), ())
    order = np.argsort(-sure_N, kind="stable")
    _, group_N = np.unique(-sure_N[order], return_inverse=True)
    share_N = np.bincount(group_N, wrong_N[order]) / np.bincount(group_N)
    risk_N = np.cumsum(share_N[group_N]) / np.arange(1, n + 1)
    shown = np.unique(np.linspace(0, n - 1, min(_POINTS, n)).round().astype(int))
    coverage = tuple(((shown + 1) / n).tolist())
    return Curve(float(risk_N.mean()), coverage, tuple(risk_N[shown].tolist()))


@dataclass(frozen=True)
class Auroc:
    """How well confidence tells two kinds apart: 0.5 not at all, 1 entirely; None where a kind is missing."""

    value: float | None
    positive: int
    negative: int


def auroc(sureness: Sequence[float], positive: Sequence[bool]) -> Auroc:
    """Return the probability that one of the positive is surer than one of the others, ties counting half.

    The area under the ROC curve as the statistic of Mann and Whitney (1947; Hanley and McNeil 1982).
    """
    positive_N = np.array(positive, bool)
    many, others = int(positive_N.sum()), int((~positive_N).sum())
    if not many or not others:
        return Auroc(None, many, others)
    less_N, equal_N = _ranks(np.array(sureness, float))
    ranks = float((less_N + (equal_N + 1) / 2)[positive_N].sum())
    return Auroc((ranks - many * (many + 1) / 2) / (many * others), many, others)


def _ranks(value_N: Floats) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return for each value how many are less, and how many are equal to it, itself among them."""
    _, group_N, size_G = np.unique(value_N, return_inverse=True, return_counts=True)
    return (np.cumsum(size_G) - size_G)[group_N], size_G[group_N]
