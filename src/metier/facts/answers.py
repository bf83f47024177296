"""Whether two answers say the same, dates as dates, anything else by its words; and whether one is an answer at all."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from metier.facts import dates, names
from metier.facts.dates import Date, NotADateError
from metier.facts.mentions import mentions

RULES = 3
"""Raised when what counts as right changes: scores by other rules are worked out anew."""

_LEFT_OUT = frozenset({"a", "an", "the", "sir", "dr"})
"""Articles, and titles that tell nobody apart."""

_NOT = frozenset(names.words("no not dont cannot cant nobody"))
_KNOWN = frozenset(
    names.words(
        "know knows knew known sure certain clear recorded documented specified given available applicable say tell "
        "determined information data record records knowledge idea clue"
    )
)
_BESIDES = frozenset(
    names.words(
        "unknown one a an as ai language model the this that there it its i im ive me am is are was be do have has any "
        "yet still really exactly enough exact date year time place answer name question to for on but so sorry "
        "unfortunately"
    )
)
"""What else there may be in an answer that says nothing but that something is not known."""

_ASKED_AGAIN = re.compile(r"\b(?:when|where|who|whose|which|what|how|whether|about)\b.*", re.DOTALL)
"""What was asked, repeated in the case of a sentence: titles are in another."""

_STATES = {
    "britain": "united kingdom",
    "great britain": "united kingdom",
    "uk": "united kingdom",
    "us": "united states",
    "usa": "united states",
    "united states of america": "united states",
    "ussr": "soviet union",
    "uae": "united arab emirates",
}
"""By which the sources, and those who answer, call some states."""

_AMOUNT = re.compile(r"(?!\d{4}\s*[-\u2013]\s*\d\d(?:\d\d)?$)\d+\s*[-\u2013]\s*\d+|~\s*\d+")
"""What could be read as a date, and is never printed as one; years of four digits are years."""

_GUESSES = re.compile(r"\b(?:but|maybe|perhaps|probably|possibly|however|although|though|think|believe|only|except)\b")

_DIFFERS = re.compile(r"\b(?:not|no|before|after|until|till|since|between)\b|n't\b")
"""What makes another date of the one in a sentence."""


def plain(answer: str) -> str:
    """Return an answer without case, accents, punctuation, articles and "Sir"; "Saint" is "St.".

    As SQuAD does (Rajpurkar et al. 2016, arXiv 1606.05250, section 6), and without accents. A last "A" is no article:
    "vitamin A".
    """
    return " ".join(_words(answer))


def date_of(answer: str) -> Date | None:
    """Return the date that an answer is, or None; "on 15 March 44 BC." and "In 1066" are dates."""
    bare = answer.strip().rstrip(".!")
    for word in ("on ", "in ", "about ", "around ", "the "):
        bare = bare[len(word) :] if bare.lower().startswith(word) else bare
    try:
        return dates.parse(bare)
    except NotADateError:
        return None


def right(answer: str, wanted: str) -> bool:
    """Return whether an answer is right: the same words, or a date that agrees and is no vaguer.

    A year is right for a day in it, and a day for its year; a century is right only where a century is wanted, and a
    year within a reign or a war only where it is the first one. Where the date that is wanted is certain, one of the
    two lies within the other, and "circa" in an answer makes no wrong year right. A sentence says the only date in it.

    Args:
        answer: in any words.
        wanted: as facts have it: "120 to 180" and "1558-1603" are years, "120-180" and "~150" are amounts.
    """
    when = None if _AMOUNT.fullmatch(wanted.strip()) else date_of(wanted)
    if when is None:
        if not (expected := plain(wanted)):  # signs alone, such as those of planets
            return bool(wanted) and answer.strip() == wanted.strip()
        return _whole(plain(answer)) == _whole(expected)
    said = said_date(answer)
    if said is None or _years(said) > max(1, _years(when)):
        return False
    if when.circa:
        return said.agrees(when)
    within = when.holds(said) and (_is_span(when) or said.first[0] == when.first[0])
    return within or said.holds(when)


def settled(answer: str, wanted: str, also: Iterable[str]) -> str:
    """Return the wanted answer where an answer is another of its names, else the answer."""
    said = _whole(plain(answer))
    return wanted if said and said in {_whole(plain(name)) for name in also} else answer


def abstains(answer: str, own_words: str, wanted: str = "") -> bool:
    """Return whether an answer gives none: it says nothing, or that it does not know.

    The job's own words for not knowing count, and so do the usual English ones, the same for whoever says them:
    "Unknown", "N/A", "No information available", "I'm sorry, but I don't know when he was born." It must say nothing
    else: "Tomb of the Unknown Soldier", "1066 (exact date unknown)" and "I don't know, perhaps 1066" are answers.
    "None" is one, too, and so is "Na", sodium.

    Args:
        answer: what was said.
        own_words: the job's words for not knowing.
        wanted: the answer that is wanted, if one is known here; what is right is never taken for not knowing.
    """
    if right(answer, own_words):
        return True
    if right(answer, wanted):
        return False
    if not plain(answer):  # signs alone may be an answer, punctuation is none
        return all(unicodedata.category(sign)[0] in "CPZ" for sign in answer)
    again = _ASKED_AGAIN.search(answer)
    if again and _GUESSES.search(again[0]):
        return False
    said = names.words(answer[: again.start()] if again else answer)
    if said in (["n", "a"], ["idk"]):
        return True
    denies = "unknown" in said or not (_NOT.isdisjoint(said) or _KNOWN.isdisjoint(said))
    return denies and (_NOT | _KNOWN | _BESIDES).issuperset(said)


def f1(answer: str, wanted: str) -> float:
    """Return how much of their words two answers share, 0 to 1 (SQuAD's F1); a date that is right is 1."""
    if right(answer, wanted):
        return 1.0
    said, expected = Counter(_words(answer)), Counter(_words(wanted))
    shared = (said & expected).total()
    return 2 * shared / (said.total() + expected.total()) if shared else 0.0


def _whole(text: str) -> str:
    """Return a plain text, a state's short form written out where it is all there is."""
    return _STATES.get(text, text)


def _words(answer: str) -> list[str]:
    found = [names.SAME.get(word, word) for word in names.words(answer)]
    last = found[-1:] if found[-1:] == ["a"] else []
    return [word for word in found[: len(found) - len(last)] if word not in _LEFT_OUT] + last or found


def said_date(answer: str) -> Date | None:
    """Return the date that an answer is, or the only one in a sentence ("He was born in 1066").

    None where there is none, or the sentence says how the true one differs.
    """
    if when := date_of(answer):
        return when
    found = list(mentions(answer.strip().rstrip(".!")))
    return found[0].date if len(found) == 1 and not _DIFFERS.search(answer.lower()) else None


def _is_span(date: Date) -> bool:
    """Return whether a date is one about which no more is known, a decade or a century, and not a stretch of time."""
    return _years(date) == 1 or dates.century_of(date) is not None or dates.decade_of(date) is not None


def _years(date: Date) -> int:
    first, last = date.years
    return last - first + 1
