"""Train, validation or test: decided by a hash of the row's input alone."""

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from metier.data.records import Record
from metier.data.similarity import comparable
from metier.spec.data import Split

# Part of every hash: changing it would move rows between the parts of every job.
_SALT = "metier split 1\n"


def position(asked: str) -> float:
    """Return where an input stands between 0 and 1: uniform, and the same for ever and in any company."""
    return position_of(comparable(asked))


def position_of(question: str) -> float:
    """Return the position of an input that is in the form of `comparable` already."""
    digest = hashlib.sha256((_SALT + question).encode("utf-8")).digest()
    # 53 bits: more would round up to 1.0 in a float.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def parts_of(positions: npt.NDArray[np.float64], shares: Split) -> npt.NDArray[np.intp]:
    """Return for each position the part its row is in: 0 for test, 1 for validation, 2 for train.

    The lowest positions are the test set and the next ones the validation set: each a share of all there could be,
    and at most ``shares.exam_rows`` different ones. A row added to a set that has as many moves its highest into train.
    """
    ends = shares.test_share, shares.test_share + shares.validation_share
    found: npt.NDArray[np.intp] = np.digitize(positions, ends)
    for part in (0, 1):
        held = np.unique(positions[found == part])
        if len(held) > shares.exam_rows:
            found[(found == part) & (positions > held[shares.exam_rows - 1])] = 2
    return found


def split(records: Iterable[Record], shares: Split) -> tuple[list[Record], list[Record], list[Record]]:
    """Return the train, validation and test rows; validation and test in the order of their hash.

    A row stays where it is when other rows come or go, as long as `parts_of` need not cut the exams, and all rows with
    one input are in one part.

    Args:
        records: the rows, deduplicated.
        shares: the shares of the test and the validation set.
    """
    rows = list(records)
    exam, validation, train = chosen = list[Record](), list[Record](), list[Record]()
    for record, part in zip(rows, parts_of(np.array([position(row.input) for row in rows]), shares), strict=True):
        chosen[part].append(record)
    return train, in_hash_order(validation), in_hash_order(exam)


def in_hash_order(records: Iterable[Record]) -> list[Record]:
    """Return the rows by the hash of their inputs: the first n are a sample that new rows hardly change."""
    return sorted(records, key=lambda record: (position(record.input), record))


def seeded(seed: int, asked: str, wanted: str) -> bytes:
    """Return what mixed rows are sorted by: same row and seed, same place."""
    return hashlib.sha256(f"{seed}\n{asked}\n{wanted}".encode()).digest()


def first_of_each_input(records: Iterable[Record]) -> tuple[list[Record], list[Record]]:
    """Return the first row of every input, and the others: an exam asks each question once."""
    asked: set[str] = set()
    first: list[Record] = []
    others: list[Record] = []
    for record in records:
        question = comparable(record.input)
        (others if question in asked else first).append(record)
        asked.add(question)
    return first, others
