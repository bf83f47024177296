"""Rows to pairs: the two columns of a source, as a stream, with every row that is left out counted."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from metier.errors import DataError

RARE = 0.1
"""Up to this share of rows may lack a column and be left out; above it, the columns are set wrongly."""


class LeftOut(str):
    """In a row's place: why a reader leaves it out."""

    __slots__ = ()


Row = tuple[int, Any]
"""A line number, counted from 1, and that line's cells: a list, or an object of JSON; or why it is `LeftOut`."""


class Table:
    """What a source holds, read once: its pairs, the number of rows read, and the rows left out by reason.

    The numbers are whole when all pairs were read.

    Args:
        rows: the rows; a cell is found by position from 0, or by key (dots reach inside).
        first: the column of the inputs.
        second: the column of the outputs.
        name: of the file, for messages.
        missing: the text that stands for no value, if there is one.
    """

    def __init__(
        self, rows: Iterable[Row], first: int | str, second: int | str, name: str, missing: str | None = None
    ) -> None:
        self.read = 0
        self.removed: Counter[str] = Counter()
        self._rows, self._columns, self._name, self._missing = rows, (first, second), name, missing

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield the pairs.

        Raises:
            DataError: when there are no rows, or more than a `RARE` share of them lacks a column.
        """
        first, second = self._columns
        misfit = ""
        for line, cells in self._rows:
            self.read += 1
            if isinstance(cells, LeftOut):
                self.removed[str(cells)] += 1
                continue
            if cells == [] or cells == [""]:
                self.removed["blank line"] += 1
                continue
            try:
                one, two = _cell(cells, first), _cell(cells, second)
            except LookupError:
                self.removed["column missing"] += 1
                misfit = misfit or f"line {line}: {_seen(cells)}"
                continue
            if one is None or two is None or (self._missing is not None and self._missing in (one, two)):
                self.removed["value missing"] += 1
            elif not (isinstance(one, str) and isinstance(two, str)):
                self.removed["not text"] += 1
            else:
                yield one, two
        self._check(misfit)

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """All pairs at once, for what is small."""
        return list(self)

    def _check(self, misfit: str) -> None:
        filled = self.read - self.removed["blank line"]
        lacking = self.removed["column missing"]
        if not filled:
            raise DataError(self._name, "holds no rows", "Write rows into it, or remove the source")
        if lacking > RARE * filled:
            asked = " and ".join(repr(c + 1 if isinstance(c, int) else c) for c in self._columns)
            raise DataError(
                f"{self._name}, {misfit}",
                f"{lacking} of {filled} rows do not have the columns {asked}",
                "Set format, header, input and output to the file's layout",
            )


def position(name: str, column: int | str, titles: list[str] | None) -> int:
    """Return a column's position from 0, given by number from 1 or by title.

    Raises:
        DataError: when no title is the column's.
    """
    if isinstance(column, int):
        return column - 1
    if titles is None:
        raise DataError(
            name, f"column {column!r} is a name but no row names the columns", "Set header = true or a number"
        )
    column, stripped = column.strip(), [title.strip() for title in titles]
    if column in stripped:
        return stripped.index(column)
    near = get_close_matches(column, stripped, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"It has: {', '.join(stripped[:20])}"
    raise DataError(name, f"has no column named {column!r}", hint)


def key_of_column(name: str, column: int | str, names: list[str]) -> str:
    """Return a column's name, given by number from 1 or by name; what follows a dot is inside the column.

    Raises:
        DataError: when there is no such column.
    """
    if isinstance(column, int) and 1 <= column <= len(names):
        return names[column - 1]
    if isinstance(column, int) or head(column, names) not in names:
        raise DataError(name, f"has no column {column!r}", f"It has: {', '.join(names)}")
    return column


def head(column: str, names: list[str]) -> str:
    """Return the column that a name with dots reaches into."""
    return column if column in names else column.partition(".")[0]


def _cell(cells: Any, column: int | str) -> Any:
    if isinstance(column, int):
        if not isinstance(cells, list):
            raise LookupError
        return cells[column]
    if not isinstance(cells, Mapping):
        raise LookupError
    if column in cells:
        return cells[column]
    first, dot, rest = column.partition(".")
    if not dot:
        raise LookupError
    return _cell(cells[first], rest)


def _seen(cells: Any) -> str:
    if isinstance(cells, Mapping):
        return f"keys {', '.join(str(key) for key in list(cells)[:20])}"
    return f"{len(cells)} column(s)" if isinstance(cells, list) else f"a {type(cells).__name__}"
