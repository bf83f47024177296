"""Scores by sacrebleu, with an interval, the number of rows and the metric's full signature."""

import difflib
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from metier import __version__
from metier.errors import DataError, SpecError
from metier.evaluate.calibration import Rate
from metier.facts import answers as facts_answers

RESAMPLES = 1000
_MILLION = 1_000_000

# Where spaces do not part words (or not as BLEU needs them to), it counts characters. sacrebleu's 'ja-mecab'
# and 'ko-mecab' want dictionaries of their own, and a score must not depend on what else is installed.
_TOKENIZERS = dict.fromkeys(("zh", "yue", "wuu", "lzh", "nan", "hak"), "zh") | dict.fromkeys(
    ("ja", "ko", "th", "lo", "km", "my", "bo", "dz"), "char"
)


@dataclass(frozen=True)
class Score:
    """A corpus score in percent, with its 95% interval over ``n`` rows.

    It is the bootstrap's of percentiles; where all rows are right or all wrong, that of Clopper and Pearson.
    """

    metric: str
    value: float
    low: float
    high: float
    n: int
    signature: str


@dataclass(frozen=True)
class RowStatistics:
    """Sufficient statistics: summed over rows, they give the corpus score.

    ``rows`` has the shape (rows of the exam, statistics of the metric); ``score_of`` turns their sum into
    percent; ``is_share`` says that this is the mean of how right each row is.
    """

    rows: npt.NDArray[np.int64]
    score_of: Callable[[list[int]], float]
    signature: str
    is_share: bool = False

    @property
    def value(self) -> float:
        """The corpus score, in percent."""
        return self.score_of(self.rows.sum(axis=0).tolist())

    def by(self, groups: Sequence[str] | None) -> Self:
        """Return the statistics of groups of rows, such as the questions about one subject; without groups, these."""
        if groups is None:
            return self
        known: dict[str, int] = {}
        numbers = [known.setdefault(group, len(known)) for group in groups]
        rows = np.zeros((len(known), self.rows.shape[1]), dtype=np.int64)
        np.add.at(rows, numbers, self.rows)
        return replace(self, rows=rows)

    def resampled(self, seed: int) -> npt.NDArray[np.float64]:
        """Return `RESAMPLES` corpus scores of rows drawn with replacement; equal seeds draw equal rows."""
        random, n = np.random.default_rng(seed), len(self.rows)
        # Weighing each row by how often it was drawn sums the draw without copying its rows.
        times_drawn = (np.bincount(random.integers(n, size=n), minlength=n) for _ in range(RESAMPLES))
        return np.array([self.score_of((times @ self.rows).tolist()) for times in times_drawn])


def score(
    metric: str,
    answers: Sequence[str],
    references: Sequence[str],
    *,
    language: str = "",
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> Score:
    """Score answers against references.

    Args:
        metric: 'chrf2' (Popovic 2015, 2016: character n-grams to order 6, beta 2), 'bleu' (Papineni et al.
            2002), 'exact' (share of answers equal to the reference after NFKC and trimming), 'answer' (share of right
            answers: the same words, or as dates the same, `metier.facts.answers.right`) or 'f1' (mean of the words
            that answer and reference share, `metier.facts.answers.f1`).
        answers: one answer a row.
        references: one reference a row.
        language: code of the answers' language; BLEU cuts Chinese, Japanese and the like into characters.
        seed: of the 1,000 resamples (Efron 1979) behind the interval.
        groups: names of the groups that rows belong to, which are drawn whole (the cluster bootstrap; Davison and
            Hinkley 1997, section 3.8); None where each row stands alone.

    Raises:
        SpecError: when there is no such metric.
        DataError: when there is no row.
        ValueError: when the numbers of answers and references differ.
    """
    found = row_statistics(metric, answers, references, language=language)
    low, high = 0.0, 100.0  # one row says nothing about the spread of rows
    drawn = found.by(groups)
    if len(drawn.rows) > 1 and found.is_share and found.value in (0.0, 100.0):
        exact = Rate.of([found.value > 0] * len(answers), groups)  # every draw is alike, which says nothing of others
        low, high = 100 * exact.low, 100 * exact.high
    elif len(drawn.rows) > 1:
        low, high = interval(drawn.resampled(seed))
    return Score(metric, found.value, low, high, len(answers), found.signature)


def row_statistics(
    metric: str, answers: Sequence[str], references: Sequence[str], *, language: str = ""
) -> RowStatistics:
    """Return what a metric counts in each row; arguments and errors as in `score`."""
    if metric not in _COUNTERS:
        close = difflib.get_close_matches(metric.lower(), _COUNTERS, n=1, cutoff=0.5)
        fix = f"Did you mean {close[0]!r}? " if close else ""
        raise SpecError(f"metric {metric!r}", "there is no such metric", f"{fix}There are {', '.join(_COUNTERS)}")
    if len(answers) != len(references):
        raise ValueError(f"{len(answers)} answers for {len(references)} references")
    if not references:
        raise DataError("the exam", "it has no rows, so nothing can be scored", "Give the job test data")
    return _COUNTERS[metric](answers, references, language)


def interval(resampled: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the 2.5th and the 97.5th percentile."""
    low, high = np.percentile(resampled, [2.5, 97.5]).tolist()
    return low, high


def _count_chrf2(answers: Sequence[str], references: Sequence[str], language: str) -> RowStatistics:
    return _sacrebleu(CHRF(char_order=6, word_order=0, beta=2), answers, references)


def _count_bleu(answers: Sequence[str], references: Sequence[str], language: str) -> RowStatistics:
    code = language.replace("_", "-").split("-")[0].lower()
    # force: a warning that the text looks tokenized would be about a contestant's style, not about the exam
    metric = BLEU(tokenize=_TOKENIZERS.get(code, "13a"), force=True)
    return _sacrebleu(metric, answers, references)


def _by_row(share_of: Callable[[str, str], float], how: str) -> Callable[..., RowStatistics]:
    """Return what counts a share of each row, 0 to 1, whatever the language."""

    def count(answers: Sequence[str], references: Sequence[str], language: str) -> RowStatistics:
        shares = [share_of(answer, wanted) for answer, wanted in zip(answers, references, strict=True)]
        rows = np.array([[round(share * _MILLION), _MILLION] for share in shares], dtype=np.int64)
        return RowStatistics(rows, _percent, f"nrefs:1|{how}|version:metier-{__version__}", is_share=True)

    return count


def _sacrebleu(metric: BLEU | CHRF, answers: Sequence[str], references: Sequence[str]) -> RowStatistics:
    # sacrebleu keeps its statistics to itself; a test holds their corpus score to be that of corpus_score.
    rows = metric._extract_corpus_statistics(answers, [references])
    return RowStatistics(
        np.array(rows, dtype=np.int64),
        lambda totals: float(metric._compute_score_from_stats(totals).score),
        metric.get_signature().format(),
    )


def _percent(totals: list[int]) -> float:
    found, most = totals
    return 100.0 * found / most


def _equal(answer: str, wanted: str) -> bool:
    one, two = (unicodedata.normalize("NFKC", text).strip() for text in (answer, wanted))
    return one == two


_AS_FACTS = f"case:no|dates:yes|norm:squad+accents|rules:{facts_answers.RULES}"


_COUNTERS: dict[str, Callable[[Sequence[str], Sequence[str], str], RowStatistics]] = {
    "chrf2": _count_chrf2,
    "bleu": _count_bleu,
    "exact": _by_row(_equal, "case:mixed|norm:nfkc+strip"),
    "answer": _by_row(facts_answers.right, _AS_FACTS),
    "f1": _by_row(facts_answers.f1, _AS_FACTS),
}
METRICS = tuple(_COUNTERS)
