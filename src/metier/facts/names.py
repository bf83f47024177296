"""Names: one key for all the ways to write one, and the words by which two sentences tell of one event."""

import re
import unicodedata

_TITLES = frozenset({"the", "sir", "dr", "mr", "mrs", "lord", "lady"})
SAME = {"st": "saint", "ste": "sainte", "mt": "mount"}
"""Short forms within names, and what they are short for."""
COMMON = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by for from has his her in into is it its of off on or over than that the their to "
        "was were when with first last becomes became begin begins began ends ended day during after before "
        "against who whom what where which how did do does",
    )
)
"""Words that do not tell what a sentence is about."""

_INITIALS = re.compile(r"(?<=\b\w)\.\s+(?=\w\b\.)")
_ACCENTED = re.compile(r"([A-Za-z\u0370-\u052f\u1e00-\u1fff])[\u0300-\u036f]+")
"""Letters of scripts in which an accent makes no other letter, as far as names go."""
_POINTS = re.compile("[\u05b0-\u05c7\u064b-\u0652\ufe00-\ufe0f\u200d]")
"""Vowel points, which most texts go without, and what says how a sign is drawn."""
_WITHIN = re.compile(r"(?<=[^\W\d])[.](?=\w)|(?<=\w)[.](?=[^\W\d])|(?<=\w)['\u2018\u2019](?=\w)")
"""What is left out of a word: not the point of a number."""
_MARK = "x"
_WORD = re.compile(r"(?<![\w+#])-(?=\d)[\w.]*\w|\w+(?:\.\d+)*(?:[+#]+(?!\w))?")
"""A word, or a number: "1.5", "-5"; "C++" and "C#" are words of their own."""
_POSSESSIVE = re.compile(r"['\u2019]s?\b(?=\W|$)")
_TELLING_WORDS, _SHARE = 3, 0.75
"""Least number of telling words that sentences of one event share, and least part of the shorter one's."""


def words(text: str) -> list[str]:
    """Return the words and numbers of a text without case, accents and punctuation; initials are one word."""
    bare = _INITIALS.sub(".", text.replace("_", " "))
    if not bare.isascii():
        bare = _ACCENTED.sub(r"\1", unicodedata.normalize("NFKD", _POINTS.sub("", bare.replace("\u2212", "-"))))
        bare = unicodedata.normalize("NFC", bare)
    bare = _WITHIN.sub("", bare.casefold())
    return _WORD.findall(bare) if bare.isascii() else _words_of_any_script(bare)


def _words_of_any_script(text: str) -> list[str]:
    """Return the words of a text whose letters may have marks of their own: vowel signs are part of them."""
    joined = "".join(
        _MARK if at and unicodedata.category(one) in ("Mn", "Mc") and text[at - 1].isalnum() else one
        for at, one in enumerate(text)
    )
    return [text[found.start() : found.end()] for found in _WORD.finditer(joined)]


def key(name: str, titles: frozenset[str] = _TITLES) -> str:
    """Return what a name is found by: "Saint Jerome" for "St. Jerome", "Isaac Newton" for "Sir Isaac Newton".

    Args:
        name: in any writing.
        titles: words that are left out in front of it.
    """
    found = [SAME.get(word, word) for word in words(name)]
    while len(found) > 1 and found[0] in titles:
        found = found[1:]
    return " ".join(found)


def telling(text: str) -> frozenset[str]:
    """Return the words of a text that tell of its matter, cut to six letters so that "speeches" is "speech"."""
    plain = _POSSESSIVE.sub("", text)
    return frozenset(word[:6] for word in words(plain) if word not in COMMON and (len(word) > 2 or word.isdigit()))


def of_one_event(one: str, two: str) -> bool:
    """Return whether two sentences seem to tell of one event: most telling words are common, and no name parts them.

    "Brook gives her Mill speech" and "Brook's Mill speech at Wick" are one; those at Wick and at Tam are two.
    """
    first, second = telling(one), telling(two)
    shared = len(first & second)
    if shared < _TELLING_WORDS or shared < _SHARE * min(len(first), len(second)):
        return False
    return not (_proper(one) - second and _proper(two) - first)


def _proper(text: str) -> frozenset[str]:
    """Return the telling words of the names in a sentence: those with a capital, not counting the first word."""
    return telling(" ".join(word for word in text.split()[1:] if re.match(r"\W*[A-Z\d]", word)))


def says(text: str, name: str) -> bool:
    """Return whether a text holds all words of a name, in any order and writing."""
    wanted = set(key(name).split())
    return wanted <= {SAME.get(word, word) for word in words(text)} if wanted else name in text
