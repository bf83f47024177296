"""Whether two answers say the same, dates as dates, anything else by its words; and whether one is an answer at all."""

import re
from collections import Counter

from metier.facts import dates, names
from metier.facts.dates import Date, NotADateError

_ARTICLES = frozenset({"a", "an", "the"})

_CLAUSE_END = re.compile(r"[.;:!?,]+(?=\s|$)|\n|\s[-\u2013]\s|\u2014")

_THING = (
    r"(?:(?:exact|precise|actual|correct) )?"
    r"(?:date|year|day|time|place|location|name|answer|author|cause|birthplace)(?: of (?:birth|death))?"
)
_STATE = (
    r"(?:(?:currently|still|yet|exactly|precisely|reliably|generally|widely) )?"
    r"(?:known|recorded|available|documented|specified|stated|given|provided|mentioned|certain|clear|sure)"
)
_MATTER = r"(?:information|data|details|records?|knowledge|answer)"
_NOT_KNOWING = re.compile(
    "|".join(
        (
            # "Unknown", "Not known", "The exact date is not recorded", "Unknown date"
            rf"(?:(?:it|this|that|(?:the )?{_THING})(?: is| was)? |its |thats )?"
            rf"(?:unknown|unrecorded|unspecified|uncertain|unclear|not {_STATE}|not applicable)(?: to me)?",
            rf"unknown {_THING}",
            r"n a|idk",
            # "No information available", "No known date"
            rf"(?:there (?:is|are) )?no {_MATTER}(?: (?:is|are))?(?: {_STATE})?|no idea",
            rf"no (?:{_THING} (?:is )?{_STATE}|known {_THING})",
            # "I do not know", "Don't know for sure", "I have no idea", "I'm not sure"
            r"(?:i )?(?:(?:really|honestly|simply|just) )?(?:do not|dont)(?: (?:really|actually))? know"
            r"(?: (?:it|this|that|yet|exactly|for (?:sure|certain)|(?:the )?answer(?: to \w+ question)?))?",
            r"i (?:cannot|can not|cant|do not|dont|am unable to|am not able to) (?:say|tell|answer|recall|remember)"
            r"(?: (?:it|this|that)(?: question)?)?",
            rf"(?:i )?(?:have|ive) no (?:idea|clue|{_MATTER})|i (?:do not|dont) have (?:any |enough )?{_MATTER}",
            r"(?:i am|im) (?:not (?:sure|certain|aware)|unsure|uncertain)",
            r"(?:nobody|no one) knows(?: (?:exactly|for (?:sure|certain)))?",
            r"(?:(?:it|this|that) )?(?:cannot|can not|cant|could not) be (?:determined|known|established|answered)",
        )
    )
)
"""Whole clauses, as words without case and punctuation, that say that something is not known."""

_ASKS = r"(?:when|where|who|whom|whose|what|which|how|why|whether|if)\b"
_ABOUT = r"(?:about|of|on|for|regarding|concerning|as to)\b"
_NOT_KNOWING_WHAT = re.compile(
    rf"(?:I (?:do not|don't|cannot|can't|am not able to|am unable to) (?:know|say|tell|recall|remember) (?:{_ASKS}|"
    rf"(?:the|anything|enough|much|any) )"
    rf"|(?:I have no|I (?:do not|don't) have (?:any |enough )?|[Tt]here (?:is|are) no |[Nn]o )\s*"
    rf"(?:specific |reliable |known |recorded |historical )?(?:{_MATTER}|idea) (?:{_ABOUT}|{_ASKS})"
    rf"|I(?: am|'m) not (?:sure|certain|aware) (?:{_ASKS}|of\b|about\b|the )"
    rf"|(?:[Ii]t is|[Ii]t's) (?:unknown|unclear|uncertain|not (?:known|recorded|certain|clear)) {_ASKS}"
    rf"|[Nn]obody knows {_ASKS}"
    rf"|[Tt]he {_THING} of .+ (?:is|was) (?:unknown|not {_STATE}|uncertain)$)"
)
"""Beginnings of a clause that then repeats what was asked, in the case of a sentence: titles are in another."""

_GUESSES = re.compile(
    r"\b(?:but|maybe|perhaps|probably|possibly|likely|however|although|though|think|believe|guess|only|except|because)\b"
)
_COURTESY = re.compile(
    r"(?:(?:i am|im) )?(?:very |so )?sorry|unfortunately|apologies|(?:the )?answer|well|as an ai(?: language model)?"
)
_LEAD = re.compile(r"^(?:(?:(?:I am|I'm) )?sorry |unfortunately )?(?:but |and |so )?", re.IGNORECASE)


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


def abstains(answer: str, own_words: str, wanted: str = "") -> bool:
    """Return whether an answer gives none: it says nothing, or that it does not know.

    The job's own words for not knowing count, and so do the usual English ones, the same for whoever says them:
    "Unknown", "Not known", "N/A", "No information available", "I'm sorry, but I don't know when he was born." Each
    clause must say so: "Tomb of the Unknown Soldier", "1066 (exact date unknown)" and "I don't know, perhaps 1066" are
    answers. "None" is one, too, and so is "Na", sodium.

    Args:
        answer: what was said.
        own_words: the job's words for not knowing.
        wanted: the answer that is wanted, if one is known here; what is right is never taken for not knowing.
    """
    if not plain(answer) or right(answer, own_words):
        return True
    if right(answer, wanted):
        return False
    clauses = [clause for part in _CLAUSE_END.split(answer.replace("\u2019", "'")) if (clause := part.strip())]
    said = [clause for clause in clauses if not _COURTESY.fullmatch(" ".join(names.words(clause)))]
    return bool(said) and all(_not_knowing(clause, own_words) for clause in said)


def f1(answer: str, wanted: str) -> float:
    """Return how much of their words two answers share, 0 to 1 (SQuAD's F1); a date that is right is 1."""
    if right(answer, wanted):
        return 1.0
    said, expected = Counter(_words(answer)), Counter(_words(wanted))
    shared = (said & expected).total()
    return 2 * shared / (said.total() + expected.total()) if shared else 0.0


def _not_knowing(clause: str, own_words: str) -> bool:
    bare = _LEAD.sub("", clause).strip("\"'*()[]_ ")
    if right(bare, own_words) or _NOT_KNOWING.fullmatch(" ".join(names.words(bare))):
        return True
    found = _NOT_KNOWING_WHAT.match(bare)
    return found is not None and not _GUESSES.search(bare[found.start() :])


def _words(answer: str) -> list[str]:
    return [word for word in names.words(answer) if word not in _ARTICLES]


def _years(date: Date) -> int:
    first, last = date.years
    return last - first + 1
