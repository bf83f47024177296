"""Dates as history writes them: ``15 March 44 BC``, ``circa 570 BC``, ``5th century``, ``1914-18``; compared as dates.

Years are the historians': 1 BC is -1, AD 1 is 1, there is no year 0. The 29th of February is taken in every year that
Caesar's calendar gives it up to 1923, when the last country left that calendar.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

EARLIEST, LATEST = -10000, 2100
"""Years outside are impossible."""

CIRCA_YEARS = 10
"""How far a date marked as uncertain may be from another and still agree with it."""

Day = tuple[int, int, int]
"""Year, month and day."""

MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class NotADateError(ValueError):
    """A text is no date that can be relied on.

    Args:
        reason: in a few words, the same for all of its kind, such as ``impossible date``.
        text: what was read.
        fix: what to write instead.
    """

    def __init__(
        self, reason: str, text: str, fix: str = "Write a date such as '1066', '44 BC' or '1945-05-08'"
    ) -> None:
        self.reason, self.text, self.fix = reason, text, fix
        super().__init__(f"{text!r}: {reason}. {fix}")


@dataclass(frozen=True, order=True)
class Date:
    """A stretch of days, first and last included: a day, a month, a year, a century, a war.

    Dates are ordered by their first day, then their last; ``str`` prints one, and `parse` reads that back.
    """

    first: Day
    last: Day
    circa: bool = False

    def __post_init__(self) -> None:
        """Refuse days that there are not, and ends before beginnings."""
        for year, month, day in (self.first, self.last):
            if year == 0 or not EARLIEST <= year <= LATEST or not 1 <= month <= 12 or not 1 <= day <= days(year, month):
                raise NotADateError("impossible date", f"{year}-{month}-{day}")
        if self.last < self.first:
            raise NotADateError("ends before it begins", f"{self.first} to {self.last}")

    def __str__(self) -> str:
        """Return the date as it is read aloud."""
        return ("circa " if self.circa else "") + self._plain()

    def _plain(self) -> str:
        if century := century_of(self):
            return century
        one = short_form(self)
        if one is not None:
            return one
        parts = [year_of(self.first[0]), year_of(self.last[0])]
        if self.first[1:] != (1, 1) or self.last[1:] != (12, 31):
            parts = [f"{day} {MONTHS[month - 1]} {year_of(year)}" for year, month, day in (self.first, self.last)]
        return " to ".join(parts)

    @property
    def years(self) -> tuple[int, int]:
        """The first and the last year."""
        return self.first[0], self.last[0]

    def holds(self, other: "Date") -> bool:
        """Return whether every day of the other is one of this."""
        return self.first <= other.first and other.last <= self.last

    def before(self, other: "Date") -> bool:
        """Return whether the date is over, by what is known, when the other begins."""
        return self.last < other.first

    def agrees(self, other: "Date") -> bool:
        """Return whether both can be the date of one thing: they share a day, or nearly where one is uncertain."""
        slack = CIRCA_YEARS if self.circa or other.circa else 0
        return _moved(self.first, -slack) <= other.last and other.first <= _moved(self.last, slack)

    def to(self, other: "Date") -> "Date":
        """Return the stretch from this date to the other; raises NotADateError when that one is earlier."""
        return Date(self.first, other.last, self.circa or other.circa)


def days(year: int, month: int) -> int:
    """Return the most days that a month had in a year by either calendar."""
    if month != 2:
        return _DAYS[month - 1]
    count = year if year > 0 else year + 1
    gregorian = count % 4 == 0 and (count % 100 != 0 or count % 400 == 0)
    return 29 if gregorian or (count % 4 == 0 and year < 1924) else 28


def year(number: int, circa: bool = False) -> Date:
    """Return a whole year; BC is negative. Raises NotADateError for a year 0 or outside of history."""
    return Date((number, 1, 1), (number, 12, 31), circa)


def month(number: int, of: int, circa: bool = False) -> Date:
    """Return a whole month of a year; raises NotADateError when there is none."""
    if not 1 <= of <= 12:
        raise NotADateError("impossible date", f"month {of} of {number}")
    return Date((number, of, 1), (number, of, days(number, of)), circa)


def day(number: int, of: int, at: int, circa: bool = False) -> Date:
    """Return a day of a year, month and day; raises NotADateError when there is none."""
    return Date((number, of, at), (number, of, at), circa)


def century(number: int, bc: bool = False, circa: bool = False) -> Date:
    """Return a century, counted from 1."""
    if not 1 <= number <= (-EARLIEST if bc else LATEST) // 100:
        raise NotADateError("impossible date", f"century {number}")
    first, last = (-100 * number, -100 * number + 99) if bc else (100 * number - 99, 100 * number)
    return year(first, circa).to(year(last))


def year_of(number: int) -> str:
    """Return a year as it is written: ``44 BC``, ``AD 14``, ``1066``."""
    return f"{-number} BC" if number < 0 else f"AD {number}" if number < 100 else str(number)


def ordinal(number: int) -> str:
    """Return ``1st``, ``2nd``, ``13th``, ..."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def century_of(date: Date) -> str | None:
    """Return "5th century BC" of a date that is a whole century; None of others."""
    (start, *first), (end, *last) = date.first, date.last
    if end - start != 99 or first != [1, 1] or last != [12, 31]:
        return None
    if start > 0 and start % 100 == 1:
        return f"{ordinal(end // 100)} century"
    return f"{ordinal(-start // 100)} century BC" if start < 0 and start % 100 == 0 and end < 0 else None


def decade_of(date: Date) -> str | None:
    """Return "1840s" or "490s BC" of a date that is a whole decade; None of others."""
    (start, *first), (end, *last) = date.first, date.last
    if end - start != 9 or first != [1, 1] or last != [12, 31]:
        return None
    if start > 0 and start % 10 == 0:
        return f"{start}s"
    return f"{-end}s BC" if end < 0 and end % 10 == 0 else None


def short_form(date: Date) -> str | None:
    """Return a day, a month or a year; None for anything longer."""
    (number, month, at), last = date.first, date.last
    if date.first == last:
        return f"{at} {MONTHS[month - 1]} {year_of(number)}"
    if at == 1 and last == (number, month, days(number, month)):
        return f"{MONTHS[month - 1]} {year_of(number)}"
    return year_of(number) if (month, at) == (1, 1) and last == (number, 12, 31) else None


def _moved(day: Day, years: int) -> Day:
    return (day[0] + years, *day[1:])


MONTH = "|".join(f"{name[:3]}(?:{name[3:]}|\\.)?" if len(name) > 3 else name for name in MONTHS).replace(
    "Sep(", "Sept?("
)
DASH = r"\s*[-\u2010-\u2015]\s*"
BC, AD = r"B\.?\s?C\.?(?:\s?E\.?)?", r"A\.?\s?D\.?|C\.?\s?E\.?"
"""How texts mark dates, as regular expressions without case."""
CIRCA = r"(?:circa|about|around|approximately|probably|perhaps|ca?\.?(?=\s|\d)|~)"
_YEAR = rf"(?:(?:{AD})\s?)?\d{{1,5}}(?:\s?(?:{BC}|{AD})(?![A-Za-z]))?"
_UNCERTAIN = re.compile(rf"{CIRCA}\s*", re.IGNORECASE)
_RANGE = re.compile(
    rf"(?:(?:from|between)\s+)?(?P<from>.+?)(?:\s+(?:to|until|till|and)\s+|{DASH})(?P<to>.+)", re.IGNORECASE
)
_ERA = re.compile(rf"(?P<bc>{BC})$|(?P<ad>{AD})$|^(?P<before>{AD})", re.IGNORECASE)


class _Year(NamedTuple):
    number: int
    """Without a sign."""
    era: str | None
    """``BC``, ``AD`` or not stated."""


def parse(text: str, short_years: bool = False) -> Date:
    """Read a date or a stretch of time.

    Args:
        text: such as ``1066``, ``15 March 44 BC``, ``circa 570 BC``, ``1945-05-08``, ``525-456 BC``, ``1914-18``.
        short_years: whether a year of one or two digits without BC or AD is one of the first century, as in a list of
            Romans; else it could be of any century, and is refused.

    Raises:
        NotADateError: when it is no date, one that never was, or one that can be read in two ways.
    """
    plain = " ".join(text.split()).strip(" ,;").removeprefix("'")
    circa = False
    while found := _UNCERTAIN.match(plain):
        circa, plain = True, plain[found.end() :]
    if re.search(r"\d\s?\?", plain):
        circa, plain = True, re.sub(r"(?<=\d)\s?\?", "", plain)
    if plain[:1] in ("-", "\u2212") or not plain:
        fix = "Write '44 BC' instead of a minus sign: to some -44 is 44 BC, to others 45 BC"
        raise NotADateError("not a date", text, fix if plain else "Write a date such as '1066'")
    date = _one(plain, text, short_years) or _stretch(plain, text, short_years)
    if date is None:
        raise NotADateError("not a date", text)
    return Date(date.first, date.last, circa or date.circa)


def _one(plain: str, text: str, short: bool) -> Date | None:
    for form, reader in _FORMS:
        if found := form.fullmatch(plain):
            try:
                return reader(found, text=text, short=short)
            except NotADateError as error:
                raise NotADateError(error.reason, text, error.fix) from error
    return None


def _stretch(plain: str, text: str, short: bool) -> Date | None:
    """Read two dates with a dash or a word between them; an era stated once holds for both."""
    found = _RANGE.fullmatch(plain)
    if not found:
        return None
    begin, end = found["from"], found["to"]
    if (first := _bare(begin)) and (last := _as_year(end)):
        if last.era is None and len(str(last.number)) < len(str(first)) and re.fullmatch(r"\d{1,2}", end):
            end = str(first)[: -len(end)] + end  # 1914-18
        if last.era == "BC" and first > last.number:
            begin = f"{begin} BC"  # 525-456 BC
        elif last.era == "AD" and first < last.number:
            begin = f"AD {begin}"
    parts = [parse(part, short) for part in (begin, end)]
    try:
        return parts[0].to(parts[1])
    except NotADateError as error:
        raise NotADateError(error.reason, text, "Write the earlier date first") from error


def _bare(text: str) -> int | None:
    """Return a year that states no era."""
    return int(text) if re.fullmatch(r"\d{1,4}", text) else None


def _as_year(text: str) -> _Year | None:
    return _read_year(text) if re.fullmatch(_YEAR, text, re.IGNORECASE) else None


def _read_year(text: str) -> _Year:
    found = _ERA.search(text.strip())
    era = None if not found else "BC" if found["bc"] else "AD"
    digits = re.search(r"\d+", text)
    assert digits
    return _Year(int(digits[0]), era)


def _signed(found: re.Match[str], text: str, short: bool) -> int:
    written = found["y"]
    number, era = _read_year(written)
    if not number or number > (-EARLIEST if era == "BC" else LATEST):
        raise NotADateError("impossible date", text)
    if era is None and number < 100 and not short and not re.search(r"\d{4}", written):
        raise NotADateError("two-digit year", text, "Write the year in full, or 'AD 45'")
    return -number if era == "BC" else number


def _month_number(name: str) -> int:
    return next(number for number, month in enumerate(MONTHS, 1) if month[:3].casefold() == name.casefold()[:3])


def _read_iso(found: re.Match[str], *, text: str, short: bool) -> Date:
    if found["d"] is None:
        if int(found["m"]) > 12:  # 1914-18
            return year(int(found["y"])).to(year(int(found["y"][:-2] + found["m"])))
        if int(found["m"]) > int(found["y"][-2:]) and int(found["m"]):
            to = f"{found['y']} to {found['y'][:-2]}{found['m']}"
            fix = f"Write '{to}', or '{MONTHS[int(found['m']) - 1]} {found['y']}' if it is a month"
            raise NotADateError("a month or a later year", text, fix)
        return month(int(found["y"]), int(found["m"]))
    return day(int(found["y"]), int(found["m"]), int(found["d"]))


def _read_numbers(found: re.Match[str], *, text: str, short: bool) -> Date:
    one, two = int(found["a"]), int(found["b"])
    if len(found["y"]) < 3:
        raise NotADateError("two-digit year", text, "Write the year in full, such as '1945-05-08'")
    if one <= 12 and two <= 12 and one != two:
        raise NotADateError("day and month could be swapped", text, "Write the year first, such as '1945-05-08'")
    at, of = (one, two) if one > 12 else (two, one)
    return day(_signed(found, text, short), of, at)


def _read_century(found: re.Match[str], *, text: str, short: bool) -> Date:
    return century(int(found["n"]), bc=(found["era"] or "").upper().startswith("B"))


def _read_decade(found: re.Match[str], *, text: str, short: bool) -> Date:
    number = int(found["y"])
    return year(-number - 9).to(year(-number)) if found["bc"] else year(number).to(year(number + 9))


def _read_day(found: re.Match[str], *, text: str, short: bool) -> Date:
    return day(_signed(found, text, short), _month_number(found["month"]), int(found["d"]))


def _read_days(found: re.Match[str], *, text: str, short: bool) -> Date:
    number, of = _signed(found, text, short), _month_number(found["month"])
    return day(number, of, int(found["d"])).to(day(number, of, int(found["e"])))


def _read_month(found: re.Match[str], *, text: str, short: bool) -> Date:
    return month(_signed(found, text, short), _month_number(found["month"]))


def _read_year_alone(found: re.Match[str], *, text: str, short: bool) -> Date:
    return year(_signed(found, text, short))


def _form(pattern: str, reader: Callable[..., Date]) -> tuple[re.Pattern[str], Callable[..., Date]]:
    return re.compile(pattern, re.IGNORECASE), reader


_PART_OF = r"(?:the\s+)?(?:(?:early|mid|late|middle)[\s-]+)?"
_DAY = r"(?P<d>\d{1,2})(?:st|nd|rd|th)?"
_FORMS = (
    _form(r"(?P<y>\d{4})-(?P<m>\d{1,2})(?:-(?P<d>\d{1,2}))?(?:T[\d:.]+Z?)?", _read_iso),
    _form(r"(?P<a>\d{1,2})(?P<mark>[/.-])(?P<b>\d{1,2})(?P=mark)(?P<y>\d{1,4})", _read_numbers),
    _form(rf"{_PART_OF}(?P<n>\d{{1,2}})(?:st|nd|rd|th)[\s-]+century(?:\s(?P<era>{BC}|{AD}))?", _read_century),
    _form(rf"{_PART_OF}(?P<y>\d{{3}}0|\d{{1,2}}0(?='?s\sB))'?s(?:\s(?P<bc>{BC}))?", _read_decade),
    _form(rf"{_DAY}\.?\s+(?:of\s+)?(?P<month>{MONTH}),?\s+(?P<y>{_YEAR})", _read_day),
    _form(rf"(?P<month>{MONTH})\s+{_DAY},?\s+(?P<y>{_YEAR})", _read_day),
    _form(rf"(?P<d>\d{{1,2}}){DASH}(?P<e>\d{{1,2}})\s+(?P<month>{MONTH}),?\s+(?P<y>{_YEAR})", _read_days),
    _form(rf"(?P<month>{MONTH}),?\s+(?:of\s+)?(?P<y>{_YEAR})", _read_month),
    _form(rf"(?P<y>{_YEAR})", _read_year_alone),
)
