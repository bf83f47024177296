"""Longer examples from short rows: some of them become one, so that a model that sees short texts learns long ones.

Concatenated sentence pairs as additional training text help a translator with long inputs (Kondo et al. 2021, "Sentence
Concatenation Approach to Data Augmentation for Neural Machine Translation", NAACL student workshop).
"""

import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from metier.data.records import Record
from metier.tasks.translation import Translation

MOST = 4
"""Rows in one example."""


class Joined(Record):
    """A record made of several rows, which are there to be learned one by one where together they are too long."""

    rows: Sequence[Record]


def joined(records: Iterable[Record], share: float, longest: int, task: Translation, seed: int) -> Iterator[Record]:
    """Yield examples of which a share is made of two to `MOST` rows that follow each other; each row is used once.

    Args:
        records: the rows, mixed; read as they are needed.
        share: of the examples; fewer where rows are long.
        longest: characters of both sides that a joined example has at most. It has hardly more tokens, unless a
            vocabulary writes its script in bytes; what has more is for who encodes it to take apart.
        task: knows how sentences follow each other.
        seed: decides which rows.
    """
    draw = random.Random(f"{seed}/joined")
    left = iter(records)
    ahead = deque(islice(left, MOST))
    while ahead:
        wanted = draw.randint(2, MOST) if draw.random() < share else 1
        rows = [ahead.popleft()]
        size = _characters(rows[0])
        while len(rows) < wanted and ahead and (size := size + _characters(ahead[0])) <= longest:
            rows.append(ahead.popleft())
        ahead.extend(islice(left, len(rows)))
        yield rows[0] if len(rows) == 1 else _together(rows, task)


def _together(rows: Sequence[Record], task: Translation) -> Joined:
    one = Joined(*task.together([row[:2] for row in rows]), rows[0].source)
    one.rows = rows
    return one


def _characters(row: Record) -> int:
    return len(row.input) + len(row.output)
