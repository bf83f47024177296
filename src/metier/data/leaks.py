"""Rows that give an exam away: the same sentence, or nearly, on either side (or on the input's alone)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from metier.data.records import Record, read_records
from metier.data.similarity import comparable, gram_sets, similar_pairs

Sides = Literal["either", "input"]
"""Where leaks are looked for: labels and amounts come again as outputs without giving anything away."""

REASONS = ("equal input", "equal output", "near input", "near output")


def leaks(rows: Sequence[Record], exam: Sequence[Record], similarity: float, sides: Sides = "either") -> dict[int, str]:
    """Return the rows that leak an exam: index to reason, the first of `REASONS` that holds.

    A row leaks when, in the form of `metier.data.similarity.comparable`, its input equals an exam row's input
    or its output an exam row's output, or when either has a 3-gram Jaccard similarity of at least
    ``similarity`` with it; with ``sides`` "input", the outputs are not looked at. Exact: as if every row were
    compared with every exam row.
    """
    found: dict[int, str] = {}
    if not rows or not exam:
        return found
    near: dict[int, str] = {}
    for side in (0, 1) if sides == "either" else (0,):
        texts = [comparable(record[side]) for record in rows]
        questions = {comparable(record[side]) for record in exam}
        for index, text in enumerate(texts):
            if text in questions:
                found.setdefault(index, REASONS[side])
        # The exam comes first: grams it lacks are the rarest of all, and prune most rows at once.
        wanted, searched = gram_sets([sorted(questions)], [texts])
        what = f"leaks of {('inputs', 'outputs')[side]}"
        for hits, _ in similar_pairs(searched, wanted, similarity, what):
            for index in np.unique(hits):
                near.setdefault(int(index), REASONS[2 + side])
    return {**near, **found}


def count_leaks(
    exam: Sequence[Record], train: Path | Sequence[Record], similarity: float, sides: Sides = "either"
) -> int:
    """Return how many exam rows are given away by the training rows (or by the file of them).

    For test sets from elsewhere, which the data step did not clear from the training rows.
    """
    rows = read_records(train) if isinstance(train, Path) else train
    return len(leaks(exam, rows, similarity, sides))
