"""Names that nobody has: put together from parts of known ones, or spelt by a model of their letters."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from metier.data.questions.naming import within
from metier.facts import names
from metier.facts.fact import Kind

_ORDERS = (3, 2)
"""Letters that the next one depends on; fewer where no new names come of more."""

_SHORT, _LONGEST = 4, 40
"""Letters of a made-up name; it is no shorter than this, unless a tenth of the known ones are."""
_TRIES = 50
"""Names made in vain before there are none left to make."""

_DRAWN = 10
_END = "\0"


class Inventor:
    """Makes up names, each one once, and none with an earlier one within it.

    Args:
        by_kind: names of known subjects, to make others of.
        taken: whether a name may not be invented.
    """

    def __init__(self, by_kind: dict[Kind, Sequence[str]], taken: Callable[[str], bool]) -> None:
        self._names = {kind: sorted(set(of_kind)) for kind, of_kind in by_kind.items()}
        self._shortest = {
            kind: min(_SHORT, sorted(map(len, of_kind))[len(of_kind) // 10])
            for kind, of_kind in self._names.items()
            if of_kind
        }
        self._letters = {kind: [Letters(of_kind, order) for order in _ORDERS] for kind, of_kind in self._names.items()}
        self._beginnings = {name.split()[0] for name in set().union(*self._names.values()) if name.split()}
        self._taken = taken
        self._made: set[str] = set()

    def name(self, kind: Kind, dice: random.Random) -> str | None:
        """Return a new name for a subject of a kind, or None where there seem to be no more."""
        known = self._names.get(kind, [])
        if len(known) < 2:
            return None
        more, fewer = self._letters[kind]
        ways: list[Callable[[], str]] = [lambda: _joined(*self._two(known, dice)), lambda: more.name(dice)]
        dice.shuffle(ways)
        ways.append(lambda: fewer.name(dice))
        for attempt in range(_TRIES):
            name = ways[len(ways) * attempt // _TRIES]()
            key = names.key(name)
            if not (key and self._shortest[kind] <= len(name) <= _LONGEST and self._begins_well(name)):
                continue
            if self._made.isdisjoint(within(key)) and not self._taken(name):
                self._made.add(key)
                return name
        return None

    def _begins_well(self, name: str) -> bool:
        """Return whether a name has a capital, or a first word such as "von" that known ones have, too."""
        return not name[:1].islower() or name.split()[0] in self._beginnings

    @staticmethod
    def _two(known: Sequence[str], dice: random.Random) -> tuple[str, str]:
        """Return two names of one word each, or of several each."""
        one = dice.choice(known)
        others = [name for name in dice.choices(known, k=_DRAWN) if (" " in name) == (" " in one)]
        return one, others[0] if others else one


class Letters:
    """A model of names, letter by letter: the next one is drawn as it follows the last few in known names."""

    def __init__(self, known: Iterable[str], order: int) -> None:
        self._order = order
        self._next: dict[str, list[str]] = defaultdict(list)
        for name in known:
            spelt = _END * order + name + _END
            for at in range(order, len(spelt)):
                self._next[spelt[at - order : at]].append(spelt[at])

    def name(self, dice: random.Random) -> str:
        """Return a name; one that grows too long is cut short."""
        spelt = _END * self._order
        while len(spelt) <= _LONGEST + self._order:
            letter = dice.choice(self._next[spelt[-self._order :]])
            if letter == _END:
                break
            spelt += letter
        return " ".join(spelt[self._order :].split())


def _joined(one: str, two: str) -> str:
    """Return the beginning of a name with the end of another: a first name and a surname, "Battle of" and a place."""
    return (_parts(one)[0] + _parts(two)[1]).strip()


def _parts(name: str) -> tuple[str, str]:
    words = name.split()
    if len(words) == 1:
        middle = (len(name) + 1) // 2
        return name[:middle], f" {name}" if len(name) < 4 else name[middle:]
    at = words.index("of") + 1 if "of" in words[1:-1] else len(words) - 1
    return " ".join(words[:at]) + " ", " ".join(words[at:])
