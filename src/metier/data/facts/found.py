"""What readers of facts yield: a fact as one line of one source has it, or why a line has none."""

import re
from typing import NamedTuple

from metier.facts.dates import Date
from metier.facts.fact import Kind

LONGEST_LIFE = 120
"""Years that a person can have lived."""

LONGEST_VALUE = 80
"""Characters of the longest answer that counts as short."""

_MARKS = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")


class Line(NamedTuple):
    """What a source says, and where."""

    place: str
    text: str


class Subject(NamedTuple):
    """Whom or what a fact is about, as one source has it."""

    names: tuple[str, ...]
    """The name to call it by, then others."""
    kind: Kind = ""
    hint: str = ""
    """A few words that tell it from others of its name."""
    id: str = ""
    """The source's own mark, where it has one: two marks are two subjects, whatever their names."""


class Found(NamedTuple):
    """A fact as read."""

    subject: Subject
    relation: str
    value: str
    date: Date | None
    line: Line


class Left(NamedTuple):
    """A line, or a part of one, that makes no fact."""

    reason: str
    line: Line
    about: tuple[Subject, tuple[str, ...]] | None = None
    """The subject, and the relations of which the source does say something: nobody is to learn that it does not."""


def dated(subject: Subject, relation: str, date: Date, line: Line) -> Found:
    """Return a fact whose value is a date."""
    return Found(subject, relation, str(date), date, line)


def without_remarks(text: str) -> str:
    """Return a text without what it has in brackets."""
    while (shorter := _MARKS.sub(" ", text)) != text:
        text = shorter
    return re.sub(r"\s+([,;:.])", r"\1", " ".join(text.split()))
