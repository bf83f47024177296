"""Subjects of which nothing is taught, and the check that no training row names one."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

from metier.data.questions.known import Known
from metier.data.questions.naming import Names
from metier.facts import names

_SALT = "metier withheld 1\n"


class Mentions:
    """Finds names in texts, as words.

    Args:
        of: names, with what they are of.
    """

    def __init__(self, of: Iterable[tuple[str, str]]) -> None:
        self._owners: dict[tuple[str, ...], set[str]] = defaultdict(set)
        self._lengths: dict[str, set[int]] = defaultdict(set)  # in words, of the names with this first one
        for name, owner in of:
            words = tuple(names.key(name).split())
            if words:
                self._owners[words].add(owner)
                self._lengths[words[0]].add(len(words))

    def owners(self, text: str) -> set[str]:
        """Return what the names that a text has are of."""
        words = tuple(_words(text))
        return {
            owner
            for at, word in enumerate(words)
            for length in self._lengths.get(word, ())
            for owner in self._owners.get(words[at : at + length], ())
        }


def _words(text: str) -> list[str]:
    """Return the words of a text as a name's key has them, titles and all."""
    return names.key(f"x {text}").split()[1:]


def withhold(
    facts: Sequence[Known],
    known: Names,
    share: float,
    other_texts: Iterable[str],
    doubles: Mapping[str, Collection[str]],
) -> dict[str, Literal["validation", "test"]]:
    """Choose the subjects that are kept from the model, and by which exam they are asked about.

    They are the first by a hash of their names, of those whose names nothing else has in it: neither another subject's
    names, nor an answer, nor the words of the questions; and of those that nothing else may be under another name.

    Args:
        facts: all that can be asked.
        known: the names in the store.
        share: of the subjects.
        other_texts: what else the rows are made of.
        doubles: subjects that may be others, too, as `metier.data.questions.doubles.doubles` finds them.
    """
    subjects = sorted({one.subject for one in facts})
    wanted = round(share * len(subjects))
    if not wanted:
        return {}
    mentions = Mentions((name, subject) for subject in subjects for name in known.unique(subject))
    taken = {subject for subject, others in doubles.items() if others}
    taken |= {one.subject for one in facts if not known.is_unique(one.label)}
    for text in other_texts:
        taken |= mentions.owners(text)
    for entry in known.entries.values():
        for text in (entry.subject, *entry.names):
            taken |= mentions.owners(text) - {entry.subject}
    for one in facts:
        taken |= mentions.owners(one.value) - {one.subject}
    free = [subject for subject in subjects if subject not in taken and known.unique(subject)]
    ordered = sorted(free, key=lambda subject: hashlib.sha256((_SALT + subject).encode()).digest())[:wanted]
    return {subject: "test" if at % 2 else "validation" for at, subject in enumerate(ordered)}


def names_of(withheld: Mapping[str, str], known: Names) -> Mentions:
    """Return what finds the withheld subjects' own names in a text."""
    return Mentions((name, subject) for subject in withheld for name in known.unique(subject))
