"""The part of the world that a line tells of: that of the first country or people named in it."""

import tomllib
from functools import cache
from importlib.resources import files

from metier.facts import names


def region_of(*texts: str) -> str:
    """Return the region of the first text that names a country, a people or a place known to be of one; or ""."""
    known = _regions()
    for text in texts:
        words = names.words(text)
        for at, word in enumerate(words):
            for name in ((word, *words[at + 1 : at + 2]), (word,)):
                if region := known.get(name):
                    return region
    return ""


@cache
def _regions() -> dict[tuple[str, ...], str]:
    path = files("metier.data.questions") / "regions.toml"
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return {tuple(name.split("-")): region for region, text in table.items() for name in text.split()}
