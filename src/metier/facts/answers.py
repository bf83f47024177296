"""Whether two answers say the same: dates as dates, anything else by its words."""

from collections import Counter

from metier.facts import dates, names
from metier.facts.dates import Date, NotADateError

_ARTICLES = frozenset({"a", "an", "the"})


def plain(answer: str) -> str:
    """Return an answer without case, accents, punctuation and articles.

    As SQuAD does (Rajpurkar et al. 2016, arXiv 1606.05250, section 6), and without accents.
    """
    return " ".join(_words(answer))


def date_of(answer: str) -> Date | None:
    """Return the date that an answer is, or None; "on 15 March 44 BC." and "In 1066" are dates."""
    bare = answer.strip().rstrip(".!")
    for word in ("on ", "in ", "about ", "around "):
        bare = bare[len(word) :] if bare.lower().startswith(word) else bare
    try:
        return dates.parse(bare)
    except NotADateError:
        return None


def right(answer: str, wanted: str) -> bool:
    """Return whether an answer is right: the same words, or a date that agrees and is no vaguer.

    A year is right for a day in it, and a day for its year; a century is right only where a century is wanted.
    """
    when = date_of(wanted)
    if when is None:
        return bool(plain(wanted)) and plain(answer) == plain(wanted)
    said = date_of(answer)
    return said is not None and said.agrees(when) and _years(said) <= max(1, _years(when))


def f1(answer: str, wanted: str) -> float:
    """Return how much of their words two answers share, 0 to 1 (SQuAD's F1); a date that is right is 1."""
    if right(answer, wanted):
        return 1.0
    said, expected = Counter(_words(answer)), Counter(_words(wanted))
    shared = (said & expected).total()
    return 2 * shared / (said.total() + expected.total()) if shared else 0.0


def _words(answer: str) -> list[str]:
    return [word for word in names.words(answer) if word not in _ARTICLES]


def _years(date: Date) -> int:
    first, last = date.years
    return last - first + 1
