"""Which relation a question asks for, and which of two comes first: by its words, the subject's names left out."""

import re
from collections.abc import Iterable
from functools import cache
from typing import Literal

from metier.facts import names
from metier.facts.fact import RELATIONS, relation

_TIME = re.compile(
    r"\b(?:when|years?|dates?|day|century|decade|birthday|birthdate|time|period|lifetime|reign|how long ago)\b"
)
_WORDS = re.compile(r"\b(?:where|wh(?:o|om|ose|at|ich)|place|birthplace|native|from|by)\b")
_EARLY = re.compile(r"\b(?:first|earlier|earliest|before|older|oldest|elder)\b")
_LATE = re.compile(r"\b(?:later|latest|last|after|second|younger|youngest|newer|newest|more recent(?:ly)?)\b")
_OTHERS = re.compile(
    r"\b(?:before|after|since(?! when)|until|sons?|daughters?|child|children|fathers?|mothers?|parents?|brothers?"
    r"|sisters?|wife|wives|husbands?|widows?|successors?|predecessors?)\b"
)
"""Words that lead from the subject to somebody or something else."""
_SMALL_TALK = names.telling(
    "when year date dates day month century decade period time exact exactly precise please tell name give say know "
    "can could would you your there this that these long ago how many place take took event come about called have had "
    "been become gain win won get got made owe like said region part world battle war treaty country nation state city "
    "town person element works building book which came"
)
"""Words that change nothing in what a question asks for, or only say what its subject is."""

_MADE = frozenset({"founded", "built", "published", "adopted", "discovered", "discovered by"})
"""Relations whose words ask for makers of any kind, too."""

_ROLES = names.telling("saint king queen emperor empress pope general president man woman people earlier later")


def plain(text: str) -> str:
    """Return the words of a text as this module reads them: with spaces between, without case, accents and marks."""
    return " ".join(names.words(text))


def relations_asked(rest: str, present: Iterable[str], *, reverse: bool = False) -> set[str] | None:
    """Return those of a subject's relations that a question can ask for; None where its words do not tell.

    None of a subject's, an empty set, is what a question asks for whose words tell a relation that the subject lacks.

    Args:
        rest: what `plain` makes of the question, without the subject.
        present: the relations that there are of the subject.
        reverse: whether the subject is asked for, so that "when" and "where" do not tell dates from words.
    """
    there = set(present)
    known = {*RELATIONS, *there}
    # Of all relations: what asks for a place of death does not ask for a place in general.
    cued = {name for name in known if _is_cued(name, rest)}
    general = {name for name in known if _general(name) and re.search(_general(name), rest)}
    by_date = _TIME.search(rest) is not None
    either = reverse or not (by_date or _WORDS.search(rest))

    def there_of(relations: set[str]) -> set[str]:
        return {
            name
            for name in relations & there
            if either or name not in RELATIONS or (relation(name).asks_for == "date") == by_date
        }

    if cued:
        # "Who wrote ...?" may ask for a relation of one's own, "author", whose words nobody knows.
        of_ones_own = not by_date and bool(cued & _MADE) and not there <= RELATIONS.keys()
        return there_of(cued) or (None if of_ones_own else set())
    # Words such as "what" may ask for anything: of a relation that the subject lacks they tell nothing.
    return there_of(general) or None


def nothing_else(rest: str, wanted: str, known: str) -> bool:
    """Return whether a question asks for a relation of its subject and no other: not for the birth of a king's wife.

    Args:
        rest: what `plain` makes of the question, without the subject.
        wanted: the relation.
        known: words that may describe the subject, such as its lines.
    """
    if _OTHERS.search(rest):
        return False
    cue = _cue(wanted)
    left = re.sub(cue, " ", rest) if cue else rest
    return names.telling(left) <= _SMALL_TALK | names.telling(known) | names.telling(wanted)


def order_asked(rest: str) -> Literal["first", "last", ""]:
    """Return which of two a question asks for: that came first, that came last, or neither or both."""
    early, late = _EARLY.search(rest) is not None, _LATE.search(rest) is not None
    return "" if early == late else "first" if early else "last"


def asks_by_itself(word: str) -> bool:
    """Return whether a word of a question is more likely a part of what is asked than a name: "born", "capital"."""
    return (
        word in names.COMMON
        or names.telling(word) <= _SMALL_TALK | _ROLES
        or any(_cue(name) and re.fullmatch(_cue(name), word) for name in RELATIONS)
    )


def _is_cued(name: str, rest: str) -> bool:
    if cue := _cue(name):
        return re.search(cue, rest) is not None
    said = names.telling(name)
    return bool(said) and said <= names.telling(rest)


@cache
def _cue(name: str) -> str:
    return rf"\b(?:{relation(name).cue})\b" if relation(name).cue else ""


@cache
def _general(name: str) -> str:
    return rf"\b(?:{relation(name).general})\b" if relation(name).general else ""
