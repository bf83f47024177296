"""Trim a vocabulary to what the job's text uses, so that what is kept is segmented as before.

Cutting a BPE vocabulary by frequency alone breaks it: a piece is only reached through the pieces it is merged from.
The kept set is therefore closed under merges. Inside the span of a final token BPE makes the same merges as on that
token standing alone, so keeping those intermediate pieces keeps the segmentation of every text whose tokens are
all kept.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import islice

from transformers import PreTrainedTokenizerFast

from metier.progress import track
from metier.tokenizer.pieces import Kind, Pieces

_DROPPED_PREFIXES = ("<unused", "[multimodal")


def count_tokens(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> Counter[int]:
    """Count how often each token id occurs in the texts, of which some thousand at a time are held."""
    counts: Counter[int] = Counter()
    backend, rest = tokenizer.backend_tokenizer, iter(texts)
    for some in track(iter(lambda: list(islice(rest, 2000)), []), "counting tokens"):
        for encoding in backend.encode_batch_fast(some, add_special_tokens=False):
            counts.update(encoding.ids)
    return counts


def choose(pieces: Pieces, counts: Counter[int], wanted: int, always: Iterable[int] = ()) -> list[int]:
    """Return the ids to keep: the most used, the bytes, the specials in use, and the closure under merges.

    A special piece that text may hold (a run of line breaks, a tag) is kept unless its name says that it is unused; one
    that only programs write, where it is counted or asked for.

    Args:
        pieces: the full vocabulary.
        counts: use of each id in the job's text.
        wanted: number of most used normal pieces, before closure.
        always: ids kept whatever their use: those of the prompt.
    """
    structural = [
        i
        for i, (text, kind) in enumerate(zip(pieces.texts, pieces.kinds, strict=True))
        if (kind is Kind.USER_DEFINED and not text.startswith(_DROPPED_PREFIXES))
        or (kind is Kind.CONTROL and counts[i])
    ]
    used = sorted((i for i in counts if pieces.kinds[i] is Kind.NORMAL), key=lambda i: (-counts[i], i))
    chosen = {*structural, *pieces.byte_ids(), *always, *used[:wanted]}
    return sorted(chosen | _closure(pieces, chosen))


def _closure(pieces: Pieces, chosen: Iterable[int]) -> set[int]:
    """Return the ids of the pieces that merging passes through on its way to the chosen ones."""
    id_of = pieces.normal_ids()
    needed: set[str] = set()
    for i in chosen:
        if pieces.kinds[i] is Kind.NORMAL:
            text = pieces.texts[i]
            needed.update(text)
            needed.update(left + right for left, right in pieces.path(text))
    return {id_of[text] for text in needed if text in id_of}
