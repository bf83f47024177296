"""Subjects that may be one under two names, such as "Charles Chaplin" and "Charlie Chaplin", both born in 1889."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import combinations

from metier.data.questions.naming import Names
from metier.facts import names
from metier.facts.dates import Date
from metier.facts.fact import Fact

_DATES = frozenset({"born", "died", "occurred"})
_WORDS_OF_EVENTS = 2
"""Telling words that two names of one event share at least."""


def doubles(facts: Iterable[Fact], known: Names) -> dict[str, set[str]]:
    """Return of each subject those that it may be, too: their dates agree, and they share a surname or some words."""
    dated: dict[tuple[str, int], dict[str, Date]] = defaultdict(dict)
    for fact in facts:
        if fact.relation in _DATES and fact.date is not None and fact.date.years[0] == fact.date.years[1]:
            dated[fact.relation, fact.date.first[0]][fact.subject] = fact.date
    found: dict[str, set[str]] = defaultdict(set)
    for (relation, _), of_year in dated.items():
        by_word: dict[str, list[str]] = defaultdict(list)
        for subject in of_year:
            for word in _marks(relation, subject, known):
                by_word[word].append(subject)
        shared: dict[tuple[str, str], int] = defaultdict(int)
        for subjects in by_word.values():
            for pair in combinations(sorted(subjects), 2):
                shared[pair] += 1
        for (one, two), words in shared.items():
            enough = words >= (_WORDS_OF_EVENTS if relation == "occurred" else 1)
            if enough and of_year[one].agrees(of_year[two]):
                found[one].add(two)
                found[two].add(one)
    return found


def _marks(relation: str, subject: str, known: Names) -> set[str]:
    """Return the words by which a subject is compared: of persons the last ones of their names."""
    called = known.entries[subject].names
    if relation == "occurred":
        return {word for name in called for word in names.telling(name)}
    return {key.split()[-1] for name in called if (key := names.key(name))}
