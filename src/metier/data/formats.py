"""Layouts of row files: files to (input, output) pairs, as a stream.

TSV is split on tabs and knows no quotes; CSV follows Python's strict ``csv``; JSONL holds one object (or
array) a line; Moses is two files whose lines belong together. Of plain text a row is a paragraph, up to an empty line,
or a line.
"""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path

from metier.data.archives import File
from metier.data.catalogues import read_catalogues
from metier.data.edict import read_edict
from metier.data.encodings import text_of
from metier.data.pages import read_pages
from metier.data.parquet import read_parquet
from metier.data.tables import Row, Table, position
from metier.data.tmx import read_tmx
from metier.errors import DataError
from metier.spec.data import AnySource, TextSource

LAYOUTS = {
    ".tsv": "tsv",
    ".tab": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".tmx": "tmx",
    ".po": "po",
    ".mo": "mo",
}
"""What a file's ending says of its layout."""
_OF_PAIRS = ("tmx", "po", "mo")

csv.field_size_limit(sys.maxsize)  # a long cell is for the cleaning to judge


def parse(source: AnySource, sides: Sequence[Sequence[File]]) -> Table:
    """Return the pairs of a source, to be read as they are asked for.

    Args:
        source: says layout, columns, header, missing text and encoding.
        sides: the files; of a layout with two sides those of each side.

    Raises:
        DataError: when a file is empty, wrongly encoded or half-written, or does not have the columns; now or while
            its pairs are read.
    """
    file = sides[0][0]
    name, missing = file.name, source.missing
    layout = layout_of(source, name, len(sides))
    if layout != "csv" and source.delimiter != ",":
        raise DataError(name, f"delimiter = {source.delimiter!r} is for csv, and this is {layout}", "Remove it")
    if layout in ("po", "mo"):
        first, second = (position(name, c, ["msgid", "msgstr"]) for c in (source.input, source.output))
        return Table(read_catalogues(sides, layout), first, second, name, missing)
    if layout == "html":
        return Table(read_pages(sides, source.encoding), *_places(source), name, missing)
    if layout == "tmx":
        columns = (source.input, source.output)
        return Table(chain.from_iterable(read_tmx(each, columns) for each in sides[0]), 0, 1, name, missing)
    if len(sides[0]) > 1:
        raise DataError(name, f"is one of {len(sides[0])} files, and {layout} is read from one", "Set path to one file")
    if layout == "parquet":
        rows, names = read_parquet(file, (source.input, source.output))
        return Table(rows, *names, name, missing)
    texts = [read_lines(side[0], source.encoding) for side in sides]
    if layout == "paragraphs":
        return Table(_paragraphs(texts[0]), 0, 0, name, missing)
    if layout == "lines":
        return Table(((number, [line]) for number, line in enumerate(texts[0], 1)), 0, 0, name, missing)
    if layout == "moses":
        first, second = (position(name, c, ["1", "2"]) for c in (source.input, source.output))
        if {first, second} != {0, 1}:
            found = f"has sides 1 and 2, not {source.input!r} and {source.output!r}"
            raise DataError(name, found, "Write 1 and 2 for input and output, in the order that the job has them")
        return Table(_moses(sides, texts), first, second, name, missing)
    if layout == "edict":
        first, second = (position(name, c, ["headword", "meaning", "reading"]) for c in (source.input, source.output))
        return Table(read_edict(texts[0]), first, second, name, missing)
    if layout == "jsonl":
        return Table(read_jsonl(name, texts[0]), *_places(source), name, missing)
    rows = read_csv(file, source.encoding, source.delimiter) if layout == "csv" else read_tsv(texts[0])
    titles = titles_of(name, rows) if (source.header if source.header is not None else layout == "csv") else None
    first, second = (position(name, column, titles) for column in (source.input, source.output))
    return Table(rows, first, second, name, missing)


def layout_of(source: AnySource, name: str, sides: int) -> str:
    """Return the layout of a source: as it states, or by its number of sides, or by the name of its file.

    Raises:
        DataError: when none of them tells.
    """
    return source.format or ("moses" if sides > 1 else _guess(name, isinstance(source, TextSource)))


def _places(source: AnySource) -> tuple[int | str, int | str]:
    """Return the columns with numbers counted from 0."""
    first, second = (c - 1 if isinstance(c, int) else c for c in (source.input, source.output))
    return first, second


def _guess(name: str, plain_text: bool) -> str:
    suffix = Path(name).suffix.lower()
    layout = "paragraphs" if plain_text and suffix == ".txt" else LAYOUTS.get(suffix)
    if layout is None or (plain_text and layout in _OF_PAIRS):
        known = '"paragraphs", "lines", "tsv", "csv" or "jsonl"' if plain_text else '"tsv", "csv", "jsonl" or "moses"'
        raise DataError(name, "its name does not tell its layout", f"Set format = {known}")
    return layout


def titles_of(name: str, rows: Iterator[Row]) -> list[str]:
    """Return the first row that is not blank; raises DataError when there is none."""
    for _, titles in rows:
        if any(title.strip() for title in titles):
            return list(titles)
    raise _nothing_in(name)


def _nothing_in(name: str) -> DataError:
    return DataError(name, "is empty", "Write rows into it, or remove the source")


def read_lines(file: File, encoding: str) -> Iterator[str]:
    """Yield a file's lines without their ends; raises DataError when it is empty or not of the encoding."""
    # Not splitlines(): it also breaks at characters that occur inside sentences, such as U+2028 and U+0085.
    empty = True
    with text_of(file.path, file.name, encoding, newline="\n") as text:
        for line in text:
            empty = empty and not line.strip()
            yield line.removesuffix("\n").removesuffix("\r")
    if empty:
        raise _nothing_in(file.name)


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


def read_tsv(texts: Iterable[str]) -> Iterator[Row]:
    """Yield numbered rows of cells, split on tabs."""
    return ((number, line.split("\t")) for number, line in enumerate(texts, 1))


def read_csv(file: File, encoding: str, delimiter: str = ",") -> Iterator[Row]:
    """Yield rows of cells with the number of their first line; raises DataError at a row that is not CSV."""
    line = 1
    try:
        with text_of(file.path, file.name, encoding, newline="") as text:
            reader = csv.reader(text, delimiter=delimiter, strict=True)
            for cells in reader:
                yield line, cells
                line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{file.name}, line {line}", f"the row that starts here is not CSV ({error})", "Correct or remove the row"
        ) from error


def read_jsonl(name: str, texts: Iterable[str]) -> Iterator[Row]:
    """Yield numbered values of JSON, a blank line as no cells; raises DataError at a line that is not JSON."""
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


def _moses(sides: Sequence[Sequence[File]], texts: Sequence[Iterator[str]]) -> Iterator[Row]:
    if len(texts) != 2:
        raise DataError(sides[0][0].name, "Moses text comes in two files", "Write 'file:A,B'")
    number = 0
    for number, (one, two) in enumerate(zip_longest(*texts), 1):
        if one is None or two is None:
            rest = sum(1 for text in texts for _ in text) + 1
            counts = (number - 1, number - 1 + rest) if one is None else (number - 1 + rest, number - 1)
            raise DataError(
                f"{sides[0][0].name} and {sides[1][0].name}",
                f"have {counts[0]} and {counts[1]} lines, so their lines do not belong together",
                "Use two files with the same number of lines",
            )
        yield number, [one, two]
