"""A fact: subject, relation, value, and the line of the source that says so."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from metier.facts import names
from metier.facts.dates import Date
from metier.facts.mentions import holds

Kind = Literal["person", "place", "event", "work", "thing", ""]
"""What a subject is; empty where the source does not say."""


class Relation(NamedTuple):
    """What is said of a subject, and by which words a question asks for it."""

    asks_for: Literal["date", "text"]
    one: bool
    """Whether only one value can be right: two that differ are marked as disputed."""
    kind: Kind
    """What its subjects are."""
    cue: str = ""
    """Words that ask for it, as a regular expression for whole words without case; the subject's name is not read."""
    general: str = ""
    """Words that ask for it if no relation's cue is there."""


_BORN = r"born|birth\w*|c[ao]me into the world|life (?:of )?beg[iau]n|beg[iau]n (?:his|her) life"
_FREE = r"independen\w*|sovereign\w*|free|freed|freedom|liberat\w*|self (?:rule|government)|state of its own"
_FOUND = r"discover\w*|isolat\w*|identif\w*|detect\w*|found|first (?:seen|observed|made)"

RELATIONS: dict[str, Relation] = {
    "born": Relation("date", True, "person", _BORN),
    "died": Relation(
        asks_for="date",
        one=True,
        kind="person",
        cue=r"die[sd]?|dying|death|dead|deceased?|pass(?:ed|es)? away|perish\w*|killed|last breath"
        r"|end of (?:the |his |her )?life|life (?:of )?(?:end\w*|c[ao]me to an end)",
    ),
    "born in": Relation("text", False, "person", rf"{_BORN}|native|hail(?:s|ed)? from|c[ao]mes? from"),
    "described as": Relation(
        asks_for="text",
        one=False,
        kind="",
        cue=r"describ\w*|(?:known|famous|remembered) (?:for|as)|profession|occupation|(?:kind|sort) of",
        general="who|what(?! (?:country|state|region|continent|province))",
    ),
    "lived": Relation("date", False, "person", r"lived?|living|alive|flourish\w*|lifetime"),
    "ruled": Relation("date", False, "person", r"reign\w*|ruled?|ruler|ruling|in power|in office|throne|govern(?:ed)?"),
    "occurred": Relation(
        asks_for="date",
        one=True,
        kind="event",
        cue=r"happen\w*|occur\w*|t(?:ake|akes|ook|aken|aking) place|fought|held|br(?:eak|oke) out|began|begin"
        r"|start(?:ed)?",
        general="when|year|date|day|century",
    ),
    "founded": Relation(
        asks_for="date",
        one=True,
        kind="",
        cue=r"founded|founding|foundation|establish\w*|form(?:ed|ation)|creat(?:ed?|ion)|set up|institut(?:ed?|ion)"
        r"|start(?:ed)?|beg[ia]n|exist|c[ao]me into (?:being|existence)",
    ),
    "built": Relation(
        asks_for="date",
        one=True,
        kind="",
        cue=r"buil[dt]|building|construct\w*|complet\w*|erect\w*|open(?:ed|ing)?|finish\w*|put up|creat(?:ed?|ion)"
        r"|inaugurat\w*",
    ),
    "published": Relation(
        asks_for="date",
        one=True,
        kind="work",
        cue=r"publish\w*|publication|writ(?:e|ten|ing)|wrote|appear(?:ed)?|c[ao]me out|print(?:ed)?|releas\w*"
        r"|compos\w*",
    ),
    "adopted": Relation(
        asks_for="date",
        one=True,
        kind="work",
        cue=r"adopt\w*|sign(?:ed|ing)?|ratif\w*|agreed|conclud\w*|enact\w*|into force|pass(?:ed)?(?! away)|accept\w*"
        r"|written|creat(?:ed?|ion)",
    ),
    "located in": Relation(
        asks_for="text",
        one=False,
        kind="place",
        cue=r"locat\w*|situat\w*|lies?|lying|whereabouts|part of|find",
        general="where|(?:which|what) (?:country|state|region|continent|province)",
    ),
    "capital": Relation("text", True, "place", r"capitals?|seat of (?:the )?government"),
    "independence": Relation("date", True, "place", _FREE),
    "independent of": Relation("text", True, "place", _FREE),
    "discovered": Relation("date", True, "", _FOUND),
    "discovered by": Relation("text", False, "", _FOUND),
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
