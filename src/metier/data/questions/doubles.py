"""Subjects that may be one under two names, such as "Charles Chaplin" and "Charlie Chaplin", both born in 1889."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, combinations

from metier.data.questions.naming import Names
from metier.facts import names
from metier.facts.dates import Date
from metier.facts.fact import Fact
from metier.facts.spelling import is_one_error_away

_DATES = frozenset({"born", "died", "occurred"})
_TITLES = frozenset(
    {"king", "queen", "emperor", "empress", "pope", "saint", "president", "prince", "princess", "chairman"}
)
_SHORT = 4
"""Letters of surnames that may be two with one letter other: "Bach" and "Back"."""
_WORDS_OF_EVENTS = 2
"""Telling words that two names of one event share at least."""


def doubles(facts: Iterable[Fact], known: Names) -> dict[str, set[str]]:
    """Return of each subject those that it may be, too.

    Persons whose dates agree and who have a surname in common, be it with one letter other, or all words of a name;
    events of one day that share a word, or of one year that share two; and countries of one capital.
    """
    facts = list(facts)
    dated: dict[tuple[str, int], dict[str, Date]] = defaultdict(dict)
    for fact in facts:
        if fact.relation in _DATES and fact.date is not None and fact.date.years[0] == fact.date.years[1]:
            dated[fact.relation, fact.date.first[0]][fact.subject] = fact.date
    found: dict[str, set[str]] = defaultdict(set)
    for one, two in chain(_persons(dated, known), _capitals(facts)):
        found[one].add(two)
        found[two].add(one)
    for (relation, _), of_year in dated.items():
        if relation != "occurred":
            continue
        by_word: dict[str, list[str]] = defaultdict(list)
        for subject in of_year:
            for word in names.telling(" ".join(known.entries[subject].names)):
                by_word[word].append(subject)
        shared: dict[tuple[str, str], int] = defaultdict(int)
        for subjects in by_word.values():
            for pair in combinations(sorted(subjects), 2):
                shared[pair] += 1
        for (one, two), words in shared.items():
            a_day = of_year[one].first == of_year[one].last and of_year[one] == of_year[two]
            if words >= (1 if a_day else _WORDS_OF_EVENTS) and of_year[one].agrees(of_year[two]):
                found[one].add(two)
                found[two].add(one)
    return found


def _persons(dated: Mapping[tuple[str, int], Mapping[str, Date]], known: Names) -> Iterator[tuple[str, str]]:
    called = {
        subject: [words for name in known.entries[subject].names if (words := _bare(name))]
        for (relation, _), of_year in dated.items()
        if relation != "occurred"
        for subject in of_year
    }
    for (relation, _), of_year in dated.items():
        for one, two in combinations(sorted(of_year), 2) if relation != "occurred" else ():
            if of_year[one].agrees(of_year[two]) and any(
                _may_be_one(first, second) for first in called[one] for second in called[two]
            ):
                yield one, two


def _bare(name: str) -> list[str]:
    """Return the words of a name without titles and what they are of: "Louis XIV" for "King Louis XIV of France"."""
    before, of, _ = names.key(name).partition(" of ")
    words = (before if of else names.key(name)).split()
    return [word for word in words if word not in _TITLES] or words


def _may_be_one(first: list[str], second: list[str]) -> bool:
    """Return whether two names may be one: the last words are the same or nearly, or one has all words of the other."""
    one, two = first[-1], second[-1]
    near = one == two or (min(len(one), len(two)) > _SHORT and is_one_error_away(one, two))
    return near or set(first) <= set(second) or set(second) <= set(first)


def _capitals(facts: Iterable[Fact]) -> Iterator[tuple[str, str]]:
    having: dict[str, set[str]] = defaultdict(set)
    for fact in facts:
        if fact.relation == "capital":
            having[names.key(fact.value)].add(fact.subject)
    for subjects in having.values():
        yield from combinations(sorted(subjects), 2)
