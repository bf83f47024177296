"""One row of a job: an input, the wanted output, the source it came from."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from metier.artifact import write_atomically, writing
from metier.errors import DataError


class Record(NamedTuple):
    """An input and the output wanted for it; ``source`` is the name of its data source in the ledger."""

    input: str
    output: str
    source: str = ""


_ENCODER = json.JSONEncoder(ensure_ascii=False)


def to_line(record: Record) -> str:
    """Return a record as a line of JSON."""
    return _ENCODER.encode({"input": record.input, "output": record.output, "source": record.source}) + "\n"


def from_line(line: str) -> Record:
    """Return the record in a line that `to_line` made; anything else is a ValueError or TypeError."""
    return Record(**json.loads(line))


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write records as JSON lines, atomically; return their number."""
    return write_lines(path, (to_line(record).encode() for record in records))


def write_lines(path: Path, lines: Iterable[bytes]) -> int:
    """Write lines, atomically and without holding all of them; return their number."""
    count = 0
    with writing(path) as file:
        for count, line in enumerate(lines, 1):  # noqa: B007
            file.write(line)
    return count


def read_records(path: Path) -> list[Record]:
    """Read what `write_records` wrote.

    Raises:
        DataError: at the first line that is not a record.
    """
    return list(each_record(path))


def each_record(path: Path) -> Iterator[Record]:
    """Yield what `write_records` wrote, a record at a time.

    Raises:
        DataError: at the first line that is not a record.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield from_line(line)
            except (ValueError, TypeError) as error:
                raise DataError(
                    f"{path}, line {number}", f"not a record ({error})", "Build the data step again"
                ) from error


def write_documents(path: Path, documents: Iterable[Record]) -> None:
    """Write documents, whose two sides are the same text, as JSON lines, atomically."""
    lines = (json.dumps({"text": d.input, "source": d.source}, ensure_ascii=False) + "\n" for d in documents)
    write_atomically(path, "".join(lines))


def read_documents(path: Path) -> dict[str, list[str]]:
    """Read what `write_documents` wrote: the texts of each source.

    Raises:
        DataError: at the first line that is not a document.
    """
    found: dict[str, list[str]] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                document = json.loads(line)
                found.setdefault(document["source"], []).append(document["text"])
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(
                    f"{path}, line {number}", f"not a document ({error})", "Build the data step again"
                ) from error
    return found
