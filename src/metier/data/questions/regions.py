"""The part of the world that a line tells of: that of the first country or people named in it."""

import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

from metier.facts import names


def region_of(line: str, person: Iterable[str] = ()) -> str:
    """Return the region of the first country, people or place in a line that is known to be of one; or "".

    Args:
        line: what a source says.
        person: the names of the person it tells of: Jack London was no Londoner.
    """
    for name in sorted(person, key=len, reverse=True):
        line = line.replace(name, "", 1)
    known, words = _regions(), names.words(line)
    for at, word in enumerate(words):
        for found in ((word, *words[at + 1 : at + 2]), (word,)):
            if region := known.get(found):
                return region
    return ""


@cache
def _regions() -> dict[tuple[str, ...], str]:
    path = files("metier.data.questions") / "regions.toml"
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return {tuple(name.split("-")): region for region, text in table.items() for name in text.split()}
