"""One row of a job: an input, the wanted output, the source it came from."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from metier.artifact import write_atomically
from metier.errors import DataError


class Record(NamedTuple):
    """An input and the output wanted for it; ``source`` is the name of its data source in the ledger."""

    input: str
    output: str
    source: str = ""


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write records as JSON lines, atomically; return their number."""
    lines = [json.dumps(record._asdict(), ensure_ascii=False) + "\n" for record in records]
    write_atomically(path, "".join(lines))
    return len(lines)


def read_records(path: Path) -> list[Record]:
    """Read what `write_records` wrote.

    Raises:
        DataError: at the first line that is not a record.
    """
    return list(_records(path))


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


def _records(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield Record(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise DataError(
                    f"{path}, line {number}", f"not a record ({error})", "Build the data step again"
                ) from error
