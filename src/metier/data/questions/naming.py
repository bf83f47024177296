"""Who has which name in a store, and by which names a subject is asked for."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from string import ascii_lowercase

from metier.data.questions.phrasings import in_small_letters, is_name
from metier.facts import names
from metier.facts.store import Entry

_OF_STATES = frozenset({"capital", "independence", "independent of"})
_EVENTS = frozenset(
    {"battle", "siege", "war", "wars", "treaty", "peace", "revolution", "rebellion"}
    | {"revolt", "crusade", "massacre", "invasion", "campaign"}
)


class Names:
    """Who has which name in a store.

    Args:
        entries: the subjects.
        stated: of each the relations that a fact in the store states.
        said: of each, those besides that a source says something of that was left out.
    """

    def __init__(
        self, entries: Iterable[Entry], stated: Mapping[str, AbstractSet[str]], said: Mapping[str, AbstractSet[str]]
    ) -> None:
        self.entries = {entry.subject: entry for entry in entries}
        self._stated, self._said = stated, said
        self._holders: dict[str, set[str]] = defaultdict(set)
        for entry in self.entries.values():
            for name in entry.names:
                self._holders[names.key(name)].add(entry.subject)
        self._having: dict[str, list[str]] = defaultdict(list)
        for key in self._holders:
            for word in set(key.split()):
                self._having[word].append(key)

    def resembles(self, name: str) -> bool:
        """Return whether a name, or words of it, or it with one letter other, more or less, is somebody's."""
        key = names.key(name).replace(" the ", " ")
        return (
            self._is_part(key)
            or any(part in self._holders for part in within(key))
            or any(other in self._holders for other in _one_letter_from(key))
        )

    def _is_part(self, key: str) -> bool:
        """Return whether a key is one of somebody's, or some words of one."""
        having = [self._having.get(word, []) for word in key.split()]
        return any(f" {key} " in f" {whole} " for whole in min(having, key=len, default=[]))

    def is_unique(self, label: str) -> bool:
        """Return whether a label is of one subject alone, be it by its hint."""
        return "(" in label or len(self._holders[names.key(label)]) == 1

    def unique(self, subject: str) -> tuple[str, ...]:
        """Return the names that only this subject has."""
        return tuple(name for name in self.entries[subject].names if len(self._holders[names.key(name)]) == 1)

    def to_ask_by(self, subject: str, said: str) -> tuple[str, tuple[str, ...]]:
        """Return the label of a subject for questions about a relation, and the other names it can be asked by."""
        entry, bare = self.entries[subject], subject.partition(" (")[0]
        unique = self.unique(subject)
        main = bare if self._is_plain(entry, names.key(bare), said) else subject
        others = [
            name
            for name in unique
            if names.key(name) != names.key(bare) and not name[:1].islower() and (entry.kind != "event" or _event(name))
        ]
        small = (in_small_letters(name, entry.kind) for name in (main, *others) if "(" not in name)
        return main, (*others, *(name for name in small if name))

    def _is_plain(self, entry: Entry, key: str, said: str) -> bool:
        """Return whether a bare name with a relation means this subject: of all that is called Chad one has a capital.

        Of two of one kind either may have been born, or founded, whatever the sources say: of the two Israels, too.
        """
        others = [self.entries[name] for name in self._holders[key] - {entry.subject}]
        if not others:
            return True
        if any(said in self._said[other.subject] for other in others):
            return False
        if said in _OF_STATES:
            return entry.kind != "event" and not any(_OF_STATES & self._stated[other.subject] for other in others)
        return entry.kind not in ("event", "") and all(other.kind not in (entry.kind, "") for other in others)


def within(key: str) -> Iterator[str]:
    """Yield a key, and what it has within it that is two words long or longer."""
    yield key
    words = key.split()
    yield from (" ".join(words[a:b]) for a in range(len(words)) for b in range(a + 2, len(words) + 1))


def _one_letter_from(key: str) -> Iterator[str]:
    """Yield all texts that have one letter less, other or more, or two in the other order."""
    for at in range(len(key) + 1):
        before, after = key[:at], key[at:]
        if after:
            yield before + after[1:]
        if len(after) > 1:
            yield before + after[1] + after[0] + after[2:]
        for letter in ascii_lowercase:
            yield before + letter + after
            if after:
                yield before + letter + after[1:]


def _event(name: str) -> bool:
    """Return whether another name of an event is one of an event, not that of its place."""
    return is_name(name) and " " in name and bool(_EVENTS & set(names.words(name)))
