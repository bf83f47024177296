"""Which texts are nearly the same: exact Jaccard similarity of character 3-grams, at scale.

The 3-gram sets of all texts lie in files (`Grams`), so that memory hardly grows with them. A join first finds
candidates by *prefix filtering*: two sets whose Jaccard similarity is at least t must share one of their few rarest
grams (Chaudhuri et al. 2006, "A primitive operator for similarity joins"; Bayardo et al. 2007, "Scaling up all pairs
similarity search"); of the smaller set still fewer will do (Xiao et al. 2008, "Efficient similarity joins for near
duplicate detection"). Every candidate is then counted exactly, so the result is that of comparing all pairs.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse

from metier.data.columns import Column
from metier.progress import bar

Ints = npt.NDArray[np.integer]

_SHARED = 4
"""Grams that two prefixes must share. More means longer prefixes and a sharper bound on what can be similar."""

_WORK = 10_000_000
"""Gram matches handled at a time; bounds memory to a few hundred MiB."""

_AT_ONCE = 10_000
_SLACK = 1e-9
"""Keeps 0.56 * 25 = 14.000000000000002 from asking for 15."""


def comparable(text: str) -> str:
    """Return the form in which texts are compared.

    NFKC, then casefolding, then NFKC again; punctuation (Unicode categories P*) and control, format and
    unassigned characters (C*) are dropped, except that whitespace of any kind and length becomes one space;
    stripped. A text with nothing else in it is compared with its punctuation.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words = " ".join(folded.split())
    return " ".join(words.translate(_COUNTED).split()) or words


class _Counted(dict[int, int | None]):
    """A translation table, filled as characters are met, that deletes those that do not count."""

    def __missing__(self, code: int) -> int | None:
        kept = None if unicodedata.category(chr(code))[0] in "PC" else code
        self[code] = kept
        return kept


_COUNTED = _Counted()


class Grams:
    """The 3-gram sets of texts, in files: a number for every gram, in the order in which they were first met.

    A text of one or two characters has one gram, itself.

    Args:
        folder: where the files go.
        name: what their names begin with.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._numbers = Column(folder / f"{name}.grams", np.int32)
        self._ends = Column(folder / f"{name}.ends", np.int64)
        self._end = 0
        self._met: list[tuple[npt.NDArray[np.uint64], Ints]] = []  # ascending codes and their numbers, the most first
        self._count = 0
        self._frequency: Ints = np.zeros(0, dtype=np.int32)

    @property
    def frequency(self) -> Ints:
        """Texts that hold each gram."""
        return self._frequency[: self._count]

    def append(self, texts: Sequence[str]) -> None:
        """Add the grams of comparable texts."""
        codes, owners = _codes(texts)
        known, columns = np.unique(codes, return_inverse=True)
        ones = np.ones(len(codes), dtype=np.int32)
        sets = sparse.csr_matrix((ones, (owners, columns)), shape=(len(texts), len(known)))
        numbers = self._numbered(known)
        self._frequency[numbers] += np.bincount(sets.indices, minlength=len(known)).astype(np.int32)
        sets.indices = numbers[sets.indices]
        sets.has_sorted_indices = False
        sets.sort_indices()
        self._numbers.append(sets.indices)
        self._ends.append(self._end + sets.indptr[1:].astype(np.int64))
        self._end += len(sets.indices)

    def _numbered(self, codes: npt.NDArray[np.uint64]) -> Ints:
        """Return the numbers of ascending codes, new ones for those that were not met before."""
        found: Ints = np.full(len(codes), -1, dtype=np.int32)
        for met, numbers in self._met:
            at = np.minimum(np.searchsorted(met, codes), len(met) - 1)
            there = met[at] == codes
            found[there] = numbers[at[there]]
        new = np.flatnonzero(found < 0)
        found[new] = np.arange(self._count, self._count + len(new), dtype=np.int32)
        self._count += len(new)
        if self._count > len(self._frequency):
            room = np.zeros(max(self._count - len(self._frequency), len(self._frequency)), dtype=np.int32)
            self._frequency = np.concatenate((self._frequency, room))
        if len(new):
            self._keep(codes[new], found[new])
        return found

    def _keep(self, codes: npt.NDArray[np.uint64], numbers: Ints) -> None:
        """Keep new codes in a table each half as long as the one before: few to search, and none is copied often."""
        while self._met and len(self._met[-1][0]) < 2 * len(codes):
            codes, numbers = _merged(self._met.pop(), (codes, numbers))
        self._met.append((codes, numbers))

    def sizes(self, rows: Ints) -> Ints:
        """Return the number of grams of some texts."""
        ends = self._ends.read()
        starts: Ints = np.where(rows > 0, ends[np.maximum(rows, 1) - 1], 0)
        sizes: Ints = ends[rows] - starts
        return sizes

    def sets(self, rows: Ints) -> sparse.csr_matrix:
        """Return the sets of some texts as a 0/1 matrix, texts x grams."""
        ends, sizes = self._ends.read(), self.sizes(rows)
        indptr = np.concatenate(([0], np.cumsum(sizes)))
        places = np.arange(indptr[-1]) + np.repeat(ends[rows] - indptr[1:], sizes)
        numbers = np.asarray(self._numbers.read()[places])
        shape = (len(rows), len(self.frequency))
        return sparse.csr_matrix((np.ones(len(numbers), dtype=np.int32), numbers, indptr), shape=shape)

    def close(self) -> None:
        """Close the files."""
        self._numbers.close()
        self._ends.close()


def _merged(
    one: tuple[npt.NDArray[np.uint64], Ints], two: tuple[npt.NDArray[np.uint64], Ints]
) -> tuple[npt.NDArray[np.uint64], Ints]:
    codes, numbers = (np.concatenate(both) for both in zip(one, two, strict=True))
    order = np.argsort(codes, kind="stable")  # which goes through two ascending runs once
    return codes[order], numbers[order]


def _codes(texts: Sequence[str]) -> tuple[npt.NDArray[np.uint64], Ints]:
    """Return every 3-gram as one number (21 bits a character) and its text's index."""
    padded = [text.ljust(3, "\0") for text in texts]
    lengths = np.fromiter((len(text) for text in padded), dtype=np.int64, count=len(padded))
    chars = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    owners = np.repeat(np.arange(len(texts), dtype=np.int32), lengths)
    if len(chars) < 3:
        return np.zeros(0, dtype=np.uint64), owners[:0]
    grams = (chars[:-2] << np.uint64(42)) | (chars[1:-1] << np.uint64(21)) | chars[2:]
    inside = owners[:-2] == owners[2:]
    return grams[inside], owners[:-2][inside]


def similar_pairs(grams: Grams, left: Ints, right: Ints, threshold: float, what: str) -> Iterator[tuple[Ints, Ints]]:
    """Yield every pair of a left and a right text at or above a Jaccard similarity, as places in the two lists.

    Args:
        grams: of all texts.
        left: texts to compare.
        right: texts to compare them with; the smaller list is held in memory, the other one gone through.
        threshold: above 0, at most 1.
        what: what the progress bar says.
    """
    if len(right) > len(left):
        yield from ((i, j) for j, i in similar_pairs(grams, right, left, threshold, what))
        return
    places = [np.argsort(grams.sizes(rows), kind="stable") for rows in (left, right)]  # from the smallest set up
    held = grams.sets(right[places[1]])
    # Grams that the held texts lack are the rarest of all, and rule most texts out at once.
    rank = ranked(np.bincount(held.indices, minlength=held.shape[1]))
    held = renumbered(held, rank)
    held_sizes = np.diff(held.indptr)
    # Of two sets as similar as that, the smaller one has this share of it in common, and the larger one `threshold`.
    share = 2 * threshold / (1 + threshold)
    with bar() as progress:
        task = progress.add_task(what, total=len(left))
        for first in range(0, len(left), _AT_ONCE):
            texts = renumbered(grams.sets(left[places[0][first : first + _AT_ONCE]]), rank)
            sizes = np.diff(texts.indptr)
            ends = np.searchsorted(held_sizes, [threshold * sizes[0] - _SLACK, sizes[0], sizes[-1] + 1])
            end = np.searchsorted(held_sizes, sizes[-1] / threshold + _SLACK, side="right")
            for smaller, among in ((True, slice(ends[0], ends[2])), (False, slice(ends[1], end))):
                shares = (threshold, share) if smaller else (share, threshold)
                for i, j in _pairs(texts, held[among], shares, threshold, smaller=smaller):
                    yield places[0][i + first], places[1][j + among.start]
            progress.update(task, completed=first + len(sizes))


def _pairs(
    texts: sparse.csr_matrix, held: sparse.csr_matrix, shares: tuple[float, float], threshold: float, *, smaller: bool
) -> Iterator[tuple[Ints, Ints]]:
    """Yield the similar pairs of which the held set is the smaller one (or as large), or else the larger one.

    Args:
        texts: sets, rows of the first kind.
        held: sets, rows of the second kind.
        shares: of the sets of each kind, what a similar pair has in common at least.
        threshold: the similarity.
        smaller: whether the held set is the smaller one.
    """
    sizes, held_sizes = np.diff(texts.indptr), np.diff(held.indptr)
    front, index = rarest(texts, shares[0], _SHARED), rarest(held, shares[1], _SHARED).T.tocsr()
    rest, held_rest = unseen(sizes, shares[0], _SHARED), unseen(held_sizes, shares[1], _SHARED)
    least = np.minimum(needed(sizes, threshold), _SHARED).astype(np.int32)
    for start, end in pieces(front.astype(np.int64) @ np.diff(index.indptr).astype(np.int64)):
        shared = front[start:end] @ index
        counts = np.diff(shared.indptr)
        enough = np.flatnonzero(shared.data >= np.repeat(least[start:end], counts))
        i, j = np.repeat(np.arange(start, end, dtype=np.int32), counts)[enough], shared.indices[enough]
        # Grams that both have are shared by the prefixes, but for those after the end of one of them.
        most = np.minimum(shared.data[enough] + np.maximum(rest[i], held_rest[j]), np.minimum(sizes[i], held_sizes[j]))
        likely = most >= np.ceil(threshold / (1 + threshold) * (sizes[i] + held_sizes[j]) - _SLACK)
        likely &= (held_sizes[j] <= sizes[i]) == smaller
        i, j = i[likely], j[likely]
        alike = similarities(texts, held, i, j) >= threshold
        yield i[alike], j[alike]


def pieces(work: Ints) -> Iterator[tuple[int, int]]:
    """Cut rows into runs of at most `_WORK`, given each row's; yield where they start and end."""
    done, start = np.cumsum(work), 0
    while start < len(done):
        before = done[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(done, before + _WORK, side="right")))
        yield start, end
        start = end


def similarities(left: sparse.csr_matrix, right: sparse.csr_matrix, i: Ints, j: Ints) -> npt.NDArray[np.float64]:
    """Return the Jaccard similarity of left row i[k] and right row j[k], for every k."""
    common = np.empty(len(i), dtype=np.int64)
    for at in range(0, len(i), 100_000):
        part = slice(at, at + 100_000)
        both = left[i[part]].multiply(right[j[part]])
        common[part] = np.asarray(both.sum(axis=1)).ravel()
    sizes = np.diff(left.indptr)[i] + np.diff(right.indptr)[j]
    ratio: npt.NDArray[np.float64] = common / (sizes - common)
    return ratio


def ranked(frequency: Ints) -> Ints:
    """Return every gram's rank, from the rarest to the commonest."""
    rank = np.empty(len(frequency), dtype=np.int32)
    rank[np.argsort(frequency, kind="stable")] = np.arange(len(frequency), dtype=np.int32)
    return rank


def renumbered(sets: sparse.csr_matrix, rank: Ints) -> sparse.csr_matrix:
    """Return the sets with their columns in another order."""
    columns = rank[sets.indices]
    found = sparse.csr_matrix((sets.data, columns, sets.indptr), shape=sets.shape)
    found.sort_indices()
    return found


def needed(sizes: Ints, threshold: float) -> Ints:
    """Return the grams a set must share with any set that is similar enough: ceil(t * size)."""
    found: Ints = np.ceil(threshold * sizes - _SLACK).astype(np.int64)
    return found


def rarest(sets: sparse.csr_matrix, threshold: float, shared: int = 1) -> sparse.csr_matrix:
    """Return each set cut to its first columns: enough to share so many with any similar set cut like it."""
    sizes = np.diff(sets.indptr)
    keep = sizes - unseen(sizes, threshold, shared)
    kept = np.arange(sets.nnz) - np.repeat(sets.indptr[:-1], sizes) < np.repeat(keep, sizes)
    indptr = np.concatenate(([0], np.cumsum(keep)))
    return sparse.csr_matrix((sets.data[kept], sets.indices[kept], indptr), shape=sets.shape)


def unseen(sizes: Ints, threshold: float, shared: int) -> Ints:
    """Return how many of a set's grams `rarest` leaves out."""
    found: Ints = np.maximum(needed(sizes, threshold) - shared, 0)
    return found
