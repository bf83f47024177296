"""Layouts of row files: bytes to (input, output) pairs, with every row that is left out counted.

TSV is split on tabs and knows no quotes; CSV follows Python's strict ``csv``; JSONL holds one object (or
array) a line; Moses is two files whose lines belong together. Of plain text a row is a paragraph, up to an empty line,
or a line.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from metier.errors import DataError
from metier.spec.job import AnySource, TextSource

RARE = 0.1
"""Up to this share of rows may lack a column and be left out; above it, the columns are set wrongly."""

_LAYOUTS = {".tsv": "tsv", ".tab": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}

Row = tuple[int, Any]
"""A line number, counted from 1, and that line's cells: a list, or an object of JSON."""


class Table(NamedTuple):
    """What a source holds: its pairs, the number of rows read, and the rows left out by reason."""

    pairs: list[tuple[str, str]]
    read: int
    removed: Counter[str]


def parse(source: AnySource, names: Sequence[str], contents: Sequence[bytes]) -> Table:
    """Return the pairs in the bytes of a file, or of two Moses files.

    Args:
        source: says layout, columns, header, missing text and encoding.
        names: names of the files, for messages and for guessing the layout.
        contents: their bytes, in the same order.

    Raises:
        DataError: when a file is empty, wrongly encoded or half-written, or does not have the columns.
    """
    for name, content in zip(names, contents, strict=True):
        if not content.strip():
            raise DataError(name, "is empty", "Write rows into it, or remove the source")
    texts = [decode(name, content, source.encoding) for name, content in zip(names, contents, strict=True)]
    layout = source.format or ("moses" if len(names) > 1 else _guess(names[0], isinstance(source, TextSource)))
    if layout in ("paragraphs", "lines"):
        rows = (
            _paragraphs(texts[0]) if layout == "paragraphs" else ((n, [t]) for n, t in enumerate(_lines(texts[0]), 1))
        )
        return pick(rows, 0, 0, names[0], source.missing)
    if layout == "moses":
        return pick(_moses(names, texts), 0, 1, names[0], None)
    if layout == "jsonl":
        first, second = (c - 1 if isinstance(c, int) else c for c in (source.input, source.output))
        return pick(_jsonl(names[0], texts[0]), first, second, names[0], source.missing)
    rows = _csv(names[0], texts[0]) if layout == "csv" else _tsv(texts[0])
    header = source.header if source.header is not None else layout == "csv"
    titles: list[str] | None = next(rows, (1, []))[1] if header else None
    columns = [_position(names[0], column, titles) for column in (source.input, source.output)]
    return pick(rows, columns[0], columns[1], names[0], source.missing)


def decode(name: str, content: bytes, encoding: str) -> str:
    """Return a file's text; a byte order mark is dropped.

    Raises:
        DataError: at the first byte that is not of the encoding, or when there is no such encoding.
    """
    try:
        return content.decode("utf-8-sig" if encoding.lower() in {"utf-8", "utf8"} else encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        likely = _likely_encoding(content)
        raise DataError(
            f"{name}, line {line}",
            f"byte {error.start} is not {encoding} text",
            f'Set encoding = "{likely}"' if likely else "Set encoding to the file's own",
        ) from error
    except (LookupError, ValueError) as error:
        raise DataError(name, f"there is no text encoding {encoding!r}", 'Set encoding = "utf-8"') from error


def pick(rows: Iterable[Row], first: int | str, second: int | str, name: str, missing: str | None) -> Table:
    """Return the two columns of the rows: a cell is found by position from 0, or by key (dots reach inside).

    Raises:
        DataError: when there are no rows, or more than a `RARE` share of them lacks a column.
    """
    pairs: list[tuple[str, str]] = []
    removed: Counter[str] = Counter()
    read, misfit = 0, ""
    for line, cells in rows:
        read += 1
        if cells == [] or cells == [""]:
            removed["blank line"] += 1
            continue
        try:
            one, two = _cell(cells, first), _cell(cells, second)
        except LookupError:
            removed["column missing"] += 1
            misfit = misfit or f"line {line}: {_seen(cells)}"
            continue
        if one is None or two is None or (missing is not None and missing in (one, two)):
            removed["value missing"] += 1
        elif not (isinstance(one, str) and isinstance(two, str)):
            removed["not text"] += 1
        else:
            pairs.append((one, two))
    filled = read - removed["blank line"]
    if not filled:
        raise DataError(name, "holds no rows", "Write rows into it, or remove the source")
    if removed["column missing"] > RARE * filled:
        asked = " and ".join(repr(c + 1 if isinstance(c, int) else c) for c in (first, second))
        raise DataError(
            f"{name}, {misfit}",
            f"{removed['column missing']} of {filled} rows do not have the columns {asked}",
            "Set format, header, input and output to the file's layout",
        )
    return Table(pairs, read, removed)


def _cell(cells: Any, column: int | str) -> Any:
    if isinstance(column, int):
        if not isinstance(cells, list):
            raise LookupError
        return cells[column]
    if not isinstance(cells, Mapping):
        raise LookupError
    if column in cells:
        return cells[column]
    head, dot, rest = column.partition(".")
    if not dot:
        raise LookupError
    return _cell(cells[head], rest)


def _seen(cells: Any) -> str:
    if isinstance(cells, Mapping):
        return f"keys {', '.join(str(key) for key in list(cells)[:20])}"
    return f"{len(cells)} column(s)" if isinstance(cells, list) else f"a {type(cells).__name__}"


def _position(name: str, column: int | str, titles: list[str] | None) -> int:
    if isinstance(column, int):
        return column - 1
    if titles is None:
        raise DataError(
            name, f"column {column!r} is a name but no row names the columns", "Set header = true or a number"
        )
    stripped = [title.strip() for title in titles]
    if column in stripped:
        return stripped.index(column)
    near = get_close_matches(column, stripped, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"It has: {', '.join(stripped[:20])}"
    raise DataError(name, f"has no column named {column!r}", hint)


def _guess(name: str, plain_text: bool) -> str:
    suffix = Path(name).suffix.lower()
    layout = "paragraphs" if plain_text and suffix == ".txt" else _LAYOUTS.get(suffix)
    if layout is None:
        known = '"paragraphs", "lines", "tsv", "csv" or "jsonl"' if plain_text else '"tsv", "csv", "jsonl" or "moses"'
        raise DataError(name, "its name does not tell its layout", f"Set format = {known}")
    return layout


def _likely_encoding(content: bytes) -> str | None:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    for encoding in ("utf-8", "shift_jis", "euc_jp", "cp1252"):
        try:
            content.decode(encoding)
        except UnicodeDecodeError:
            continue
        return encoding
    return None


def _lines(text: str) -> list[str]:
    # Not splitlines(): it also breaks at characters that occur inside sentences, such as U+2028 and U+0085.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def _paragraphs(text: str) -> Iterator[Row]:
    lines: list[str] = []
    for number, line in enumerate([*_lines(text), ""], 1):
        if line.strip():
            lines.append(line)
        elif lines:
            yield number - len(lines), ["\n".join(lines)]
            lines = []


def _tsv(text: str) -> Iterator[Row]:
    return ((number, line.split("\t")) for number, line in enumerate(_lines(text), 1))


def _csv(name: str, text: str) -> Iterator[Row]:
    before = csv.field_size_limit(len(text) + 1)  # a long cell is for the cleaning to judge
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for cells in reader:
            yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{name}, line {line}", f"the row that starts here is not CSV ({error})", "Mend or remove the row"
        ) from error
    finally:
        csv.field_size_limit(before)


def _jsonl(name: str, text: str) -> Iterator[Row]:
    for number, line in enumerate(_lines(text), 1):
        if not line.strip():
            yield number, []
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{name}, line {number}",
                f"is not JSON ({error})",
                "Write the file again, or remove the line if it was only half written",
            ) from error


def _moses(names: Sequence[str], texts: Sequence[str]) -> Iterator[Row]:
    if len(texts) != 2:
        raise DataError(names[0], "Moses text comes in two files", "Write 'file:A,B'")
    first, second = (_lines(text) for text in texts)
    if len(first) != len(second):
        raise DataError(
            f"{names[0]} and {names[1]}",
            f"have {len(first)} and {len(second)} lines, so their lines do not belong together",
            "Use two files with the same number of lines",
        )
    return ((number, list(pair)) for number, pair in enumerate(zip(first, second, strict=True), 1))
