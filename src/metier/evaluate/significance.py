"""Is the difference between two contestants more than luck of the draw?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metier.evaluate.metrics import RESAMPLES, interval, row_statistics

LEVEL = 0.05
"""A difference with p below this is called significant."""


@dataclass(frozen=True)
class Comparison:
    """Contestant a minus contestant b, on the same rows.

    Attributes:
        metric: what was compared.
        difference: corpus score of a minus that of b, in points (of 100).
        low: 2.5th percentile of the resampled difference.
        high: 97.5th percentile of the resampled difference.
        p: two-sided p-value of "there is no difference".
        n: rows of the exam.
        resamples: how many exams were resampled.
    """

    metric: str
    difference: float
    low: float
    high: float
    p: float
    n: int
    resamples: int

    @property
    def beats(self) -> bool:
        """Whether contestant a is significantly better than contestant b."""
        return self.difference > 0 and self.p < LEVEL


def compare(
    metric: str,
    answers_a: Sequence[str],
    answers_b: Sequence[str],
    references: Sequence[str],
    seed: int = 0,
    *,
    language: str = "",
    groups: Sequence[str] | None = None,
) -> Comparison:
    """Compare two contestants by paired bootstrap resampling (Koehn 2004).

    Both are scored on the same resampled exams ("Statistical Significance Tests for Machine Translation
    Evaluation", EMNLP 2004). As in sacrebleu's paired bootstrap, the resampled differences, moved to mean
    zero, stand for "no difference" (Riezler and Maxwell 2005), and ``p = (count + 1) / (resamples + 1)``
    counts those at least as large as the real one. Signs are kept while centring, so that p is two-sided;
    sacrebleu 2.6 centres absolute differences, which counts about one tail and gives two equal systems
    p = 0.001.

    The bootstrap is overconfident on a handful of rows, so where only k rows (or groups) differ, p is at least
    2^(1 - k): what a coin toss for each of them would give (the sign test), the least any paired test can.

    Args:
        metric: as in `metier.evaluate.metrics.score`.
        answers_a: one answer a row.
        answers_b: one answer a row.
        references: one reference a row.
        seed: of the resamples; equal seeds give equal results.
        language: code of the answers' language, for BLEU.
        groups: names of the groups that rows belong to, which are drawn whole, as in `metier.evaluate.metrics.score`.

    Raises:
        SpecError: when there is no such metric.
        DataError: when there is no row.
        ValueError: when the numbers of answers and references differ.
    """
    a, b = (
        row_statistics(metric, answers, references, language=language).by(groups) for answers in (answers_a, answers_b)
    )
    difference, n = a.value - b.value, len(references)
    differences = a.resampled(seed) - b.resampled(seed)
    low, high = interval(differences) if len(a.rows) > 1 else (-100.0, 100.0)
    as_large = int(np.sum(np.abs(differences - differences.mean()) >= abs(difference)))
    rows_that_differ = int(np.any(a.rows != b.rows, axis=1).sum())
    p = max((as_large + 1) / (RESAMPLES + 1), min(1.0, 2.0 ** (1 - rows_that_differ)))
    return Comparison(metric, difference, low, high, p, n, RESAMPLES)
