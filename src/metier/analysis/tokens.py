"""Token ids as people read them, and which of them an expert gets."""

# I = token ids that are followed, E = experts

import unicodedata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metier.analysis import measures
from metier.analysis.counts import Counts

TOP = 10
"""Tokens listed for an expert, as in OpenMoE's tables 9 and 15."""


def shown(tokenizer: Any, id_: int) -> str:
    """Return a token as text in which spaces and control characters can be seen."""
    piece = str(tokenizer.convert_ids_to_tokens(int(id_)))
    text = str(tokenizer.decode([int(id_)], clean_up_tokenization_spaces=False))
    if piece.startswith("▁") and not text.startswith(" "):
        text = " " + text
    if not text or "\ufffd" in text:
        text = piece
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if character == " ":
        return "␣"
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp", "Zs"):
        return character.encode("unicode_escape").decode("ascii")
    return character


def tokens_of_ids(counts: Counts, layer: int, slots: NDArray[np.int64], tokenizer: Any) -> list[dict[str, Any]]:
    """Return the specialisation of token ids and the experts they go to, most specialised first.

    Args:
        counts: a model's counts.
        layer: number of a mixture layer.
        slots: which of the followed ids: those with enough occurrences.
        tokenizer: shows the ids as text.
    """
    E, K = counts.sizes.experts, counts.sizes.chosen
    of_id_IE, tokens_I = counts.of_id_LIE[layer][slots], counts.tokens_I[slots]
    share_I = measures.spread(of_id_IE) / (measures.largest_spread(E, K) or 1.0)
    return [
        {
            "id": int(counts.sizes.ids_I[slots[i]]),
            "text": shown(tokenizer, counts.sizes.ids_I[slots[i]]),
            "tokens": int(tokens_I[i]),
            "spread_of_largest": round(float(share_I[i]), 5),
            "chance": round(float(1 / np.sqrt(tokens_I[i])), 5),
            "experts": [
                {"expert": int(e), "share": round(float(of_id_IE[i, e] / tokens_I[i]), 5)}
                for e in np.argsort(-of_id_IE[i], kind="stable")[: K + 1]
                if of_id_IE[i, e]
            ],
        }
        for i in np.argsort(-share_I, kind="stable")
    ]


def tokens_of_experts(counts: Counts, layer: int, tokenizer: Any) -> list[list[dict[str, Any]]]:
    """Return, for each expert, the token ids it gets most often.

    ``share`` is the part of the id's tokens that this expert gets (OLMoE's vocabulary specialisation).
    """
    of_id_IE = counts.of_id_LIE[layer]
    return [
        [
            {
                "id": int(counts.sizes.ids_I[slot]),
                "text": shown(tokenizer, counts.sizes.ids_I[slot]),
                "tokens": int(of_id_IE[slot, expert]),
                "share": round(float(of_id_IE[slot, expert] / counts.tokens_I[slot]), 5),
            }
            for slot in np.argsort(-of_id_IE[:, expert], kind="stable")[:TOP]
            if of_id_IE[slot, expert]
        ]
        for expert in range(counts.sizes.experts)
    ]
