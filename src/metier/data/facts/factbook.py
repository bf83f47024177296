"""The World Factbook's profiles of countries, one JSON file each: independence and capitals.

Only what has one plain answer is taken: a country with three capitals, or several dates of which none is called its
independence, is left out.
"""

import html
import json
import re
from collections.abc import Iterator
from typing import Any

from metier.data.facts.found import Found, Left, Line, Subject, dated, without_remarks
from metier.errors import DataError
from metier.facts import names
from metier.facts.mentions import Mention, mentions

_TAG = re.compile(r"<[^<>]*>")
_FROM = re.compile(r"\(from (?:the )?(?P<whom>[A-Z][^;()]*)\)")
_FREEDOM = ("independence", "independent of")
_FREED = re.compile(r"\b(?:independen\w*|from (?:the )?[A-Z]|following|ended|end of)")
_NO_STATE = re.compile(r"\b(?:trusteeship|mandate|protectorate|control|administration|rule)\b", re.IGNORECASE)
_LEGEND = re.compile(r"tradition|legend|mytholog|notable earlier")
_NO_CAPITAL = re.compile(r"\b(?:no official|administered|note|aka)\b")


def read_factbook(file: str, text: str) -> Iterator[Found | Left]:
    """Yield what a profile says.

    Args:
        file: its name, for the facts' places.
        text: of the file.

    Raises:
        DataError: when it is no profile.
    """
    try:
        profile = json.loads(text)
        government = profile.get("Government", {})
        named = government.get("Country name", {})
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(
            file, f"is no profile of a country ({error})", "Set path to the folder of its JSON files"
        ) from error
    spelt = [_plain(named.get(f"conventional {form} form")) for form in ("short", "long")]
    spelt += [_plain(named.get(f"local {form} form")) for form in ("short", "long")]
    bare = [without_remarks(name.partition(";")[0]) for name in spelt]
    known = [name for name in bare if name and name.lower() not in ("none", "na")]
    if len(known) > 1 and names.key(known[1]).startswith(names.key(known[0]) + " "):
        known[:2] = [known[1], known[0]]  # "The Dominican", short for "Dominican Republic"
    if not known:
        yield Left("no name of a country", Line(file, ""))
        return
    subject = Subject(tuple(dict.fromkeys(known)), "place", "country")
    yield from _independence(subject, _said(file, subject, government, "Independence"))
    yield from _capital(subject, _said(file, subject, government, "Capital", "name"))


def _said(file: str, subject: Subject, government: dict[str, Any], *keys: str) -> Line:
    value: Any = government
    for key in keys:
        value = value.get(key, {}) if isinstance(value, dict) else {}
    text = _plain(value)
    return Line(f"{file}, Government: {keys[0]}", f"{subject.names[0]}. {keys[0]}: {text}" if text else "")


def _plain(value: Any) -> str:
    """Return an entry's text without markup."""
    text = value.get("text", "") if isinstance(value, dict) else ""
    return " ".join(html.unescape(_TAG.sub(" ", str(text))).split())


def _independence(subject: Subject, line: Line) -> Iterator[Found | Left]:
    text = line.text.partition("Independence: ")[2]
    if not text or text.lower().startswith("none"):
        yield Left("not independent" if text else "nothing said", line, (subject, _FREEDOM) if text else None)
        return
    chosen = _one_date(text)
    if chosen is None:
        yield Left("no one date of independence", line, (subject, _FREEDOM))
        return
    after = text[chosen.end :].lstrip()
    whom = _FROM.match(after)
    if not whom and not _FREED.search(text[: chosen.start] + after.partition(")")[0]):
        yield Left("a date, but not of independence", line, (subject, _FREEDOM))
        return
    yield dated(subject, "independence", chosen.date, line)
    if whom and len(whom["whom"]) <= 60 and not _NO_STATE.search(whom["whom"]):
        yield Found(subject, "independent of", whom["whom"], None, line)


def _one_date(text: str) -> Mention | None:
    """Return the only date, or else the only one that is followed by "(from ...)", before any legend."""
    if text.startswith("no official"):
        return None
    told = text[: found.start()] if (found := _LEGEND.search(text)) else text
    outside = [
        mention for mention in mentions(told) if told.count("(", 0, mention.start) == told.count(")", 0, mention.start)
    ]
    if len(outside) == 1:
        return outside[0]
    freed = [mention for mention in outside if _FROM.match(told[mention.end :].lstrip())]
    return freed[0] if len(freed) == 1 else None


def _capital(subject: Subject, line: Line) -> Iterator[Found | Left]:
    text = line.text.partition("Capital: ")[2]
    if not text:
        yield Left("nothing said", line)
        return
    first = text.partition(";")[0]
    plain = without_remarks(first)
    several = ";" in text.partition("note")[0].rstrip("; ") or re.search(r"capital", text)
    if several or _NO_CAPITAL.search(plain) or not 2 <= len(plain) <= 40 or (", " in plain and "D.C." not in plain):
        yield Left("several capitals, or none", line, (subject, ("capital",)))
        return
    yield Found(subject, "capital", re.sub(r" in \w+$", "", plain), None, line)
