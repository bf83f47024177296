"""What comparing rows needs to know of them, in files: which sides are equal, and the 3-grams of every side."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from metier.data.columns import Column
from metier.data.records import Record
from metier.data.similarity import Grams, Ints, comparable

BATCH = 20_000
"""Rows handled at a time."""

Bits = np.typing.NDArray[np.bool_]


class Compared:
    """Rows as comparisons see them; a row goes by its number, in the order of appending.

    Args:
        folder: where the files go.
    """

    def __init__(self, folder: Path) -> None:
        self.grams = Grams(folder, "input"), Grams(folder, "output")
        self._hashes = tuple(Column(folder / f"{side}.hashes", np.uint64, 2) for side in ("input", "output"))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Add rows, given both sides in the form of `comparable`."""
        for side, texts in enumerate((inputs, outputs)):
            self.grams[side].append(texts)
            digests = b"".join(blake2b(t.encode("utf-8", "surrogatepass"), digest_size=16).digest() for t in texts)
            self._hashes[side].append(np.frombuffer(digests, dtype=np.uint64))
        self._count += len(inputs)

    def hashes(self, side: int) -> Any:
        """Return a 128-bit hash of every row's side, as two numbers: equal texts, equal hashes."""
        return self._hashes[side].read()

    def repeats(self, rows: Ints, sides: Sequence[int] = (0, 1)) -> Ints:
        """Return those of the rows that equal an earlier one of them in all these sides."""
        keys = [self.hashes(side)[rows, half] for side in sides for half in (0, 1)]
        order = np.lexsort(keys)
        again = np.ones(max(len(rows) - 1, 0), dtype=bool)
        for key in keys:
            again &= key[order[1:]] == key[order[:-1]]
        return rows[np.sort(order[1:][again])]  # lexsort keeps the order of equal rows

    def equal(self, side: int, rows: Ints, others: Ints) -> Bits:
        """Return for each of the rows whether its side equals that of one of the others."""
        hashes = self.hashes(side)
        wanted = {tuple(pair) for pair in hashes[others].tolist()}
        found: Bits = np.isin(hashes[rows, 0], hashes[others, 0])
        for at in np.flatnonzero(found):
            found[at] = tuple(hashes[rows[at]].tolist()) in wanted
        return found

    def close(self) -> None:
        """Close the files."""
        for hashes, grams in zip(self._hashes, self.grams, strict=True):
            hashes.close()
            grams.close()


@contextmanager
def compared(records: Iterable[Record]) -> Iterator[Compared]:
    """Prepare records for comparing, for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="metier-") as folder:
        rows = Compared(Path(folder))
        try:
            for batch in batches(records):
                rows.append(*([comparable(record[side]) for record in batch] for side in (0, 1)))
            yield rows
        finally:
            rows.close()


def batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Yield the records, some at a time."""
    rest = iter(records)
    while batch := list(islice(rest, BATCH)):
        yield batch
