"""A name with a typing error, put right by the names of a store."""

import re
from collections.abc import Iterable
from itertools import chain, takewhile

from metier.facts import names
from metier.facts.store import Store

_LEAST_LETTERS = 5
"""Shorter words are near too many others."""

_MOST_WORDS = 50
"""Of a text; a longer one is no question about a name, and each word that nobody knows takes milliseconds."""

_WORD = re.compile(r"[^\W\d_]+")
_POSSESSIVE = re.compile(r"['\u2019]s\b")


def corrected(store: Store, text: str) -> str | None:
    """Return a text with a misspelt word put right; None where no word is surely one, or several ways are open.

    That is a word that stands in no line of the store, and is one error away from a word of a name: a letter more, less
    or other, or two neighbours changed over (Damerau 1964). With it the text must hold the whole name and, where it has
    capitals, no more words with capitals around it: "Karl Walter Stone" is not misspelt for "Walter Stone".

    Raises as `metier.facts.store.open_store`.
    """
    words = _WORD.findall(text)
    plain = not any(word[0].isupper() for word in words[1:])
    found = set()
    if len(words) > _MOST_WORDS:
        return None
    for match in _WORD.finditer(text):
        word = match[0]
        if len(word) < _LEAST_LETTERS or not (plain or word[0].isupper()) or store.has_word(word):
            continue
        near_words = chain.from_iterable(store.words_of_names(len(word) + more) for more in (-1, 0, 1))
        for near in near_words:
            if is_one_error_away(word.casefold(), near.casefold()):
                right = near if word[0].isupper() else near.lower()
                before, after = text[: match.start()], text[match.end() :]
                if _is_named_in(store, before, right, after, plain=plain):
                    found.add(f"{before}{right}{after}")
    return found.pop() if len(found) == 1 else None


def is_one_error_away(one: str, other: str) -> bool:
    """Return whether two words differ by a letter more, less or other, or by two neighbours that changed places."""
    if one == other or abs(len(one) - len(other)) > 1:
        return False
    shorter = min(len(one), len(other))
    start = next((at for at in range(shorter) if one[at] != other[at]), shorter)
    rest, others = one[start:], other[start:]
    swapped = len(rest) > 1 and rest[1::-1] == others[:2] and rest[2:] == others[2:]
    return swapped or rest[1:] == others[1:] or rest[1:] == others or rest == others[1:]


def _is_named_in(store: Store, before: str, word: str, after: str, *, plain: bool) -> bool:
    """Return whether a word and those around it are a name, with all words beside it that have capitals."""
    left, right = _POSSESSIVE.sub("", before).split(), _POSSESSIVE.sub("", f"x{after}")[1:].split(" ")
    first, *following = right
    longest = store.longest_name()
    least_left = 0 if plain else _capitals(reversed(left[1:]))
    least_right = 0 if plain or first.strip() else _capitals(following)
    spans = (
        " ".join([*left[len(left) - back :], f"{word}{first}", *following[:on]])
        for back in range(least_left, min(longest, len(left) + 1))
        for on in range(least_right, min(longest - back, len(following) + 1))
    )
    return bool(store.known(names.key(span) for span in spans))


def _capitals(words: Iterable[str]) -> int:
    """Return how many of the first words have a capital."""
    return sum(1 for _ in takewhile(lambda word: word.lstrip("\"'(")[:1].isupper(), words))
