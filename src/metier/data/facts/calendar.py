"""Calendars of BSD's ``calendar``: ``01/04<tab>Burma becomes independent from United Kingdom, 1948``.

An entry goes on in lines that begin with white space. Entries of births and deaths become facts about a person; every
other one with a year is an event. What has no fixed day, such as Easter, or no year, such as a feast, is left out.
"""

import re
from collections.abc import Iterable, Iterator

from metier.data.facts.found import Found, Left, Line, Subject, dated, without_remarks
from metier.facts import dates
from metier.facts.dates import Date, NotADateError

_ENTRY = re.compile(r"(?P<month>\d\d)/(?P<day>\d\d)\s+(?P<text>\S.*)")
_YEAR = re.compile(
    r"(?:(?<!\d)[,;(]\s*(?:in |circa |c\. ?)?|\s(?=1\d{3}\.?$))"
    r"(?P<year>\d{1,4}\s?(?:B\.?\s?C\.?|A\.?D\.?)\??|\d{4}\??|\d{1,3}\??(?=\)?(?:$|[,;.)])))\)?(?=$|[\s,;.)])",
    re.IGNORECASE,
)
_LIFE = re.compile(
    r"(?P<name>.+?),?\s(?:(?:is|was)\s)?(?:(?P<born>born)\b(?:\sin\s(?P<place>[A-Z].*)|,?\s(?:near\s|at\s)?[A-Z].*)?|"
    r"(?:dies|died|passes away)\b.*)"
)
_DEATH_OF = re.compile(r"Death of (?P<name>[A-Z].+)")
_NICKNAME = re.compile(r"[\"\u201c]([^\"\u201d]+)[\"\u201d]")
_PARTICLES = frozenset(re.findall(r"\w+", "of de del della der den di da du la le los the van von y ibn al ten ter zu"))
_FOUGHT = re.compile(
    r"(?:The )?(?P<name>(?:Battle|Siege) of (?:the )?[A-Z]\S*(?: [A-Z]\S*)*)(?: (?:begins|starts|is fought))?"
)

LONGEST_EVENT = 120
"""Characters of the longest entry that still makes a question."""


def read_calendar(file: str, lines: Iterable[str]) -> Iterator[Found | Left]:
    """Yield what the entries of a calendar say.

    Args:
        file: its name, for the facts' places.
        lines: of the file.
    """
    for number, text in _entries(lines):
        line = Line(f"{file}, line {number}", text)
        entry = _ENTRY.fullmatch(text)
        if not entry:
            yield Left("no fixed day", line)
            continue
        years = list(_YEAR.finditer(entry["text"]))
        if not years:
            yield Left("no year", line)
            continue
        try:
            yield from _facts(entry, years, line)
        except NotADateError as error:
            yield Left(error.reason, line)


def _entries(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield entries with the number of their first line, without comments and directives."""
    started, parts, comment = 0, list[str](), False
    for number, raw in enumerate(lines, 1):
        line = raw.rstrip()
        if comment or line.lstrip().startswith("/*"):
            comment = "*/" not in line
            continue
        if line[:1].isspace() and parts:
            parts.append(line.strip())
            continue
        if parts:
            yield started, " ".join(" ".join(parts).split())
        started, parts = number, [line] if line and not re.match(r"#|[A-Z]+=", line) else []
    if parts:
        yield started, " ".join(" ".join(parts).split())


def _facts(entry: re.Match[str], years: list[re.Match[str]], line: Line) -> Iterator[Found | Left]:
    month, day = int(entry["month"]), int(entry["day"])
    told = entry["text"][: years[0].start()].strip(" ,;.")
    life = _LIFE.fullmatch(told) or _DEATH_OF.fullmatch(told)
    names = _person(life["name"]) if life else None
    if not life or not names:
        yield _event(entry, years[-1], line)
        return
    subject = Subject(names, "person", _hint(entry["text"][years[0].end() :]))
    parts = life.groupdict()
    yield dated(subject, "born" if parts.get("born") else "died", _date(years[0], month, day), line)
    if (place := parts.get("place")) and "?" not in place:
        yield Found(subject, "born in", without_remarks(place), None, line)


def _event(entry: re.Match[str], year: re.Match[str], line: Line) -> Found | Left:
    told = entry["text"][: year.start()].strip(" ,;.(")
    if len(told) > LONGEST_EVENT:
        return Left("no short name", line)
    if re.search(r"\b(?:born|dies|died|birthday)\b", told):
        return Left("several things in one entry", line)
    named = without_remarks(told)
    fought = _FOUGHT.fullmatch(named)
    names = tuple(dict.fromkeys([fought["name"], named] if fought else [named]))
    return dated(Subject(names, "event"), "occurred", _date(year, int(entry["month"]), int(entry["day"])), line)


def _date(found: re.Match[str], month: int, day: int) -> Date:
    year = dates.parse(found["year"], short_years=True)
    return dates.day(year.first[0], month, day, year.circa or "date uncertain" in found.string)


def _person(text: str) -> tuple[str, ...] | None:
    """Return a person's names: without what is before them ("Jazz great"), after a comma, or in brackets and quotes."""
    whole = without_remarks(text)
    plain = re.sub(r",(?! (?:Jr|Sr|I+)\b).*", "", whole)
    if plain != whole and " " not in plain:
        return None
    nicknames = _NICKNAME.findall(plain)
    spelt = [" ".join(_NICKNAME.sub(" ", plain).split()), *([_NICKNAME.sub(r"\1", plain)] if nicknames else [])]
    found = []
    for name in spelt:
        parts = name.split()
        small = [at for at, part in enumerate(parts) if part[0].islower() and part not in _PARTICLES]
        found.append(" ".join(parts[small[-1] + 1 :] if small else parts))
    named = [name for name in dict.fromkeys(found) if name and not re.search(r"\d|&", name)]
    fits = named and len(named[0].split()) <= 6 and named[0][0].isupper() and " and " not in plain
    return tuple(named) if fits else None


def _hint(after: str) -> str:
    """Return what follows the year, as in "born, 1797, first astronomer to map Mars"."""
    said = re.split(r"[;.]", without_remarks(after).strip(" ,;.)"))[0].strip()
    return said if 3 <= len(said) <= 60 and not re.search(r"\d", said) else ""
