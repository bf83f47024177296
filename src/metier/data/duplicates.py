"""Rows that say the same thing twice: one of them is kept, the first."""

from collections.abc import Sequence

import numpy as np

from metier.data.records import Record
from metier.data.similarity import comparable, gram_sets, similar_pairs, similarities


def exact_duplicates(records: Sequence[Record]) -> list[int]:
    """Return the indices of rows whose input and output both equal an earlier row's, after `comparable`."""
    seen: set[tuple[str, str]] = set()
    found = []
    for index, record in enumerate(records):
        key = comparable(record.input), comparable(record.output)
        if key in seen:
            found.append(index)
        seen.add(key)
    return found


def near_duplicates(records: Sequence[Record], threshold: float) -> list[int]:
    """Return the indices of rows of which an earlier *kept* row is a near duplicate.

    Two rows are near duplicates when inputs and outputs each have a 3-gram Jaccard similarity of at least the
    threshold. If they do, so do the rows' joint gram sets, inputs' and outputs' grams taken together (a
    fraction of sums lies between the fractions), and the joint sets have the rarest grams to search by.
    """
    if not records:
        return []
    inputs = [comparable(record.input) for record in records]
    outputs = [comparable(record.output) for record in records]
    (joint,) = gram_sets([inputs, outputs])
    sides = joint.of_field(0), joint.of_field(1)
    kept = np.ones(len(records), dtype=bool)
    for later, earlier in similar_pairs(joint, joint, threshold, "near duplicates", before=True):
        for side in sides:
            alike = similarities(side, side, later, earlier) >= threshold
            later, earlier = later[alike], earlier[alike]
        # In order of the later row: whether it goes depends on which of the earlier ones stayed.
        for at in np.argsort(later, kind="stable"):
            if kept[earlier[at]]:
                kept[later[at]] = False
    return [int(index) for index in np.flatnonzero(~kept)]
