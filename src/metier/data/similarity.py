"""Which texts are nearly the same: exact Jaccard similarity of character 3-grams, at scale.

A join first finds candidates by *prefix filtering*: two sets whose Jaccard similarity is at least t must
share one of their few rarest grams (Chaudhuri et al. 2006, "A primitive operator for similarity joins";
Bayardo et al. 2007, "Scaling up all pairs similarity search"); asking for several shared grams of a slightly
longer prefix leaves far fewer candidates (Wang et al. 2012, "Can we beat the prefix filtering?"). Every
candidate is then counted exactly, so the result is that of comparing all pairs.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from metier.progress import bar

Ints = npt.NDArray[np.int64]

SHARED = 3
"""Grams that two prefixes must share. More means longer prefixes and fewer candidates; 2, 3 and 4 take the
same time on 200,000 sentence pairs."""

_WORK = 20_000_000
"""Gram matches handled at a time; bounds memory to a few hundred MiB."""


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


def jaccard(one: str, two: str) -> float:
    """Return the Jaccard similarity of two texts' 3-gram sets (common over all), after `comparable`.

    A text of one or two characters has one gram, itself.
    """
    first, second = (_gram_set(comparable(text)) for text in (one, two))
    return len(first & second) / len(first | second)


def _gram_set(text: str) -> set[str]:
    return {text[at : at + 3] for at in range(len(text) - 2)} or {text}


class Grams:
    """The gram sets of some texts as a 0/1 matrix, columns from the rarest gram to the commonest.

    Args:
        matrix: texts x grams.
        fields: the field that each column's gram belongs to, see `gram_sets`.
    """

    def __init__(self, matrix: sparse.csr_matrix, fields: Ints) -> None:
        self.matrix, self.fields = matrix, fields
        self.sizes: Ints = np.diff(matrix.indptr).astype(np.int64)

    def of_field(self, field: int) -> "Grams":
        """Return the grams of one field alone."""
        columns = np.flatnonzero(self.fields == field)
        return Grams(self.matrix[:, columns], self.fields[columns])


def gram_sets(*groups: Sequence[Sequence[str]]) -> list[Grams]:
    """Return the gram sets of groups of texts over one set of columns; the first group decides what is rare.

    Each group is a list of at most two *fields*, lists of comparable texts of equal length: row i of the
    group is the union of its fields' grams, the same gram in two fields being two grams.
    """
    coded = [[_codes(texts, field) for field, texts in enumerate(fields)] for fields in groups]
    everything = np.concatenate([codes for fields in coded for codes, _ in fields])
    vocabulary, columns = np.unique(everything, return_inverse=True)
    del everything
    matrices, at = [], 0
    for fields in coded:
        count = sum(len(codes) for codes, _ in fields)
        rows = np.concatenate([owners for _, owners in fields])
        shape = (int(rows.max(initial=-1)) + 1, len(vocabulary))
        data = np.ones(count, dtype=np.int32)
        matrices.append(sparse.csr_matrix((data, (rows, columns[at : at + count])), shape=shape))
        at += count
    frequency = np.bincount(matrices[0].indices, minlength=len(vocabulary))
    rank = np.empty(len(vocabulary), dtype=np.int32)
    rank[np.argsort(frequency, kind="stable")] = np.arange(len(vocabulary), dtype=np.int32)
    fields_by_rank = np.empty(len(vocabulary), dtype=np.int64)
    fields_by_rank[rank] = (vocabulary >> np.uint64(63)).astype(np.int64)
    found = []
    for matrix in matrices:
        matrix.indices = rank[matrix.indices]
        matrix.has_sorted_indices = False
        matrix.sort_indices()
        matrix.data[:] = 1
        found.append(Grams(matrix, fields_by_rank))
    return found


def _codes(texts: Sequence[str], field: int) -> tuple[npt.NDArray[np.uint64], Ints]:
    """Return every 3-gram as one number (the field, then 21 bits a character) and its text's index."""
    padded = [text.ljust(3, "\0") for text in texts]
    lengths = np.fromiter((len(text) for text in padded), dtype=np.int64, count=len(padded))
    chars = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    owners = np.repeat(np.arange(len(texts)), lengths)
    if len(chars) < 3:
        return np.zeros(0, dtype=np.uint64), owners[:0]
    grams = (chars[:-2] << np.uint64(42)) | (chars[1:-1] << np.uint64(21)) | chars[2:]
    inside = owners[:-2] == owners[2:]
    return grams[inside] | np.uint64(field << 63), owners[:-2][inside]


def similar_pairs(
    left: Grams, right: Grams, threshold: float, what: str, *, before: bool = False
) -> Iterator[tuple[Ints, Ints]]:
    """Yield every pair of rows at or above a Jaccard similarity, in batches of ascending left rows.

    Args:
        left: rows to look for; gone through once.
        right: rows to find them in, over the same columns.
        threshold: above 0, at most 1.
        what: what the progress bar says.
        before: only pairs whose right row comes before the left one, for joining a list with itself.
    """
    front, back = _prefixes(left, threshold), _prefixes(right, threshold).T.tocsr()
    work = np.cumsum(front.astype(np.int64) @ np.diff(back.indptr).astype(np.int64))
    need_left, need_right = _needed(left.sizes, threshold), _needed(right.sizes, threshold)
    start = 0
    with bar() as progress:
        task = progress.add_task(what, total=front.shape[0])
        while start < front.shape[0]:
            done = work[start - 1] if start else 0
            end = max(start + 1, int(np.searchsorted(work, done + _WORK, side="right")))
            shared = front[start:end] @ back
            found = np.diff(shared.indptr)
            enough = np.flatnonzero(shared.data >= np.repeat(np.minimum(need_left[start:end], SHARED), found))
            i = np.repeat(np.arange(start, end), found)[enough]
            j = shared.indices[enough].astype(np.int64)
            need = np.maximum(need_left[i], need_right[j])
            fits = shared.data[enough] >= np.minimum(need, SHARED)
            fits &= np.minimum(left.sizes[i], right.sizes[j]) >= need
            if before:
                fits &= j < i
            i, j = i[fits], j[fits]
            alike = similarities(left, right, i, j) >= threshold
            yield i[alike], j[alike]
            progress.update(task, completed=end)
            start = end


def similarities(left: Grams, right: Grams, i: Ints, j: Ints) -> npt.NDArray[np.float64]:
    """Return the Jaccard similarity of left row i[k] and right row j[k], for every k."""
    common = np.empty(len(i), dtype=np.int64)
    for at in range(0, len(i), 200_000):
        part = slice(at, at + 200_000)
        both = left.matrix[i[part]].multiply(right.matrix[j[part]])
        common[part] = np.asarray(both.sum(axis=1)).ravel()
    ratio: npt.NDArray[np.float64] = common / (left.sizes[i] + right.sizes[j] - common)
    return ratio


def _needed(sizes: Ints, threshold: float) -> Ints:
    """Return the grams a set must share with any set that is similar enough: ceil(t * size)."""
    # The slack keeps 0.56 * 25 = 14.000000000000002 from asking for 15.
    needed: Ints = np.ceil(threshold * sizes - 1e-9).astype(np.int64)
    return needed


def _prefixes(grams: Grams, threshold: float) -> sparse.csr_matrix:
    """Return each row cut to its rarest grams: enough to share `SHARED` with any similar row."""
    keep = np.minimum(grams.sizes - _needed(grams.sizes, threshold) + SHARED, grams.sizes)
    starts = grams.matrix.indptr[:-1]
    place = np.arange(grams.matrix.nnz) - np.repeat(starts, grams.sizes)
    kept = place < np.repeat(keep, grams.sizes)
    indptr: Any = np.concatenate(([0], np.cumsum(keep)))
    return sparse.csr_matrix((grams.matrix.data[kept], grams.matrix.indices[kept], indptr), grams.matrix.shape)
