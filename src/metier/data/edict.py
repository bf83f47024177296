"""EDICT, the Japanese-English dictionary file: ``headword [reading] /(n) first meaning/another/``."""

import re
from collections.abc import Iterable, Iterator

from metier.data.tables import LeftOut, Row

_ENTRY = re.compile(r"(?P<word>[^\s/]+)(?: \[(?P<reading>[^\]]*)\])? /(?P<meanings>.+)/$")
_REMARK = re.compile(r"\([^()]*\)|\{[^{}]*\}")
_UNUSUAL = re.compile(r"\((?:[^()]*,)?(?:arch|obs|obsc|oK|iK|io|ik|ok|vulg|X|derog|dated)(?:,[^()]*)?\)")
_MARKS = re.compile(r"(?:P|Ent[A-Z]\d+X?)$")


def read_edict(lines: Iterable[str]) -> Iterator[Row]:
    """Yield headword, first meaning and reading (the headword itself where it has none) of every entry.

    The first meaning is the text up to the second slash without remarks in brackets, which hold the part of speech, the
    field and the like. Entries marked as archaic, obsolete, rude or irregular, and those whose first meaning is nothing
    but remarks, are left out.
    """
    for number, line in enumerate(lines, 1):
        if number == 1 and "EDICT" in line:
            continue  # the file's own description
        yield number, _cells(line.strip())


def _cells(line: str) -> list[str] | LeftOut:
    entry = _ENTRY.fullmatch(line)
    if entry is None:
        return LeftOut("not an entry") if line else []
    first = entry["meanings"].split("/")[0]
    if _UNUSUAL.search(first):
        return LeftOut("unusual word")
    meaning = first
    while (shorter := _REMARK.sub(" ", meaning)) != meaning:
        meaning = shorter
    meaning = " ".join(meaning.split())
    if not meaning or _MARKS.fullmatch(meaning) or "(" in meaning or ")" in meaning:
        return LeftOut("no plain meaning")
    return [entry["word"], meaning, entry["reading"] or entry["word"]]
