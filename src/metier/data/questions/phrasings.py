"""How questions are put: the ways to ask for each relation, and which of them are kept for the exams."""

import hashlib
import re
import tomllib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Literal, NamedTuple

from metier.data.questions import frames
from metier.data.similarity import comparable
from metier.errors import DataError
from metier.facts.dates import Date, century_of, short_form
from metier.facts.fact import RELATIONS, Kind
from metier.spec.task import Phrasings

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")

VERSION = 8
"""Raised when the same facts and phrasings become other questions."""

LEAST = 3
"""Fewer phrasings than parts cannot be divided: the exams ask as training does."""

_MANY = 8
"""From so many on, each exam has two at least."""

_SALT = "metier phrasings 1\n"
_SMALL = frozenset(
    {"of", "the", "in", "at", "on", "and", "for", "&"} | {"de", "la", "le", "du", "des", "von", "van", "der"}
)
_AFTER_A_HEAD = ("of", "for", "on", "at", "between")
_FOUGHT = frozenset({"Battle", "Battles", "Siege"})


class Ways(NamedTuple):
    """Phrasings of one kind of question, by part; ``shared`` where the parts have the same."""

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    shared: bool = False

    def of(self, part: Part) -> tuple[str, ...]:
        """Return those of a part."""
        found: tuple[str, ...] = getattr(self, part)
        return found

    def joined(self, other: "Ways") -> "Ways":
        """Return both, each divided as it is; one that could not be divided is learned from, if the other could."""
        if not (self.train and other.train):
            return self if self.train else other
        if self.shared == other.shared:
            return Ways(
                self.train + other.train, self.validation + other.validation, self.test + other.test, self.shared
            )
        whole, more = (self, other) if other.shared else (other, self)
        return whole._replace(train=whole.train + more.train)

    def framed(self, way: str, form: str, examined: Sequence[str] = ()) -> "Ways":
        """Return them with more that frames made, for training; as they are where they are not divided.

        Args:
            way: a key of `way_of`.
            form: of the questions, ``ask`` or ``reverse``.
            examined: what exams ask besides.
        """
        if self.shared or not self.train:
            return self
        return self._with(frames.framed(way, form, (*self.validation, *self.test, *examined)))

    def around(self) -> "Ways":
        """Return them with more for training: their own questions in frames."""
        return self if self.shared else self._with(frames.around(self.train, (*self.validation, *self.test)))

    def _with(self, made: Iterable[str]) -> "Ways":
        written = {comparable(text) for text in self.train}
        return self._replace(train=frames.mixed(self.train, [text for text in made if comparable(text) not in written]))

    def apart(self) -> "Ways":
        """Return them without what a part has of a later one: training of the exams, validation of the test."""
        if self.shared:
            return self
        test = set(map(comparable, self.test))
        validation = tuple(text for text in self.validation if comparable(text) not in test) or self.validation
        exams = test.union(map(comparable, validation))
        train = tuple(text for text in self.train if comparable(text) not in exams)
        return self._replace(train=train, validation=validation)

    def about(self, relation: str) -> "Ways":
        """Return them with a relation in its place: divided before, so that all relations are divided alike."""
        train, validation, test = (
            tuple(text.replace("{relation}", relation) for text in self.of(part)) for part in PARTS
        )
        return Ways(train, validation, test, self.shared)


class Asked(NamedTuple):
    """The ways to ask for a relation of one kind of subject."""

    ask: Ways
    reverse: Ways


def divide(phrasings: Iterable[str]) -> Ways:
    """Divide a list of phrasings among the parts: the first, the plainest, is taught, the others go by a hash of each.

    The exams have one each, or up to a quarter: a threshold that is found in the words of one exam holds in those of
    another where both have words of many kinds.
    """
    distinct = {comparable(phrasing): phrasing for phrasing in phrasings}
    keys = sorted(list(distinct)[1:], key=lambda key: hashlib.sha256((_SALT + key).encode()).digest())
    ordered = [distinct[key] for key in [*keys, *list(distinct)[:1]]]
    if len(ordered) < LEAST:
        return Ways(tuple(ordered), tuple(ordered), tuple(ordered), shared=True)
    each = max(2, len(ordered) // 4) if len(ordered) >= _MANY else 1
    return Ways(tuple(ordered[2 * each :]), tuple(ordered[:each]), tuple(ordered[each : 2 * each]))


def way_of(relation: str, kind: Kind, name: str) -> str:
    """Return the key of the ways to ask: the relation, and after a colon what kind of subject it is asked of."""
    if relation == "described as":
        return f"{relation}:{'person' if kind == 'person' else 'thing'}"
    if relation == "occurred":
        words = name.split()
        fought = bool(words) and (words[0] in _FOUGHT or words[-1] in _FOUGHT)
        return f"{relation}:{'clause' if not is_name(name) else 'battle' if fought else 'name'}"
    return relation


def is_name(text: str) -> bool:
    """Return whether an event is told by a name ("War of 1812"), not by a sentence ("Japan bombs Pearl Harbor").

    A name has capitals or figures at the beginning of each of its words but the small ones, quotation marks aside.
    """
    words = text.split()
    plain = (word in _SMALL or (word[0].isalnum() and not word[0].islower()) for word in text.replace('"', "").split())
    return bool(words) and all(plain) and words[0] not in _SMALL


class Book:
    """All ways to ask that a job has: the packaged ones and its own.

    Args:
        own: the job's, by relation.
    """

    def __init__(self, own: Sequence[Phrasings] = ()) -> None:
        self._own: dict[str, list[Phrasings]] = {}
        for one in own:
            self._own.setdefault(one.relation, []).append(one)

    @cache  # noqa: B019 - a job has one book
    def asked(self, way: str) -> Asked:
        """Return the ways to ask of a key of `way_of`."""
        relation = way.partition(":")[0] if way.partition(":")[0] in RELATIONS else way
        own = self._own.get(relation, [])
        ask, reverse = ([text for one in own for text in getattr(one, form)] for form in Asked._fields)
        mine = Asked(divide(ask), divide(reverse))
        if relation not in RELATIONS and len(set(ask)) >= LEAST:
            return Asked(mine.ask.around(), mine.reverse.around())
        theirs = _packaged(way, relation, mine)
        return Asked(theirs.ask.joined(mine.ask).apart(), theirs.reverse.joined(mine.reverse).apart())

    def compared(self, relation: str) -> Ways:
        """Return the ways to ask which of two came first."""
        known = _texts()["comparison"]
        return divide(known.get(relation, known["other"])["ask"])

    @property
    def packaged_alone(self) -> bool:
        """Whether the job has no ways to ask of its own."""
        return not self._own

    def texts(self, ways: Iterable[str]) -> list[str]:
        """Return all phrasings of some keys, with those of comparisons."""
        of_ways = [text for way in ways for form in self.asked(way) for part in PARTS for text in form.of(part)]
        return of_ways + [text for one in _texts()["comparison"].values() for text in one["ask"]]

    def check(self, ways: Iterable[str]) -> None:
        """Raise DataError when two relations are asked for in the same words: such a question has two answers."""
        owner: dict[tuple[str, str], str] = {}
        for way in sorted(ways):
            relation = way.partition(":")[0] if way.partition(":")[0] in RELATIONS else way
            for form, phrasings in self.asked(way)._asdict().items():
                for phrasing in {text for part in PARTS for text in phrasings.of(part)}:
                    first = owner.setdefault((form, comparable(phrasing)), relation)
                    if first != relation:
                        found = f"{phrasing!r} asks for both {first!r} and {relation!r}"
                        raise DataError("qa.phrasings", found, "Write it so that it is clear which is meant")


def _packaged(way: str, relation: str, mine: Asked) -> Asked:
    """Return the packaged ways to ask; what exams ask in the job's own ways goes into no frame."""
    texts = _texts()
    if relation not in RELATIONS:
        return Asked(*(divide(texts["other"][form]).framed("other", form).about(relation) for form in Asked._fields))
    table = texts.get(way, {})
    found = Asked(
        *(
            divide(table.get(form, [])).framed(way, form, () if ways.shared else ways.validation + ways.test)
            for form, ways in mine._asdict().items()
        )
    )
    if way == "occurred:battle":
        name = _packaged("occurred:name", relation, mine)
        return Asked(name.ask.joined(found.ask), name.reverse.joined(found.reverse))
    return found


@cache
def _texts() -> dict[str, Any]:
    path = files("metier.data.questions") / "phrasings.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def fingerprint() -> str:
    """Return a hash of the packaged phrasings."""
    return hashlib.sha256(repr((VERSION, _texts(), frames.packaged())).encode()).hexdigest()[:16]


def asks_of(phrasing: str, subject: str, kind: Kind) -> str:
    """Return a question for a value."""
    before, _, after = phrasing.partition("{subject}")
    article = "the " if before.strip(" \"'") and not before.endswith("the ") and wants_article(subject, kind) else ""
    return f"{before}{article}{subject}{after}"


def asks_back(phrasing: str, value: str, date: Date | None) -> str:
    """Return a question for a subject; the date is that of the value, None where it is a text."""
    if "{when}" in phrasing:
        return phrasing.replace("{when}", when(date) if date else f"in {value}")
    return phrasing.replace("{value}", value)


def asks_which(phrasing: str, one: tuple[str, Kind], two: tuple[str, Kind]) -> str:
    """Return a question for the earlier of two names."""
    parts = re.split(r"\{(one|two)\}", phrasing)
    said = {"one": one, "two": two}
    return "".join(
        ("the " if parts[at - 1] and wants_article(*said[part]) else "") + said[part][0] if at % 2 else part
        for at, part in enumerate(parts)
    )


def wants_article(name: str, kind: Kind) -> bool:
    """Return whether a name takes "the" in a sentence: "the Battle of Wick", "the French Revolution"."""
    bare = name.partition(" (")[0]
    words = bare.split()
    article = _texts()["article"]
    if kind == "person":
        return re.match(article["persons"], bare) is not None
    if len(words) < 2 or words[0] == "The" or any(word.endswith("'s") for word in words[:-1]):
        return False
    if kind == "event" and not is_name(_in_capitals(bare)):
        return False
    last = article["places"] if kind == "place" else article["places"] + article["others"]
    cut = next((at for at, word in enumerate(words) if word in _AFTER_A_HEAD), 0)
    head = words[cut - 1].capitalize() if cut else ""
    of_it = head in article["first"] if cut == 1 or kind == "place" else head in article["first"] + last
    return of_it or words[-1] in last or words[-1].capitalize() in last


def in_small_letters(name: str, kind: Kind) -> str:
    """Return the name of an event with its common word small, as most people write: "battle of Wick"; or ""."""
    words = name.split()
    if kind != "event" or len(words) < 2 or not is_name(name):
        return ""
    article = _texts()["article"]
    if words[0] in article["first"] and words[1] in _AFTER_A_HEAD:
        return " ".join([words[0].lower(), *words[1:]])
    return " ".join([*words[:-1], words[-1].lower()]) if words[-1] in article["others"] else ""


def _in_capitals(name: str) -> str:
    """Undo what `in_small_letters` does."""
    first, *middle, last = name.split()
    return " ".join([first[:1].upper() + first[1:], *middle, last[:1].upper() + last[1:]])


def when(date: Date) -> str:
    """Return a date with its preposition: "on 8 May 1945", "in 44 BC", "from 1914 to 1918", "around 570 BC"."""
    bare = Date(date.first, date.last)
    century, short = century_of(bare), short_form(bare)
    the = f"the {century}" if century else str(bare)
    if date.circa:
        return f"around {the}"
    if not century and short is None:
        return f"from {bare}"
    return f"on {bare}" if date.first == date.last else f"in {the}"
