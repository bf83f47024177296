"""Questions for which of two came first."""

import random
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from metier.data.questions.known import Known

_NOT_COMPARED = frozenset({"lived", "ruled"})
_TRIES = 20


class Pair(NamedTuple):
    """Two facts of one relation, the earlier one first."""

    earlier: Known
    later: Known

    @property
    def subjects(self) -> frozenset[str]:
        """Whom it is about, in any order."""
        return frozenset({self.earlier.subject, self.later.subject})


class Pairs:
    """Draws pairs of facts that are surely ordered, each pair of subjects once."""

    def __init__(self, facts: Iterable[Known]) -> None:
        of: dict[str, list[Known]] = defaultdict(list)
        for one in facts:
            dated = one.date is not None and not one.date.circa and one.relation not in _NOT_COMPARED
            if dated and "(" not in one.label and not one.way.endswith(":clause"):
                of[one.relation].append(one)
        self._of = [group for group in of.values() if len(group) > 1]
        self._sizes = [len(group) for group in self._of]
        self._drawn: set[tuple[str, frozenset[str]]] = set()

    def draw(self, count: int, dice: random.Random) -> list[Pair]:
        """Return new pairs, as many as asked for if there are: relations come as often as they have facts."""
        found: list[Pair] = []
        for _ in range(_TRIES * count if self._of else 0):
            if len(found) == count:
                break
            one, two = dice.sample(dice.choices(self._of, self._sizes)[0], 2)
            assert one.date
            assert two.date
            pair = Pair(one, two) if one.date.before(two.date) else Pair(two, one)
            mark = (one.relation, pair.subjects)
            if mark in self._drawn or not (one.date.before(two.date) or two.date.before(one.date)):
                continue
            self._drawn.add(mark)
            found.append(pair)
        return found
