"""Run a model over text, left to right, and count what its routers decide."""

# L = mixture layers, N = tokens of all text, K = experts a token chooses, E = experts

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metier.analysis.counts import Counts, Group, Sizes
from metier.analysis.stability import Agreement, Choices
from metier.analysis.texts import Text
from metier.analysis.watch import Watch, forward, watched
from metier.errors import ArtifactError
from metier.progress import bar

FOLLOWED = 4096
"""At most so many token ids are followed one by one: the most frequent."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How text is run, and how drops are simulated."""

    batch_rows: int
    capacity_factor: float
    group: Group


class Collected(NamedTuple):
    """What was seen of one model."""

    watch: Watch
    counts: Counts
    choices: Choices
    agreement: Agreement | None
    """How far its choices are those of the model it was compared with."""


class Batch(NamedTuple):
    """Rows of equal length, of one half of one text."""

    text: int
    half: int
    ids_BT: NDArray[np.int32]


def collect(
    model: Any, name: str, texts: Sequence[Text], settings: Settings, reference: Collected | None = None
) -> Collected:
    """Count the routing of a model over texts.

    Args:
        model: a causal language model with experts, in evaluation mode, on its device.
        name: what it is called in messages and in the progress display.
        texts: rows of token ids.
        settings: how to run them.
        reference: what was seen of another checkpoint over the same texts, to compare with.

    Raises:
        ArtifactError: when the model has no experts, or other layers and experts than the reference.
    """
    tokens = sum(text.tokens for text in texts)
    with watched(model, name) as watch, bar("{task.fields[speed]}") as progress:
        if reference is not None and watch.shape != reference.watch.shape:
            raise ArtifactError(
                name, "has other layers or experts than the last checkpoint", "Compare checkpoints of one training only"
            )
        sizes = Sizes(
            layers=len(watch.layers),
            experts=watch.experts,
            chosen=watch.chosen,
            texts=len(texts),
            positions=max(len(row) for text in texts for row in text.rows),
            ids_I=frequent_ids(texts),
        )
        counts = Counts(sizes, settings.capacity_factor, settings.group)
        choices = Choices.sized(len(watch.layers), watch.chosen, tokens)
        agreement = None if reference is None else Agreement(reference.choices)
        task = progress.add_task(f"reading with {name}", total=tokens, speed="tokens")
        for batch in batches(texts, settings.batch_rows):
            watch.latest.clear()
            forward(model, batch.ids_BT)
            counts.add(batch.text, batch.half, batch.ids_BT, watch.latest)
            if agreement:
                agreement.add(watch.latest)
            else:
                choices.add(watch.latest)
            progress.advance(task, batch.ids_BT.size)
        return Collected(watch, counts, choices, agreement)


def batches(texts: Sequence[Text], batch_rows: int) -> Iterator[Batch]:
    """Yield the rows of all texts in order, in batches of equal length and of one half of one text."""
    for number, text in enumerate(texts):
        middle = len(text.rows) // 2
        for half, rows in enumerate((text.rows[:middle], text.rows[middle:])):
            at = 0
            while at < len(rows):
                width = len(rows[at])
                same = [row for row in rows[at : at + batch_rows] if len(row) == width]
                yield Batch(number, half, np.stack(same))
                at += len(same)


def frequent_ids(texts: Sequence[Text]) -> NDArray[np.int64]:
    """Return the most frequent token ids of the texts, at most `FOLLOWED`, sorted."""
    seen: Counter[int] = Counter()
    for text in texts:
        for row in text.rows:
            seen.update(row.tolist())
    return np.array(sorted(id_ for id_, _ in seen.most_common(FOLLOWED)), np.int64)
