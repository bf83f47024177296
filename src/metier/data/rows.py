"""All rows of the data step, on disk: their text, and numbers to compare, split and order them by.

In memory a row takes a few bytes, whatever its length: a million rows are prepared as a thousand are.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from metier.data.columns import Column
from metier.data.compared import Compared, batches
from metier.data.records import Record, from_line, to_line
from metier.data.scratch_folders import scratch_folder
from metier.data.similarity import Ints, comparable
from metier.data.split import position_of, seeded


class Rows:
    """Rows by number, in the order of appending.

    Args:
        folder: where the files go.
        seed: mixes the order of training rows.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.compared = Compared(folder)
        self._path = folder / "lines"
        self._lines = self._path.open("wb")
        self._end, self._seed = 0, seed
        self._number_of_source: dict[str, int] = {}
        self._ends = Column(folder / "line-ends", np.int64)
        self._sources = Column(folder / "sources", np.int32)
        self._positions = Column(folder / "positions", np.float64)
        self._orders = Column(folder / "orders", ">u8", 2)

    def __len__(self) -> int:
        return len(self.compared)

    def append(self, records: Iterable[Record]) -> Ints:
        """Add rows; return their numbers."""
        first, known = len(self), self._number_of_source
        for batch in batches(records):
            inputs, outputs = ([comparable(record[side]) for record in batch] for side in (0, 1))
            self.compared.append(inputs, outputs)
            lines = [to_line(record).encode() for record in batch]
            self._lines.writelines(lines)
            ends = self._end + np.cumsum([len(line) for line in lines])
            self._end = int(ends[-1])
            self._ends.append(ends)
            self._sources.append([known.setdefault(record.source, len(known)) for record in batch])
            self._positions.append([position_of(text) for text in inputs])
            mixed = b"".join(seeded(self._seed, row.input, row.output)[:16] for row in batch)
            self._orders.append(np.frombuffer(mixed, dtype=">u8"))
        return np.arange(first, len(self))

    def positions(self, rows: Ints) -> np.typing.NDArray[np.float64]:
        """Return where the rows' inputs stand between 0 and 1: see `metier.data.split`."""
        found: np.typing.NDArray[np.float64] = self._positions.read()[rows]
        return found

    def in_seeded_order(self, rows: Ints) -> Ints:
        """Return the rows mixed by a hash of seed and row: same rows and seed, same order."""
        orders = self._orders.read()[rows]
        return rows[np.lexsort((orders[:, 1], orders[:, 0]))]

    def in_hash_order(self, rows: Ints) -> Ints:
        """Return the rows by position: the first n are a sample that new rows hardly change."""
        keys = zip(self.positions(rows).tolist(), self.records(rows), rows.tolist(), strict=True)
        return np.array([row for _, _, row in sorted(keys)], dtype=np.int64)

    def lines(self, rows: Ints) -> Iterator[bytes]:
        """Yield the rows as lines of JSON."""
        self._lines.flush()
        ends = self._ends.read()
        starts = np.where(rows > 0, ends[np.maximum(rows, 1) - 1], 0)
        with self._path.open("rb") as file:
            for start, end in zip(starts.tolist(), ends[rows].tolist(), strict=True):
                file.seek(start)
                yield file.read(end - start)

    def records(self, rows: Ints) -> list[Record]:
        """Return the rows' records."""
        return [from_line(line.decode()) for line in self.lines(rows)]

    def sources(self, rows: Ints) -> dict[str, int]:
        """Return how many of the rows come from each source."""
        counts = np.bincount(self._sources.read()[rows], minlength=len(self._number_of_source)).tolist()
        return dict(zip(self._number_of_source, counts, strict=True))

    def are_from(self, rows: Ints, sources: Iterable[str]) -> np.typing.NDArray[np.bool_]:
        """Return for each of the rows whether it comes from one of the sources."""
        numbers = [self._number_of_source[name] for name in sources if name in self._number_of_source]
        return np.isin(self._sources.read()[rows], numbers)

    def close(self) -> None:
        """Close the files."""
        self.compared.close()
        for file in (self._lines, self._ends, self._sources, self._positions, self._orders):
            file.close()


@contextmanager
def rows_beside(folder: Path, seed: int) -> Iterator[Rows]:
    """Keep rows in a hidden folder beside the given one, for as long as the context lasts."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder.parent, f".{folder.name}-rows-") as scratch:
        rows = Rows(scratch, seed)
        try:
            yield rows
        finally:
            rows.close()
