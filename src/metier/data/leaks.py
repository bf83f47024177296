"""Rows that give an exam away: the same sentence, or nearly, on either side (or on the input's alone)."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from metier.data.compared import Compared, compared
from metier.data.records import Record, each_record
from metier.data.similarity import Ints, comparable, similar_pairs
from metier.progress import track

Sides = Literal["either", "input"]
"""Where leaks are looked for: labels and amounts come again as outputs without giving anything away."""

QUOTED_CHARS = 20
"""Shortest exam text that is looked for inside documents."""

REASONS = ("equal input", "equal output", "near input", "near output")


def leaks(rows: Iterable[Record], exam: Sequence[Record], similarity: float, sides: Sides = "either") -> dict[int, str]:
    """Return the rows that leak an exam: index to reason, the first of `REASONS` that holds; see `leaking`."""
    with compared(chain(exam, rows)) as all_rows:
        numbers = np.arange(len(all_rows))
        found = leaking(all_rows, numbers[len(exam) :], numbers[: len(exam)], similarity, sides)
    return {int(index): REASONS[found[index]] for index in np.flatnonzero(found >= 0)}


def leaking(
    compared: Compared, rows: Ints, exam: Ints, similarity: float, sides: Sides = "either"
) -> npt.NDArray[np.int8]:
    """Return for each of the rows the place in `REASONS` of the first that holds, or -1.

    A row leaks when, in the form of `metier.data.similarity.comparable`, its input equals an exam row's input
    or its output an exam row's output, or when either has a 3-gram Jaccard similarity of at least
    ``similarity`` with it; with ``sides`` "input", the outputs are not looked at. Exact: as if every row were
    compared with every exam row.
    """
    found = np.full(len(rows), -1, dtype=np.int8)
    looked_at = (0, 1) if sides == "either" else (0,)
    for side in looked_at:
        found[(found < 0) & compared.equal(side, rows, exam)] = side
    for side in looked_at:
        left = np.flatnonzero(found < 0)
        questions = exam[~np.isin(exam, compared.repeats(exam, [side]))]
        what = f"leaks of {('inputs', 'outputs')[side]}"
        for hits, _ in similar_pairs(compared.grams[side], rows[left], questions, similarity, what):
            found[left[hits]] = 2 + side
    return found


def quoting(documents: Sequence[str], exam: Sequence[str]) -> list[int]:
    """Return the indices of documents that hold a whole exam text, in the form of `comparable`.

    Exam texts of fewer than `QUOTED_CHARS` characters are not looked for: they occur anywhere by chance.
    """
    texts: dict[int, list[str]] = defaultdict(list)
    for text in {comparable(text) for text in exam}:
        if len(text) >= QUOTED_CHARS:
            texts[int(_windows(text)[0])].append(text)
    # Nearly every place is ruled out by a table look-up on 20 bits of its hash.
    likely = np.zeros(1 << 20, dtype=bool)
    likely[[start >> 44 for start in texts]] = True
    found = []
    for index, document in enumerate(track(documents, "looking for quotations")):
        where = comparable(document)
        windows = _windows(where)
        places = np.flatnonzero(likely[windows >> np.uint64(44)]).tolist()
        if any(where.startswith(text, at) for at in places for text in texts.get(int(windows[at]), ())):
            found.append(index)
    return found


def _windows(text: str) -> npt.NDArray[np.uint64]:
    """Return a hash of every run of `QUOTED_CHARS` characters: equal runs, equal hashes."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    hashes = np.zeros(max(len(codes) - QUOTED_CHARS + 1, 0), dtype=np.uint64)
    for at in range(QUOTED_CHARS):
        hashes = hashes * np.uint64(1099511628211) + codes[at : at + len(hashes)]
    return hashes


def count_leaks(
    exam: Sequence[Record], train: Path | Sequence[Record], similarity: float, sides: Sides = "either"
) -> int:
    """Return how many exam rows are given away by the training rows (or by the file of them).

    For test sets from elsewhere, which the data step did not clear from the training rows.
    """
    rows = each_record(train) if isinstance(train, Path) else train
    with compared(chain(exam, rows)) as all_rows:
        numbers = np.arange(len(all_rows))
        found = leaking(all_rows, numbers[: len(exam)], numbers[len(exam) :], similarity, sides)
    return int((found >= 0).sum())
