"""From counts to findings: one JSON-able dictionary, from which the table and the page are drawn."""

# L = mixture layers, E = experts, K = experts a token chooses, D = texts, T = positions, I = token ids

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metier.analysis import measures
from metier.analysis.collect import Collected, Settings
from metier.analysis.counts import DROP_RULES, OWN, Counts, room_of
from metier.analysis.texts import Text
from metier.analysis.tokens import tokens_of_experts, tokens_of_ids

FORMAT = 1
"""Version of the JSON; raised when a key changes its meaning or goes."""
OFTEN = 128
"""A token id or position is measured when it has more occurrences (OpenMoE, appendix E)."""
LEAST_TEXT_TOKENS = 1000
"""A text is compared with the others when it has so many tokens."""
LEAST_PAIRS = 10
"""Pairs of experts are shown when chance alone would give a pair so many tokens."""
POSITION_BIN = 256
DROP_BINS = 32


def findings(
    name: str, seen: Collected, texts: Sequence[Text], tokenizer: Any, settings: Settings, detail: int | None = None
) -> dict[str, Any]:
    """Return everything that can be said of one model's routing.

    Args:
        name: what the model is called.
        seen: its counts.
        texts: what it read.
        tokenizer: shows token ids as text.
        settings: how it was run.
        detail: number among the mixture layers of the one that is shown in detail; by default the middle one.

    Returns:
        A dictionary of JSON values; a measure for which there is too little text is None, and ``too_little`` says why.
    """
    counts, watch = seen.counts, seen.watch
    shown = len(watch.layers) // 2 if detail is None else detail
    said: list[str] = []
    detail_findings = _detail(counts, shown, tokenizer, said)
    return {
        "format": FORMAT,
        "model": {
            "name": name,
            "experts": watch.experts,
            "chosen": watch.chosen,
            "layers": layer_numbers(watch.layers),
            "largest_spread": measures.largest_spread(watch.experts, watch.chosen),
        },
        "texts": [
            {
                "name": text.name,
                "rows": len(text.rows),
                "tokens": text.tokens,
                "enough": text.tokens >= LEAST_TEXT_TOKENS,
            }
            for text in texts
        ],
        "tokens": counts.tokens,
        "row_tokens": counts.sizes.positions,
        "begins_with": None if tokenizer.bos_token_id is None else str(tokenizer.bos_token),
        "layers": [_layer(counts, layer, texts, said) for layer in range(len(watch.layers))],
        "detail": {"layer": layer_numbers(watch.layers)[shown], "index": shown, **detail_findings},
        "drops": _drops(counts, texts, settings),
        "stability": None,
        "too_little": list(dict.fromkeys(said)),
    }


def layer_numbers(names: Sequence[str]) -> list[int]:
    """Return the number of the decoder layer that each router belongs to, counted from 0 as the model does."""
    numbers = [re.search(r"\.(\d+)\.", name) for name in names]
    return [int(number[1]) if number else at for at, number in enumerate(numbers)]


def _layer(counts: Counts, layer: int, texts: Sequence[Text], said: list[str]) -> dict[str, Any]:
    tokens, K = counts.tokens, counts.sizes.chosen
    use_DHE = counts.use_LDHE[layer]
    overall_E = use_DHE.sum((0, 1))
    often_I = counts.tokens_I > OFTEN
    vocabulary = None
    if often_I.any():
        of_id_IE = counts.of_id_LIE[layer][often_I]
        vocabulary = measures.vocabulary_specialisation(of_id_IE, counts.tokens_I[often_I])
    return {
        "use": overall_E.tolist(),
        "balance": measures.balance(overall_E, tokens, K)._asdict(),
        "confidence": {
            "weights": (counts.weight_LK[layer] / tokens).tolist(),
            "chosen_probability": float(counts.mass_L[layer] / tokens),
            "entropy_share": float(counts.entropy_L[layer] / tokens / np.log(counts.sizes.experts)),
        },
        "token_specialisation": _specialisation(
            counts.of_id_LIE[layer], counts.tokens_I, overall_E, K, "token id", said
        ),
        "position_specialisation": _specialisation(
            counts.at_LTE[layer], counts.tokens_DT.sum(0), overall_E, K, "position", said
        ),
        "vocabulary_specialisation": vocabulary,
        "texts": {text.name: _text(use_DHE, number, text, K, said) for number, text in enumerate(texts)},
    }


def _specialisation(
    counts_GE: NDArray[Any], tokens_G: NDArray[Any], overall_E: NDArray[Any], chosen: int, what: str, said: list[str]
) -> dict[str, Any] | None:
    often_G = tokens_G > OFTEN
    if not often_G.any():
        most = int(tokens_G.max(initial=0))
        said.append(f"specialisation by {what}: no {what} occurs more than {OFTEN} times (the most: {most})")
        return None
    return measures.specialisation(counts_GE[often_G], tokens_G[often_G], overall_E, chosen)._asdict()


def _text(use_DHE: NDArray[Any], number: int, text: Text, chosen: int, said: list[str]) -> dict[str, Any]:
    """Compare one text's use of the experts with that of all others, and its two halves with each other."""
    use_HE = use_DHE[number]
    others_E = use_DHE.sum((0, 1)) - use_HE.sum(0)
    found: dict[str, Any] = {"use": use_HE.sum(0).tolist(), "to_others": None, "between_halves": None}
    if text.tokens < LEAST_TEXT_TOKENS:
        said.append(f"experts and drops by text: {text.name} has {text.tokens} tokens, fewer than {LEAST_TEXT_TOKENS}")
        return found
    if others_E.any():
        found["to_others"] = measures.distance(use_HE.sum(0), others_E)
    if use_HE[0].any():
        found["between_halves"] = measures.distance(use_HE[0], use_HE[1])
    return found


def _detail(counts: Counts, layer: int, tokenizer: Any, said: list[str]) -> dict[str, Any]:
    E, K = counts.sizes.experts, counts.sizes.chosen
    often_I = np.flatnonzero(counts.tokens_I > OFTEN)
    expected_pairs = counts.tokens * K * (K - 1) / (E * (E - 1)) if E > 1 else 0
    together = None
    if expected_pairs >= LEAST_PAIRS:
        together = {
            "shares": np.round(measures.coactivation(counts.pairs_LEE[layer]), 4).tolist(),
            "chance": (K - 1) / (E - 1),
        }
    elif K > 1:
        said.append(f"pairs of experts: a pair has {expected_pairs:.1f} tokens by chance, fewer than {LEAST_PAIRS}")
    ids = tokens_of_ids(counts, layer, often_I, tokenizer)
    return {
        "positions": _positions(counts, layer),
        "token_ids": ids,
        "top_tokens": tokens_of_experts(counts, layer, tokenizer),
        "coactivation": together,
    }


def _positions(counts: Counts, layer: int) -> dict[str, Any]:
    at_TE, tokens_T = counts.at_LTE[layer], counts.tokens_DT.sum(0)
    E, K = counts.sizes.experts, counts.sizes.chosen
    found: dict[str, Any] = {
        "bin": POSITION_BIN,
        "bins": measures.binned(at_TE.T, POSITION_BIN).T.tolist(),
        "spread_of_largest": None,
        "chance": None,
        "neighbours": None,
        "half_a_row_apart": None,
    }
    often_T = tokens_T > OFTEN  # the first positions: every row has them
    if often_T.any():
        largest = measures.largest_spread(E, K) or 1.0
        found["spread_of_largest"] = np.round(measures.spread(at_TE[often_T]) / largest, 5).tolist()
        chance_T = measures.chance_spread(tokens_T[often_T], E, K) / largest
        found["chance"] = float(chance_T.mean())
        inner = at_TE[often_T][1:]  # without the begin mark
        half = len(inner) // 2
        if half > 1:
            found["neighbours"] = _mean_distance(inner[:half], inner[1 : half + 1])
            found["half_a_row_apart"] = _mean_distance(inner[:half], inner[half : 2 * half])
    return found


def _mean_distance(one_TE: NDArray[Any], other_TE: NDArray[Any]) -> float:
    return float(np.mean([measures.distance(one_E, other_E) for one_E, other_E in zip(one_TE, other_TE, strict=True)]))


def _drops(counts: Counts, texts: Sequence[Text], settings: Settings) -> dict[str, Any]:
    sizes, K = counts.sizes, counts.sizes.chosen
    group_tokens = sizes.positions * (1 if settings.group == "sequence" else settings.batch_rows)
    width = max(sizes.positions // DROP_BINS, 1)
    tokens_DB = np.maximum(measures.binned(counts.tokens_DT, width), 1) * sizes.layers
    rules: dict[str, Any] = {}
    for number, rule in enumerate(DROP_RULES):
        if rule == OWN and not counts.has_own_drops:
            continue
        dropped_LDT, lost_LDT = counts.dropped_RLDT[number], counts.lost_RLDT[number]
        dropped_DB = measures.binned(dropped_LDT.sum(0), width) / (tokens_DB * K)
        lost_DB = measures.binned(lost_LDT.sum(0), width) / tokens_DB
        room = None if rule == OWN else room_of(rule, settings.capacity_factor, group_tokens, sizes.experts, K)
        rules[rule] = {
            "room": room,
            "dropped_by_chance": None if room is None else measures.chance_drops(group_tokens, room, sizes.experts, K),
            "dropped_if_even": None if room is None else max(0.0, 1 - room * sizes.experts / (group_tokens * K)),
            "dropped": float(dropped_LDT.sum() / (counts.tokens * K * sizes.layers)),
            "lost": float(lost_LDT.sum() / (counts.tokens * sizes.layers)),
            "dropped_by_layer": (dropped_LDT.sum((1, 2)) / (counts.tokens * K)).tolist(),
            "lost_by_layer": (lost_LDT.sum((1, 2)) / counts.tokens).tolist(),
            "by_position": {
                text.name: {"dropped": np.round(dropped_DB[d], 5).tolist(), "lost": np.round(lost_DB[d], 5).tolist()}
                for d, text in enumerate(texts)
            },
        }
    return {
        "capacity_factor": settings.capacity_factor,
        "group": settings.group,
        "group_tokens": group_tokens,
        "bin": width,
        "rules": rules,
    }
