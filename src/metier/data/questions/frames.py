"""Sentences around what is asked: the same frames for all relations, so that a relation is known by its own words."""

import hashlib
import random
import re
import tomllib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from itertools import chain, cycle
from typing import Any

from metier.data.similarity import comparable

_FORMS = {
    "ask": {"clause": "clause", "noun": "noun", "question": "question", "key": "key", "cue": "cue"},
    "reverse": {"reverse": "clause"},
}
"""Of each direction the keys of a relation's table, and the frames that they fit into."""

_MADE = 2
"""So many phrasings that frames made come after each written one."""

_ENGLISH = re.compile(
    r"(?:(?:in|on|at|of|for|from|by|to|under) )?(?:what|when|where|which|who|whom|whose|why|how)\b.*\?$", re.IGNORECASE
)

_WRITTEN = 0.2
"""Of the ways to ask for what no relation tells, those taken as they are written."""


def framed(way: str, form: str, examined: Iterable[str]) -> tuple[str, ...]:
    """Return more phrasings of a kind of question, for training: all frames with all that fits into them.

    What the exams ask stays theirs: nothing is made that holds one of their phrasings, or a part of one that goes into
    frames, unless it is a single word.

    Args:
        way: a key of `metier.data.questions.phrasings.way_of`.
        form: ``ask`` for the value, or ``reverse`` for the subject.
        examined: the phrasings of the exams.
    """
    table = packaged().get(way, {})
    return _filled([(core, frame) for key, frame in _FORMS[form].items() for core in table.get(key, ())], examined)


def around(written: Iterable[str], examined: Iterable[str]) -> tuple[str, ...]:
    """Return English questions that a job brings, within frames, for training; others stay as they are written."""
    cores = [(text[0].lower() + text[1:-1], "question") for text in written if _ENGLISH.match(text)]
    return _filled(cores, examined)


def _filled(cores: Sequence[tuple[str, str]], examined: Iterable[str]) -> tuple[str, ...]:
    """Return all cores in all of their frames, without what holds a phrasing of the exams or a part of one."""
    exams = {comparable(text) for text in examined}
    parts = {words for core, _ in cores if " " in (words := comparable(core))}
    kept_back = exams | {words for words in parts if any(words in text for text in exams)}
    texts = packaged()["frames"]
    found = [_capital(text.replace(f"{{{frame}}}", core)) for core, frame in cores for text in texts[frame]]
    said = ((text, comparable(text)) for text in found)
    return tuple(text for text, plain in said if not any(words in plain for words in kept_back))


def mixed(written: Sequence[str], made: Iterable[str]) -> tuple[str, ...]:
    """Return phrasings in turn: a written one, then two that frames made; each written one as often as it takes.

    Those made are in an order by hash, so that a few in turn have many frames.
    """
    by_hash = sorted(made, key=lambda text: hashlib.sha256(f"frames\n{text}".encode()).digest())
    turns = [by_hash[at : at + _MADE] for at in range(0, len(by_hash), _MADE)]
    return (
        *chain.from_iterable((text, *more) for text, more in zip(cycle(written), turns, strict=False)),
        *written[len(turns) :],
    )


def beside(dice: random.Random) -> str:
    """Return a way to ask for what no packaged relation tells: one in five as written, the others made, core and frame.

    Forty written ones were learned by heart; of others every seventh was answered still.
    """
    texts = packaged()
    table = texts["beside"]
    if dice.random() < _WRITTEN:
        written: str = dice.choice(table["ask"])
        return written
    frame = dice.choice(list(table["cores"]))
    core = re.sub(
        r"{(\w+)}",
        lambda found: dice.choice(table["words"].get(found[1], [found[0]])),
        dice.choice(table["cores"][frame]),
    )
    return _capital(dice.choice(texts["frames"][frame]).replace(f"{{{frame}}}", core))


@cache
def packaged() -> dict[str, Any]:
    """Return the packaged frames, and by way what fits into them."""
    return tomllib.loads((files("metier.data.questions") / "frames.toml").read_text(encoding="utf-8"))


def _capital(text: str) -> str:
    return text if text.startswith("{") else text[0].upper() + text[1:]
