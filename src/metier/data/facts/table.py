"""Tables of one's own: a fact a row, with columns for subject, relation and value.

Dates that never were, or that can be read in two ways, are left out and counted; when more than a tenth of a table's
dates are such, the table is refused, for its columns or their order are not what was described.
"""

import json
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from metier.data.archives import File
from metier.data.facts.found import LONGEST_VALUE, Found, Left, Line, Subject
from metier.data.formats import read_csv, read_jsonl, read_lines, read_tsv, titles_of
from metier.data.tables import RARE, Row, position
from metier.errors import DataError
from metier.facts import dates
from metier.facts.dates import NotADateError
from metier.facts.fact import RELATIONS, relation
from metier.spec.facts import FactSource

_FORBIDDEN = "()\n\r"
"""Marks that a name may not have: brackets hold what tells subjects apart."""

_UNKNOWN = frozenset({"unknown", "not known", "n/a", "n.a.", "none given", "?", "??", "-", "--", "\u2013", "\u2014"})
"""Values that say, in small letters, that there is none."""

_OPTIONAL = frozenset({"date", "hint", "also"})
_OF_ANYTHING = frozenset({"located in", "published", "adopted"})
"""Relations that a table may state of anything, where no hint says what it is: battles are located, too."""


def read_table(source: FactSource, file: File) -> Iterator[Found | Left]:
    """Yield the facts of a table.

    Args:
        source: says layout, columns and encoding.
        file: the table.

    Raises:
        DataError: when the file is no such table, lacks a column, or too many of its dates are none.
    """
    place = file.inside or file.path.name
    dated, undated = 0, list[tuple[int, NotADateError]]()
    for number, cells, text in _rows(source, file):
        line = Line(f"{place}, line {number}", text)
        told = _told(source, cells, line)
        if isinstance(told, Left):
            yield told
            continue
        try:
            found = _fact(told, cells.get("date", ""), line)
        except NotADateError as error:
            undated.append((number, error))
            found = Left(error.reason, line, (told.subject, (told.relation,)))
        dated += isinstance(found, Found) and found.date is not None
        yield found
    if undated and len(undated) > RARE * (dated + len(undated)) and len(undated) > 1:
        number, first = undated[0]
        raise DataError(
            f"{file.name}, line {number}",
            f"{len(undated)} of {dated + len(undated)} dates are none; the first is {first.text!r}: {first.reason}",
            first.fix,
        )


def _rows(source: FactSource, file: File) -> Iterator[tuple[int, dict[str, str], str]]:
    """Yield of each row its number, its cells by what they are, and its text."""
    wanted = {
        "subject": source.subject,
        "relation": None if source.always else source.relation,
        "value": source.value,
        "date": source.date,
        "hint": source.hint,
        "also": source.also,
    }
    columns = {what: column for what, column in wanted.items() if column is not None}
    rows: Iterator[Row]
    if source.format == "jsonl":
        met: set[str] = set()
        for number, value in read_jsonl(file.name, read_lines(file, source.encoding)):
            if value == []:
                continue
            cells_of = value if isinstance(value, Mapping) else {}
            lacking = [one for what, one in columns.items() if what not in _OPTIONAL and one not in cells_of]
            if lacking:
                keys = f"its keys are {', '.join(map(str, value))}" if isinstance(value, Mapping) else "it is no object"
                raise DataError(f"{file.name}, line {number}", f"has no {lacking[0]!r}; {keys}", "Set the columns")
            met.update(what for what, column in columns.items() if column in cells_of)
            yield number, {what: _text(value.get(column)) for what, column in columns.items()}, _shown(value.values())
        if met and (never := [column for what, column in columns.items() if what not in met]):
            raise DataError(file.name, f"no object has {never[0]!r}", "Set the columns")
        return
    if source.format == "csv":
        rows = read_csv(file, source.encoding, source.delimiter)
    else:
        rows = read_tsv(read_lines(file, source.encoding))
    titles = titles_of(file.name, rows)
    places = {what: position(file.name, column, titles) for what, column in columns.items()}
    for number, cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(titles):
            raise DataError(
                f"{file.name}, line {number}",
                f"has {len(cells)} cells, the first row has {len(titles)}",
                "Correct the row; put a cell that contains a comma in quotes",
            )
        yield number, {what: _text(cells[place]) for what, place in places.items()}, _shown(cells)


def _text(value: Any) -> str:
    """Return a cell as text, letters with accents as one character each, which is how they are asked for."""
    if isinstance(value, list):
        return "|".join(_text(one) for one in value)
    text = value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "" if value is None else unicodedata.normalize("NFC", text)


def _shown(cells: Any) -> str:
    """Return a row as one line of text."""
    return " | ".join(" ".join(_text(cell).split()) for cell in cells if _text(cell))


class _Told(NamedTuple):
    """What a row says, dates not read yet."""

    subject: Subject
    relation: str
    value: str


def _told(source: FactSource, cells: dict[str, str], line: Line) -> _Told | Left:
    said = source.always or " ".join(cells["relation"].split())
    said = said.casefold() if said.casefold() in RELATIONS else said
    known = relation(said)
    value = cells["value"] or (cells.get("date", "") if known.asks_for == "date" else "")
    if not (cells["subject"] and said and value):
        return Left("value missing", line)
    others = [name.strip() for name in cells.get("also", "").split("|")]
    spelt = [" ".join(name.split()) for name in (cells["subject"], *others) if name]
    if any(mark in name for name in spelt for mark in _FORBIDDEN):
        return Left("brackets in a name: use the column of hints", line)
    hint = " ".join(cells.get("hint", "").split())
    mark = f"{spelt[0]} ({hint})" if hint else ""
    kind = "" if said in _OF_ANYTHING and not hint else known.kind
    return _Told(Subject(tuple(dict.fromkeys(spelt)), kind, hint, mark), said, " ".join(value.split()))


def _fact(told: _Told, given: str, line: Line) -> Found | Left:
    """Return what a row says as a fact.

    Args:
        told: by the row.
        given: its date, apart from the value; empty if there is none.
        line: of the table.

    Raises:
        NotADateError: when the value should be a date and is none, or the date is none.
    """
    about = (told.subject, (told.relation,))
    if told.value.casefold() in _UNKNOWN:
        return Left("the value is that it is not known", line, about)
    if relation(told.relation).asks_for == "date":
        date = dates.parse(told.value)
        return Found(told.subject, told.relation, str(date), date, line)
    if len(told.value) > LONGEST_VALUE:
        return Left("no short answer", line, about)
    return Found(told.subject, told.relation, told.value, dates.parse(given) if given else None, line)
