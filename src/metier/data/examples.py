"""Look at a file of examples: how it is written, how many rows there are, and which columns are input and output."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from metier.data.archives import File
from metier.data.encodings import likely_encoding
from metier.data.formats import LAYOUTS, read_csv, read_jsonl, read_lines, read_tsv
from metier.data.tables import Row
from metier.errors import DataError
from metier.progress import track
from metier.spec.examples import Examples
from metier.tasks.translation import language_name

MIN_ROWS = 100
"""With fewer, no exam could be kept apart that says anything."""

_INPUTS = (
    *("input", "source", "src", "question", "prompt", "text", "from", "instruction", "query"),
    *("message", "sentence", "review", "comment", "document", "body"),
)
_OUTPUTS = (
    *("output", "target", "tgt", "trg", "answer", "response", "label", "to", "completion", "translation"),
    *("category", "class", "sentiment", "intent", "summary", "reply"),
)
_COUNTERS = ("", "#", "id", "no", "nr", "number", "index", "row")
_LABEL = re.compile(r"[^\W\d][\w .()/-]{0,39}")
_SEEN_ROWS = 1000
"""What a file is like is judged by so many of its first rows."""
_DELIMITERS, _TRIED_ROWS = (",", ";", "\t"), 50


def look_at(path: Path, languages: tuple[str, str] | None = None, columns: Sequence[str] = ()) -> Examples:
    """Return what a csv, tsv or jsonl file holds; columns are guessed, for the user to check.

    Args:
        path: of the file.
        languages: codes of a translation's two, whose columns may be named after them.
        columns: that a table of this kind has, in small letters: a first row with all of them has names.

    Raises:
        DataError: when it is missing, damaged, of another format, or too small.
    """
    layout = LAYOUTS.get(path.suffix.lower())
    if layout not in ("csv", "tsv", "jsonl"):
        raise DataError(str(path), f"the file ends in {path.suffix!r}", "Give a .csv, .tsv or .jsonl file")
    if not path.is_file():
        found = "this is a folder" if path.is_dir() else "there is no such file"
        raise DataError(str(path), found, "Give a file with one example a row")
    encoding = likely_encoding(path)
    delimiter = _delimiter(path, encoding) if layout == "csv" else ","
    rows = (cells for _, cells in track(_rows(path, layout, encoding, delimiter), f"reading {path.name}"))
    if layout == "jsonl":
        count, names, seen = _objects(path, rows, all_keys=bool(columns))
        header = True
    else:
        first = next(rows, None)
        if first is None:
            raise DataError(str(path), "the file is empty", "Give a file with one example a row")
        seen = list(islice(rows, _SEEN_ROWS))
        count = len(seen) + sum(1 for _ in rows)
        names = [cell.strip() for cell in first]
        header = {name.casefold() for name in names}.issuperset(columns) if columns else False
        header = header or _is_header(names, layout, seen, languages)
        if not header:
            count, seen = count + 1, [first, *seen]
    _check(path, layout, count, names)
    form = Examples(count, layout, header, [], 1, 2, encoding, delimiter)
    if columns:
        return form._replace(columns=[name for name in names if name] if header else [])
    return _with_columns(path, form, names, seen, languages)


def _rows(path: Path, layout: str, encoding: str, delimiter: str) -> Iterator[Row]:
    """Yield the rows of a file that are not blank."""
    file = File(path, str(path))
    if layout == "csv":
        rows = read_csv(file, encoding, delimiter)
    elif layout == "tsv":
        rows = read_tsv(read_lines(file, encoding))
    else:
        yield from (row for row in read_jsonl(file.name, read_lines(file, encoding)) if row[1] != [])
        return
    yield from (row for row in rows if any(cell.strip() for cell in row[1]))


def _delimiter(path: Path, encoding: str) -> str:
    """Return what stands between cells: that by which most rows of a csv file have as many of them, two at least."""

    def alike(delimiter: str) -> int:
        try:
            rows = [len(cells) for _, cells in islice(_rows(path, "csv", encoding, delimiter), _TRIED_ROWS)]
        except DataError:  # told when the file is read
            return 0
        return max(Counter(cells for cells in rows if cells > 1).values(), default=0)

    return max(_DELIMITERS, key=alike)


def _objects(path: Path, rows: Iterator[Any], *, all_keys: bool) -> tuple[int, list[str], list[list[str]]]:
    """Return the number of objects, the names of their texts, most frequent first, and the texts of the first ones.

    With ``all_keys`` every key of every object is a name, whatever is under it.
    """
    met: Counter[str] = Counter()
    seen: list[dict[str, Any]] = []
    count = 0
    for count, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            fix = 'Write one object a line, such as {"input": "...", "output": "..."}'
            raise DataError(f"{path}, row {count}", "is not an object", fix)
        if all_keys:
            met.update(list(row))
        elif count <= _SEEN_ROWS:
            met.update(key for key, cell in row.items() if isinstance(cell, str))
            seen.append(row)
    names = [name for name, _ in met.most_common()]
    texts = [[cell if isinstance(cell := row.get(name), str) else "" for name in names] for row in seen]
    return count, names, texts


def _check(path: Path, layout: str, rows: int, names: Sequence[str]) -> None:
    """Refuse a table without two columns, or with too few rows."""
    if len(names) < 2:
        if layout == "jsonl":
            found = f"the objects have {len(names)} keys with a text"
            raise DataError(str(path), found, 'Write two, a number in quotes: {"text": "...", "label": "1"}')
        fix = {"csv": "Separate two columns with a comma or a semicolon", "tsv": "Separate two columns with a tab"}
        raise DataError(str(path), "the first row has one column", fix[layout])
    if rows < MIN_ROWS:
        raise DataError(str(path), f"{rows} rows", f"Give {MIN_ROWS} or more, a part is kept for the exams")


def _is_header(
    names: Sequence[str], layout: str, seen: Sequence[Sequence[str]], languages: tuple[str, str] | None
) -> bool:
    """Tell a row of names from a row of examples: names are short, all different, and never met below.

    One usual name that is not met below is enough. In a tsv names are the exception, so that one of them must be one.
    """
    filled = [name for name in names if name]
    if len({name.casefold() for name in filled}) < len(filled) or len(filled) < 1:
        return False
    below: list[set[str]] = [set() for _ in names]
    for cells in seen:
        for texts, cell in zip(below, cells, strict=False):
            texts.add(cell.strip())
    fresh = [name for name, texts in zip(names, below, strict=True) if name and name not in texts]
    if any(_called(fresh, usual) for usual in _usual(languages)):
        return True
    if layout != "csv" or len(fresh) < len(filled):
        return False
    labels = (_LABEL.fullmatch(name) or name.casefold() in _COUNTERS for name in filled)
    return all(labels) and not any(name.endswith(".") for name in filled)


def _with_columns(
    path: Path,
    form: Examples,
    names: Sequence[str],
    seen: Sequence[Sequence[str]],
    languages: tuple[str, str] | None,
) -> Examples:
    """Return a form with the columns of input and output, by name where all names can be written."""
    by_name = form.header and all(name.isprintable() for name in names)
    texts = [
        [cell for cells in seen if (cell := (cells[place] if place < len(cells) else "").strip())]
        for place in range(len(names))
    ]
    usable = [place for place, found in enumerate(texts) if found and (names[place] or not by_name)]
    if len(usable) < 2:
        raise DataError(str(path), "fewer than two columns have a name and texts", "Write a name above each column")
    inputs, outputs = _usual(languages) if by_name else ((), ())
    named = [names[place] if place in usable else "" for place in range(len(names))]
    first, second = (_best(_called(named, usual), texts) for usual in (inputs, outputs))
    # numbers of rows and the like come last
    telling = [place for place in usable if names[place].casefold() not in _COUNTERS or not by_name]
    if len(usable) > 2:
        telling = [place for place in telling if not _is_counted(texts[place])]
    free = [place for place in dict.fromkeys([*telling, *usable]) if place not in (first, second)]
    first = free[0] if first is None else first
    second = next(place for place in free if place != first) if second is None else second
    if not by_name:
        return form._replace(input=first + 1, output=second + 1)
    columns = [name for name in names if name]
    return form._replace(columns=columns, input=names[first], output=names[second])


def _is_counted(texts: Sequence[str]) -> bool:
    """Return whether a column's texts are numbers that tell rows apart, or one text alone."""
    different = set(texts)
    return len(different) == 1 or (len(different) > len(texts) / 2 and all(text.isdecimal() for text in different))


def _usual(languages: tuple[str, str] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names, in small letters, by which inputs and outputs go: their languages before all."""
    if not languages:
        return _INPUTS, _OUTPUTS
    source, target = ((code.casefold(), language_name(code).casefold()) for code in languages)
    return (*source, *_INPUTS), (*target, *_OUTPUTS)


def _called(names: Sequence[str], usual: Sequence[str]) -> list[int]:
    """Return the places of the names that are usual ones, the most usual first."""
    places = {name.casefold(): place for place, name in reversed(list(enumerate(names)))}
    return [places[word] for word in usual if word in places]


def _best(places: Sequence[int], texts: Sequence[Sequence[str]]) -> int | None:
    """Return the first of several columns that is not half empty: beside instructions an input mostly is."""
    most = max((len(texts[place]) for place in places), default=0)
    return next((place for place in places if 2 * len(texts[place]) >= most), None)
