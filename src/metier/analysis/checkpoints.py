"""Earlier checkpoints of a model beside it: how early its routing was settled."""

# L = mixture layers, I = token ids with enough occurrences, E = experts

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metier.analysis import measures
from metier.analysis.collect import Collected, Settings, collect
from metier.analysis.findings import LEAST_TEXT_TOKENS, OFTEN
from metier.analysis.stability import SETTLED, cosines, settled_at
from metier.analysis.texts import Text
from metier.errors import ArtifactError
from metier.model.loading import load_fast


def compare(
    checkpoints: Sequence[str],
    last: str,
    vocabulary: Mapping[str, int],
    seen: Collected,
    texts: Sequence[Text],
    settings: Settings,
    said: list[str],
) -> dict[str, Any] | None:
    """Compare earlier checkpoints with the last one, over the same tokens; one of them is in memory at a time.

    Args:
        checkpoints: references of earlier checkpoints, oldest first.
        last: reference of the last checkpoint.
        vocabulary: its tokenizer's.
        seen: what was seen of it.
        texts: what it read.
        settings: how it was run.
        said: gets a line when there is too little text.

    Raises:
        ArtifactError: when a checkpoint cannot be loaded, or has another vocabulary, other layers or other experts.
    """
    if seen.counts.tokens < LEAST_TEXT_TOKENS:
        said.append(f"stability: {seen.counts.tokens} tokens, fewer than {LEAST_TEXT_TOKENS}")
        return None
    rows = [_row(checkpoint, last, vocabulary, seen, texts, settings) for checkpoint in checkpoints]
    settled = settled_at([float(np.mean(row["saturation"])) for row in rows])
    return {
        "last": short_name(last),
        "tokens": seen.choices.filled,
        "token_ids": int((seen.counts.tokens_I > OFTEN).sum()),
        "chance": seen.watch.chosen / seen.watch.experts,
        "threshold": SETTLED,
        "checkpoints": rows,
        "settled_at": None if settled is None else rows[settled]["name"],
    }


def _row(
    checkpoint: str,
    last: str,
    vocabulary: Mapping[str, int],
    seen: Collected,
    texts: Sequence[Text],
    settings: Settings,
) -> dict[str, Any]:
    loaded = load_fast(checkpoint)
    if loaded.tokenizer.get_vocab() != vocabulary:
        raise ArtifactError(
            checkpoint,
            f"its tokenizer has another vocabulary than that of {last}",
            "Compare checkpoints of one training only",
        )
    then = collect(loaded.model, short_name(checkpoint), texts, settings, seen)
    assert then.agreement is not None  # a reference was given
    often_I = seen.counts.tokens_I > OFTEN
    pairs_L = [
        (before_IE[often_I], after_IE[often_I])
        for before_IE, after_IE in zip(then.counts.of_id_LIE, seen.counts.of_id_LIE, strict=True)
    ]
    return {
        "name": short_name(checkpoint),
        "saturation": then.agreement.saturation.tolist(),
        "equal": then.agreement.equal_share.tolist(),
        "token_id_cosine": [float(cosines(*pair).mean()) for pair in pairs_L] if often_I.any() else None,
        "token_id_overlap": [_overlap(*pair) for pair in pairs_L] if often_I.any() else None,
    }


def _overlap(before_IE: Any, after_IE: Any) -> float:
    """Return the mean over token ids of the part of the routing ratios that two checkpoints have in common."""
    return float(np.mean([1 - measures.distance(one, two) for one, two in zip(before_IE, after_IE, strict=True)]))


def short_name(reference: str) -> str:
    """Return a model's name for tables and plots: the last part of its path."""
    return reference.rstrip("/").rpartition("/")[2] or reference
