"""Rows that say the same thing twice: one of them is kept, the first."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from scipy import sparse

from metier.data.compared import BATCH, Compared, compared
from metier.data.records import Record
from metier.data.similarity import Grams, Ints, needed, pieces, ranked, rarest, renumbered, similarities
from metier.progress import bar

_RARE = 16
"""Rows that may hold a gram for it to be looked for by itself; a commoner one is looked for beside another."""

_KEYS = 8_000_000
"""Keys sorted at a time."""


def exact_duplicates(records: Iterable[Record]) -> list[int]:
    """Return the indices of rows whose input and output both equal an earlier row's, after `comparable`."""
    with compared(records) as rows:
        found: list[int] = rows.repeats(np.arange(len(rows))).tolist()
    return found


def near_duplicates(records: Iterable[Record], threshold: float) -> list[int]:
    """Return the indices of rows of which an earlier *kept* row is a near duplicate; see `near_rows`."""
    with compared(records) as rows:
        found: list[int] = near_rows(rows, np.arange(len(rows)), threshold).tolist()
    return found


def near_rows(compared: Compared, rows: Ints, threshold: float) -> Ints:
    """Return those of the rows of which an earlier *kept* one of them is a near duplicate.

    Two rows are near duplicates when inputs and outputs each have a 3-gram Jaccard similarity of at least the
    threshold. Exact: as if every row were compared with every earlier one.
    """
    kept = np.ones(len(rows), dtype=bool)
    if not len(rows):
        return rows
    for later, earlier in _likely_pairs(compared, rows, threshold):
        open_ = kept[earlier]
        later, earlier = later[open_], earlier[open_]
        for grams in compared.grams:
            alike = _alike(grams, rows[later], rows[earlier], threshold)
            later, earlier = later[alike], earlier[alike]
        # In order of the later row: whether it goes depends on which of the earlier ones stayed.
        for at in np.argsort(later, kind="stable"):
            if kept[earlier[at]]:
                kept[later[at]] = False
    return rows[~kept]


def _alike(grams: Grams, one: Ints, two: Ints, threshold: float) -> np.typing.NDArray[np.bool_]:
    found = np.empty(len(one), dtype=bool)
    for at in range(0, len(one), 100_000):
        part = slice(at, at + 100_000)
        left, right = grams.sets(one[part]), grams.sets(two[part])
        same = np.arange(left.shape[0])
        found[part] = similarities(left, right, same, same) >= threshold
    return found


class _Prefixes(NamedTuple):
    """The rarest grams of the rows' sides, row after row: row r has ``counts[r]`` from ``starts[r]`` on."""

    grams: Ints
    counts: Ints
    starts: Ints


def _likely_pairs(compared: Compared, rows: Ints, threshold: float) -> Iterator[tuple[Ints, Ints]]:
    """Yield pairs of places in the list, later and earlier, all near duplicates among them, by ascending later place.

    Near duplicates share a gram of the inputs' prefixes *and* one of the outputs'. Where the shared gram is rare, it is
    the key they are found by; where it is common, the key is a gram of either side, which hardly any two rows share.
    So the work grows with the rows and not, as with single grams, with their square.
    """
    keys = _shared_keys(compared, rows, threshold)
    index = keys.T.tocsr()
    sizes = [grams.sizes(rows) for grams in compared.grams]
    with bar() as progress:
        task = progress.add_task("near duplicates", total=len(rows))
        for start, end in pieces(keys.astype(np.int64) @ np.diff(index.indptr).astype(np.int64)):
            found = keys[start:end] @ index
            later, earlier = np.repeat(np.arange(start, end), np.diff(found.indptr)), found.indices.astype(np.int64)
            fits = earlier < later
            for size in sizes:
                one, two = size[later], size[earlier]
                fits &= np.minimum(one, two) >= needed(np.maximum(one, two), threshold)
            yield later[fits], earlier[fits]
            progress.update(task, completed=end)


def _shared_keys(compared: Compared, rows: Ints, threshold: float) -> sparse.csr_matrix:
    """Return the keys that more than one row has, as a 0/1 matrix, rows x keys."""
    sides = [_prefixes(grams, rows, threshold) for grams in compared.grams]
    frequencies = [grams.frequency for grams in compared.grams]
    rare = [(frequency[side.grams] <= _RARE).mean() for side, frequency in zip(sides, frequencies, strict=True)]
    first, second = (0, 1) if rare[0] >= rare[1] else (1, 0)  # the side with more rare grams needs fewer keys
    common = frequencies[first][sides[first].grams] > _RARE
    owners = np.repeat(np.arange(len(rows)), sides[first].counts)
    repeats = np.where(common, sides[second].counts[owners], 1)
    cut_of = (sides[first].grams % (int(repeats.sum()) // _KEYS + 1)).astype(np.uint16)  # sorted by digits: quickly
    cuts = np.split(np.argsort(cut_of, kind="stable"), np.cumsum(np.bincount(cut_of))[:-1])
    found, columns, width = [], [], 0
    for part in cuts:
        times = repeats[part]
        each = np.repeat(part, times)
        nth = np.arange(len(each)) - np.repeat(np.cumsum(times) - times, times)
        beside = np.where(common[each], 0, -1)
        paired = np.flatnonzero(common[each])
        beside[paired] = sides[second].grams[sides[second].starts[owners[each[paired]]] + nth[paired]]
        keys = (sides[first].grams[each].astype(np.int64) << 32) | (beside & 0xFFFFFFFF)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1]))) if len(keys) else order
        lengths = np.diff(np.append(starts, len(keys)))
        shared = np.repeat(lengths > 1, lengths)
        found.append(owners[each[order[shared]]])
        columns.append(np.repeat(np.cumsum(lengths > 1) - 1 + width, lengths)[shared])
        width += int((lengths > 1).sum())
    at = np.concatenate(found), np.concatenate(columns)
    return sparse.csr_matrix((np.ones(len(at[0]), dtype=np.int32), at), shape=(len(rows), width))


def _prefixes(grams: Grams, rows: Ints, threshold: float) -> _Prefixes:
    rank = ranked(grams.frequency)
    number = np.argsort(rank).astype(np.int32)
    parts, counts = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    for start in range(0, len(rows), BATCH):
        cut = rarest(renumbered(grams.sets(rows[start : start + BATCH]), rank), threshold)
        parts.append(number[cut.indices])
        counts.append(np.diff(cut.indptr))
    ends = np.concatenate(counts)
    return _Prefixes(np.concatenate(parts), ends, np.cumsum(ends) - ends)
