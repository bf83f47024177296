"""A fact: subject, relation, value, and the line of the source that says so."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from metier.facts import names
from metier.facts.dates import Date
from metier.facts.mentions import holds

Kind = Literal["person", "place", "event", "work", "thing", ""]
"""What a subject is; empty where the source does not say."""


class Relation(NamedTuple):
    """What is said of a subject."""

    asks_for: Literal["date", "text"]
    one: bool
    """Whether only one value can be right: two that differ are marked as disputed."""
    kind: Kind
    """What its subjects are."""


RELATIONS: dict[str, Relation] = {
    "born": Relation("date", True, "person"),
    "died": Relation("date", True, "person"),
    "born in": Relation("text", False, "person"),
    "described as": Relation("text", False, ""),
    "lived": Relation("date", False, "person"),
    "ruled": Relation("date", False, "person"),
    "occurred": Relation("date", True, "event"),
    "founded": Relation("date", True, ""),
    "built": Relation("date", True, ""),
    "published": Relation("date", True, "work"),
    "adopted": Relation("date", True, "work"),
    "located in": Relation("text", False, "place"),
    "capital": Relation("text", True, "place"),
    "independence": Relation("date", True, "place"),
    "independent of": Relation("text", True, "place"),
    "discovered": Relation("date", True, ""),
    "discovered by": Relation("text", False, ""),
}
"""The relations of the readers; a table of one's own may have others, which are text, of any number of values."""

OTHER = Relation("text", False, "")


def relation(name: str) -> Relation:
    """Return what is known of a relation."""
    return RELATIONS.get(name, OTHER)


class Origin(NamedTuple):
    """The source a fact is from."""

    name: str
    reference: str
    """As the job description names it: ``deb:wordnet-base``."""
    licence: str
    attribution: str


@dataclass(frozen=True)
class Fact:
    """A fact as it is found in a store."""

    subject: str
    """The name, with what tells it from others of that name: ``David (French neoclassical painter)``."""
    relation: str
    value: str
    """The short answer: ``1882``, ``44 BC``, ``English novelist``."""
    date: Date | None
    """The value as a date, if it is one; else the date the source gives with it."""
    line: str
    """What the source says, word for word but for its markup."""
    place: str
    """Where: file and line."""
    origin: Origin
    disputed: bool = False
    """Whether the store holds another value that cannot be right together with this one."""

    @property
    def name(self) -> str:
        """The subject without what tells it from others."""
        return self.subject.partition(" (")[0]


def stated(line: str, subject: str, value: str, date: Date | None) -> bool:
    """Return whether a line holds both subject and value: the name's words, and the value's, or its date in any form.

    Args:
        line: of the source.
        subject: the name alone, without what tells it from others.
        value: the short answer.
        date: the value as a date, if it is one.
    """
    if not names.says(line, subject):
        return False
    if date is not None and value == str(date):
        return holds(line, date)
    return names.says(line, value)
