"""Layouts of row files: files to (input, output) pairs, as a stream.

TSV is split on tabs and knows no quotes; CSV follows Python's strict ``csv``; JSONL holds one object (or
array) a line; Moses is two files whose lines belong together. Of plain text a row is a paragraph, up to an empty line,
or a line.
"""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from metier.data.encodings import text_of
from metier.data.tables import Row, Table, position
from metier.errors import DataError
from metier.spec.job import AnySource, TextSource

_LAYOUTS = {".tsv": "tsv", ".tab": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


class File(NamedTuple):
    """A file to read, and what messages call it."""

    path: Path
    name: str


def parse(source: AnySource, files: Sequence[File]) -> Table:
    """Return the pairs in a file, or in two Moses files, to be read as they are asked for.

    Args:
        source: says layout, columns, header, missing text and encoding.
        files: the files.

    Raises:
        DataError: when a file is empty, wrongly encoded or half-written, or does not have the columns; now or while
            its pairs are read.
    """
    name = files[0].name
    layout = source.format or ("moses" if len(files) > 1 else _guess(name, isinstance(source, TextSource)))
    texts = [_lines(file, source.encoding) for file in files]
    if layout == "paragraphs":
        return Table(_paragraphs(texts[0]), 0, 0, name, source.missing)
    if layout == "lines":
        return Table(((number, [line]) for number, line in enumerate(texts[0], 1)), 0, 0, name, source.missing)
    if layout == "moses":
        return Table(_moses(files, texts), 0, 1, name)
    if layout == "jsonl":
        first, second = (c - 1 if isinstance(c, int) else c for c in (source.input, source.output))
        return Table(_jsonl(name, texts[0]), first, second, name, source.missing)
    rows = _csv(files[0], source.encoding) if layout == "csv" else _tsv(texts[0])
    titles = _titles(name, rows) if (source.header if source.header is not None else layout == "csv") else None
    first, second = (position(name, column, titles) for column in (source.input, source.output))
    return Table(rows, first, second, name, source.missing)


def _guess(name: str, plain_text: bool) -> str:
    suffix = Path(name).suffix.lower()
    layout = "paragraphs" if plain_text and suffix == ".txt" else _LAYOUTS.get(suffix)
    if layout is None:
        known = '"paragraphs", "lines", "tsv", "csv" or "jsonl"' if plain_text else '"tsv", "csv", "jsonl" or "moses"'
        raise DataError(name, "its name does not tell its layout", f"Set format = {known}")
    return layout


def _titles(name: str, rows: Iterator[Row]) -> list[str]:
    titles: list[str] = next(rows, (1, []))[1]
    if not any(titles):
        raise DataError(name, "is empty", "Write rows into it, or remove the source")
    return titles


def _lines(file: File, encoding: str) -> Iterator[str]:
    # Not splitlines(): it also breaks at characters that occur inside sentences, such as U+2028 and U+0085.
    with text_of(file.path, file.name, encoding, newline="\n") as text:
        for line in text:
            yield line.removesuffix("\n").removesuffix("\r")


def _paragraphs(texts: Iterable[str]) -> Iterator[Row]:
    lines: list[str] = []
    number = 0
    for number, line in enumerate(texts, 1):
        if line.strip():
            lines.append(line)
        elif lines:
            yield number - len(lines), ["\n".join(lines)]
            lines = []
    if lines:
        yield number + 1 - len(lines), ["\n".join(lines)]


def _tsv(texts: Iterable[str]) -> Iterator[Row]:
    return ((number, line.split("\t")) for number, line in enumerate(texts, 1))


def _csv(file: File, encoding: str) -> Iterator[Row]:
    before = csv.field_size_limit(sys.maxsize)  # a long cell is for the cleaning to judge
    line = 1
    try:
        with text_of(file.path, file.name, encoding, newline="") as text:
            reader = csv.reader(text, strict=True)
            for cells in reader:
                yield line, cells
                line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{file.name}, line {line}", f"the row that starts here is not CSV ({error})", "Mend or remove the row"
        ) from error
    finally:
        csv.field_size_limit(before)


def _jsonl(name: str, texts: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(texts, 1):
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


def _moses(files: Sequence[File], texts: Sequence[Iterator[str]]) -> Iterator[Row]:
    if len(texts) != 2:
        raise DataError(files[0].name, "Moses text comes in two files", "Write 'file:A,B'")
    number = 0
    for number, (one, two) in enumerate(zip_longest(*texts), 1):
        if one is None or two is None:
            rest = sum(1 for text in texts for _ in text) + 1
            counts = (number - 1, number - 1 + rest) if one is None else (number - 1 + rest, number - 1)
            raise DataError(
                f"{files[0].name} and {files[1].name}",
                f"have {counts[0]} and {counts[1]} lines, so their lines do not belong together",
                "Use two files with the same number of lines",
            )
        yield number, [one, two]
