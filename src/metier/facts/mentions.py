"""Dates within sentences: where they are, and whether a sentence states one."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from metier.facts.dates import (
    AD,
    BC,
    CIRCA,
    DASH,
    MONTH,
    MONTHS,
    Date,
    NotADateError,
    century_of,
    decade_of,
    parse,
    short_form,
)

_UNITS = (
    "feet|foot|miles?|met(?:er|re)s?|kilomet(?:er|re)s?|km|years?|stories|pounds?|tons?|square|people|men|ships|million"
)
_FULL_YEAR = (
    rf"(?:(?:(?:{AD})\s?\d{{1,4}})|(?:\d{{1,4}}\s?(?:{BC}|A\.?D\.?)(?![A-Za-z]))|"
    rf"(?<![\d,.])(?:1\d{{3}}|20\d\d)(?![\d,]*\d)(?!\s?(?:{_UNITS})\b))"
)
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_INSIDE = rf"(?:(?:{_DAY}\s+(?:of\s+)?)?(?:{MONTH})\s+(?:{_DAY},?\s+)?)?{_FULL_YEAR}"
_CENTURY = rf"(?:(?:early|mid|late)[\s-]+)?\d{{1,2}}(?:st|nd|rd|th)[\s-]+century(?:\s(?:{BC}|{AD}))?"
_IN_TEXT = re.compile(
    rf"(?<![\w-])(?:{CIRCA}\s+)?(?:"
    rf"(?:from\s+(?:{CIRCA}\s+)?|between\s+)?(?:{_INSIDE}|\d{{1,4}})(?:\s+(?:to|until|and)\s+|{DASH})"
    rf"(?:{CIRCA}\s+)?{_INSIDE}"
    rf"|(?:1\d|20)\d\d{DASH}\d\d(?!\d)|{_CENTURY}|\d{{3}}0s(?!\w)|\d{{1,3}}0s\s(?:{BC})|{_INSIDE})(?!\w)",
    re.IGNORECASE,
)
_SHORT = re.compile(
    r"(?:in|by|until|since|year)\s+(?P<year>[1-9]\d{2})(?=$|[\s.;:)])(?!\s+(?:\w+s|million|thousand|billion)\b)"
)


_AFTER_CHRIST = rf"(?i)\d+(?!\d)(?!\s?(?:{BC})(?![a-z]))"


class Mention(NamedTuple):
    """A date within a text."""

    date: Date
    start: int
    end: int


def mentions(text: str) -> Iterator[Mention]:
    """Yield the dates that a text mentions, from left to right: what could be a number of anything else is left out."""
    found = [(match.start(), match.end()) for match in _IN_TEXT.finditer(text)]
    taken = {place for start, end in found for place in range(start, end)}
    found += [match.span("year") for match in _SHORT.finditer(text) if match.start("year") not in taken]
    for start, end in sorted(found):
        try:
            yield Mention(parse(text[start:end]), start, end)
        except NotADateError:
            continue


def holds(text: str, date: Date) -> bool:
    """Return whether a text states a date: its years, and of a day or month these too, in figures or by name."""
    if century := century_of(date):
        pattern = century.removesuffix(" BC").replace(" ", r"[\s-]+")
        return re.search(rf"(?<!\w){pattern}", text, re.IGNORECASE) is not None and (
            not century.endswith("BC") or bool(re.search(BC, text, re.IGNORECASE))
        )
    (start, *first), (end, *last) = date.first, date.last
    figures = Counter(re.findall(_AFTER_CHRIST if start > 0 else r"\d+", text))
    decade = decade_of(date)
    years = {str(abs(start)), str(abs(end))}
    missing = {shown for shown in years if shown not in figures and shown.zfill(4) not in figures}
    if not (decade and decade.removesuffix(" BC") in text) and any(
        not (shown == str(end) and shown[-2:] in figures) for shown in missing
    ):
        return False
    if start < 0 and not re.search(BC, text, re.IGNORECASE):
        return False
    if (first, last) == ([1, 1], [12, 31]):
        return True
    whole = short_form(date) is not None and date.first != date.last
    return all(_states(text, figures, of, None if whole else at) for _, of, at in {date.first, date.last})


def _states(text: str, figures: Counter[str], month: int, at: int | None) -> bool:
    name = MONTHS[month - 1]
    named = re.search(rf"\b{name[:3]}(?:{name[3:]}|t)?\b", text, re.IGNORECASE)
    wanted = [*([] if named else [month]), *([] if at is None else [at])]
    there = Counter({number: sum(figures[shown] for shown in {str(number), f"{number:02}"}) for number in wanted})
    return Counter(wanted) <= there
