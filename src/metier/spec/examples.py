"""Look at a file of examples: how many rows there are, and which columns are input and output."""

import csv
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, Self

from metier.errors import DataError
from metier.progress import track

MIN_ROWS = 100
"""With fewer, no exam could be kept apart that says anything."""
VALIDATION_ROWS, TEST_ROWS = 1000, 500
"""Most rows of the exams, by default: of the one that a file is chosen by, and of the final one."""

_INPUTS = ("input", "source", "src", "question", "prompt", "text", "from", "instruction", "query")
_OUTPUTS = (
    "output",
    "target",
    "tgt",
    "trg",
    "answer",
    "response",
    "label",
    "to",
    "completion",
    "translation",
)
_COUNTERS = ("", "#", "id", "no", "nr", "number", "index", "row")
_LABEL = re.compile(r"[^\W\d][\w .()/-]{0,39}")


class Examples(NamedTuple):
    """What a file of examples holds."""

    rows: int
    format: str
    header: bool
    columns: list[str]
    """Names of the columns; empty when the file does not name them."""
    input: int | str
    output: int | str


class Rules(NamedTuple):
    """Settings that fit some examples."""

    usable: int
    """Rows that count: clean and distinct, where that was measured."""
    share: float
    """Share of the rows for each exam."""
    validation_rows: int
    test_rows: int
    max_chars: int = 1000
    max_ratio: float = 9.0
    max_tokens: int = 256
    max_answer_tokens: int = 128
    near_duplicate: float = 0.8
    leak_similarity: float = 0.5
    leak_sides: Literal["either", "input"] = "either"
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


def look_at(path: Path, columns: Sequence[str] = ()) -> Examples:
    """Return what a csv, tsv or jsonl file holds; names of columns are guessed, for the user to check.

    Args:
        path: of the file.
        columns: that a table of this kind has, in small letters: a first row with all of them has names.

    Raises:
        DataError: when it is missing, damaged, of another format, or too small.
    """
    layout = path.suffix.lower().lstrip(".")
    if layout not in ("csv", "tsv", "jsonl"):
        raise DataError(str(path), f"the file ends in {path.suffix!r}", "Give a .csv, .tsv or .jsonl file")
    if not path.is_file():
        found = "this is a folder" if path.is_dir() else "there is no such file"
        raise DataError(str(path), found, "Give a file with one example a row")
    try:
        rows, first, firsts = _read(path, layout, texts=not columns)
    except UnicodeDecodeError as error:
        raise DataError(str(path), "not UTF-8 text", "Save the file as UTF-8") from error
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({error.strerror})", "Give a file you may read") from error
    if not rows:
        raise DataError(str(path), "the file is empty", "Give a file with one example a row")
    named = bool(columns) and {name.strip().casefold() for name in first}.issuperset(columns)
    header = layout == "jsonl" or named or _is_header(first, layout, firsts)
    rows -= 1 if header and layout != "jsonl" else 0
    if len(first) < 2:
        if layout == "jsonl":
            found = f"the first object has {len(first)} keys with a text"
            raise DataError(str(path), found, 'Write two, a number in quotes: {"text": "...", "label": "1"}')
        fix = {"csv": "Separate two columns with a comma", "tsv": "Separate two columns with a tab"}
        raise DataError(str(path), "the first row has one column", fix[layout])
    if rows < MIN_ROWS:
        raise DataError(str(path), f"{rows} rows", f"Give {MIN_ROWS} or more, a part is kept for the exams")
    if not header or not all(name.isprintable() for name in first):
        return Examples(rows, layout, header, [], 1, 2)
    if layout != "jsonl":
        first = [name.strip() for name in first]
    first = [name for name in first if name]
    if len(first) < 2:
        raise DataError(str(path), "one column alone has a name", "Write a name above each column")
    known_input, known_output = _named(first, _INPUTS), _named(first, _OUTPUTS)
    others = [name for name in first if name.strip().casefold() not in _COUNTERS]
    free = [name for name in others + first if name not in (known_input, known_output)]
    chosen_input = known_input or free[0]
    chosen_output = known_output or next(name for name in free if name != chosen_input)
    return Examples(rows, layout, True, first, chosen_input, chosen_output)


def _read(path: Path, layout: str, *, texts: bool) -> tuple[int, list[str], list[set[str]]]:
    """Return the number of rows, the first row (or the keys of objects), and the cells met below it.

    Of objects those keys count that have a text in the first one; unless ``texts`` is set, all keys of all objects do.
    """
    count, first, columns = 0, list[str](), list[set[str]]()
    for cells in track(_cells(path, layout, texts=texts), f"reading {path.name}"):
        count += 1
        if layout == "jsonl" and not texts:
            first = list(dict.fromkeys([*first, *cells]))
            continue
        if count == 1:
            first, columns = cells, [set() for _ in cells]
        elif count <= 10_000:
            for seen, cell in zip(columns, cells, strict=False):
                seen.add(cell)
    return count, first, columns


def _cells(path: Path, layout: str, *, texts: bool) -> Iterator[list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        if layout == "csv":
            reader, before = csv.reader(file, strict=True), csv.field_size_limit(sys.maxsize)
            try:
                yield from (cells for cells in reader if any(map(str.strip, cells)))
            except csv.Error as error:
                raise DataError(f"{path}, line {reader.line_num}", f"not CSV: {error}", "Mend the line") from error
            finally:
                csv.field_size_limit(before)
            return
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            yield line.rstrip("\r\n").split("\t") if layout == "tsv" else _keys(where, line, texts=texts)


def _keys(where: str, line: str, *, texts: bool) -> list[str]:
    fix = 'Write one object a line, such as {"input": "...", "output": "..."}'
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(where, f"not JSON: {error}", fix) from error
    if not isinstance(value, dict):
        raise DataError(where, "not an object", fix)
    return [key for key, cell in value.items() if isinstance(cell, str) or not texts]


def _is_header(first: list[str], layout: str, others: list[set[str]]) -> bool:
    """Tell a row of names from a row of examples: names are short, all different, and never met below.

    In a tsv names are the exception, so that one of them must be a usual one.
    """
    names = [cell.strip() for cell in first]
    if len({name.casefold() for name in names}) < len(names):
        return False
    if any(cell in seen for cell, seen in zip(first, others, strict=True)):
        return False
    if _named(first, _INPUTS) or _named(first, _OUTPUTS):
        return True
    labels = (_LABEL.fullmatch(name) or name.casefold() in _COUNTERS for name in names)
    return layout == "csv" and all(labels) and not any(name.endswith(".") for name in names)


def _named(names: list[str], usual: tuple[str, ...]) -> str | None:
    by_name = {name.strip().casefold(): name for name in reversed(names)}
    return next((by_name[word] for word in usual if word in by_name), None)
