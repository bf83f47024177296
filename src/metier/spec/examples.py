"""What is found out of a newcomer's file of examples, and the settings that fit it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, Self

from metier.spec.data import Cleaning, Split
from metier.spec.outcome import TEST_ROWS, VALIDATION_ROWS, Evaluate
from metier.spec.training import Train


class Examples(NamedTuple):
    """What a file of examples holds."""

    rows: int
    format: str
    header: bool
    columns: list[str]
    """Names of the columns; empty when the file does not name them."""
    input: int | str
    output: int | str
    encoding: str = "utf-8"
    delimiter: str = ","
    """Of a csv file: what stands between two cells."""


class Rules(NamedTuple):
    """Settings that fit some examples."""

    usable: int
    """Rows that count: clean and distinct, where that was measured."""
    share: float
    """Share of the rows for each exam."""
    validation_rows: int
    test_rows: int
    max_chars: int = Cleaning().max_chars
    max_ratio: float = Cleaning().max_ratio
    max_tokens: int = Train().max_tokens
    max_answer_tokens: int = Evaluate().max_answer_tokens
    near_duplicate: float = Cleaning().near_duplicate
    leak_similarity: float = Split().leak_similarity
    leak_sides: Literal["either", "input"] = Split().leak_sides
    notes: Mapping[str, str] = MappingProxyType({})
    """What was measured, by the table of the job description it is about."""
    enough: bool = True
    """False when too few rows are left for an exam under any rule."""

    @classmethod
    def without_measuring(cls, rows: int) -> Self:
        """Return the defaults for a number of rows: each exam has the rows it surely gets.

        The split is by hash and duplicates go, so an exam comes out smaller or larger than its share: 70% can be
        counted on.
        """
        share = exam_share(rows)
        sure = int(share * rows * 0.7)
        fitted = max(20, sure)
        return cls(rows, share, *((fitted, fitted) if sure < TEST_ROWS else (VALIDATION_ROWS, TEST_ROWS)))


def exam_share(rows: int) -> float:
    """Return each exam's share: a tenth, but at least 50 and at most 400 rows, and never above 30% of them."""
    wanted = min(max(50.0, rows / 10), 400.0)
    return round(max(0.005, min(0.3, wanted / max(rows, 1))), 4)
