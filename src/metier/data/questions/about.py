"""What an exam's question is about, beside its row: for errors by kind, relation, century and region."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from metier.artifact import write_atomically
from metier.errors import DataError

Kind = Literal["known", "withheld", "invented"]
"""Taught, kept from the model though sources say it, or made up."""

Form = Literal["ask", "reverse", "comparison"]
"""For the value, for the subject, or for which of two came first."""


@dataclass(frozen=True, slots=True)
class About:
    """What one question is about."""

    kind: Kind
    form: Form
    relation: str
    subject: str
    """As the store shows it; of a comparison the earlier one; or the invented name."""
    value: str
    """What the store has as the value; empty of an invented subject."""
    year: int | None
    """First year of the fact's date, BC being negative; None where there is none."""
    region: str
    """Part of the world, such as ``Europe``; empty where the fact does not tell."""

    def of_kind(self, kind: Kind) -> "About":
        """Return the same, of another kind."""
        return replace(self, kind=kind)


def about_path(exam: Path) -> Path:
    """Return the file beside an exam's: ``test_about.jsonl`` of ``test.jsonl``."""
    return exam.with_name(f"{exam.stem}_about{exam.suffix}")


def write_about(path: Path, abouts: Iterable[About]) -> None:
    """Write one line of JSON for each question, atomically."""
    lines = (json.dumps(asdict(about), ensure_ascii=False) + "\n" for about in abouts)
    write_atomically(path, "".join(lines))


def read_about(path: Path) -> list[About]:
    """Read what `write_about` wrote.

    Raises:
        DataError: at the first line that is none, or when the file is missing.
    """
    fix = "Build the data step again"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    except (OSError, ValueError) as error:
        raise DataError(str(path), f"cannot be read ({error})", fix) from error
    found = list[About]()
    for number, line in enumerate(lines, 1):
        try:
            found.append(About(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}, line {number}", f"says nothing of a question ({error})", fix) from error
    return found
