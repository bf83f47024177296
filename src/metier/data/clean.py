"""Which rows are kept: text in one Unicode form, of sensible length, without damage."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

from metier.spec.data import Cleaning

RATIO_SLACK_CHARS = 20
"""Added to the length ratio's limit: a fixed ratio alone would be too strict for a few words."""

# Lone surrogates cannot be written as UTF-8; U+FFFD is what an earlier, failed decoding left behind.
_DAMAGED = re.compile("[\ud800-\udfff\ufffd\ufffe\uffff]")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")


def normalise(text: str) -> str:
    r"""Return the text in NFKC, each line stripped and its runs of whitespace made one space.

    Line breaks are kept, as ``\n``; empty lines at either end are dropped. Applying it twice changes nothing.
    """
    text = unicodedata.normalize("NFKC", text.replace("\r\n", "\n").replace("\r", "\n"))
    return "\n".join(" ".join(line.split()) for line in text.split("\n")).strip("\n")


def fault(asked: str, wanted: str, rules: Cleaning) -> str | None:
    """Return why a normalised row is not kept, or None if it is; lengths are in characters."""
    if _DAMAGED.search(asked) or _DAMAGED.search(wanted):
        return "damaged Unicode"
    if _CONTROL.search(asked) or _CONTROL.search(wanted):
        return "control character"
    shorter, longer = sorted((len(asked), len(wanted)))
    if shorter < rules.min_chars:
        return "too short"
    if longer > rules.max_chars:
        return "too long"
    if longer > rules.max_ratio * shorter + RATIO_SLACK_CHARS:
        return "length ratio"
    return None


def clean(pairs: Iterable[tuple[str, str]], rules: Cleaning) -> tuple[list[tuple[str, str]], Counter[str]]:
    """Return the normalised pairs that are kept, in order, and the number of others by reason."""
    removed: Counter[str] = Counter()
    return list(cleaned(pairs, rules, removed)), removed


def cleaned(pairs: Iterable[tuple[str, str]], rules: Cleaning, removed: Counter[str]) -> Iterator[tuple[str, str]]:
    """Yield the normalised pairs that are kept, and count the others by reason."""
    for pair in pairs:
        asked, wanted = normalise(pair[0]), normalise(pair[1])
        reason = fault(asked, wanted, rules)
        if reason is None:
            yield asked, wanted
        else:
            removed[reason] += 1
