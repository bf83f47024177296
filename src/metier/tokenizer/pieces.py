"""A SentencePiece-style BPE vocabulary: pieces in merge order, and the fast tokenizer made from it.

llama.cpp merges the neighbours whose joined piece has the highest score (`llm_tokenizer_spm` in its
``llama-vocab.cpp``); the `tokenizers` library merges the pair of the lowest rank. Both come from one order here,
so that the checkpoint's tokenizer and the shipped file's cannot disagree.
"""

import heapq
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from metier.errors import ArtifactError

SPACE = "▁"
"""How a space is written inside a piece."""


class Kind(IntEnum):
    """What a piece is; the numbers are GGUF's ``tokenizer.ggml.token_type``."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Pieces:
    """A vocabulary. Index is token id; a higher score is merged earlier."""

    texts: list[str]
    scores: list[float]
    kinds: list[Kind]
    bos: int
    eos: int
    unk: int
    pad: int

    def __post_init__(self) -> None:
        if not len(self.texts) == len(self.scores) == len(self.kinds):
            raise ValueError("texts, scores and kinds differ in length")

    def __len__(self) -> int:
        return len(self.texts)

    def merges(self) -> dict[str, float]:
        """Return the score of every piece that merging can make: normal pieces, by text."""
        return {
            text: score
            for text, score, kind in zip(self.texts, self.scores, self.kinds, strict=True)
            if kind is Kind.NORMAL
        }

    def subset(self, kept: Iterable[int]) -> tuple[Self, list[int]]:
        """Return the vocabulary of some ids, in their old order, and the old id of each new one."""
        old = sorted({*kept, self.bos, self.eos, self.unk, self.pad})
        new_id = {before: now for now, before in enumerate(old)}
        pieces = type(self)(
            texts=[self.texts[i] for i in old],
            scores=[self.scores[i] for i in old],
            kinds=[self.kinds[i] for i in old],
            bos=new_id[self.bos],
            eos=new_id[self.eos],
            unk=new_id[self.unk],
            pad=new_id[self.pad],
        )
        return pieces, old

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Return the fast tokenizer: BPE with byte fallback; it puts the BOS token in front."""
        scores = self.merges()
        ranked = sorted((text for text in scores if len(text) > 1), key=lambda text: scores[text], reverse=True)
        pairs = [pair for text in ranked if (pair := last_merge(text, scores))]
        bpe = Tokenizer(
            models.BPE(
                vocab={text: i for i, text in enumerate(self.texts)},
                merges=pairs,
                unk_token=self.texts[self.unk],
                fuse_unk=True,
                byte_fallback=True,
            )
        )
        bpe.normalizer = normalizers.Replace(" ", SPACE)
        bpe.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
        special = [
            AddedToken(text, special=kind is not Kind.USER_DEFINED, normalized=False)
            for text, kind in zip(self.texts, self.kinds, strict=True)
            if kind in (Kind.CONTROL, Kind.UNKNOWN, Kind.USER_DEFINED)
        ]
        bpe.add_tokens(special)
        bos = self.texts[self.bos]
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, self.bos)]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=bpe,
            bos_token=bos,
            eos_token=self.texts[self.eos],
            unk_token=self.texts[self.unk],
            pad_token=self.texts[self.pad],
            padding_side="left",
            clean_up_tokenization_spaces=False,
        )

    @classmethod
    def of_tokenizer(cls, tokenizer: PreTrainedTokenizerFast) -> Self:
        """Read the vocabulary of a fast tokenizer of Gemma's kind.

        Raises:
            ArtifactError: when it is of another kind (a Unigram model, or byte-level BPE).
        """
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        model = state["model"]
        if model["type"] != "BPE" or not model.get("byte_fallback"):
            raise ArtifactError(
                f"the tokenizer of {tokenizer.name_or_path or 'the base'}",
                f"{model['type']} without byte fallback; only SentencePiece-style BPE (Gemma's kind) is supported",
                "Choose a Gemma base, or train from scratch",
            )
        added = {token["id"]: token for token in state["added_tokens"]}
        size = max([*model["vocab"].values(), *added]) + 1
        texts = [f"<hole{i}>" for i in range(size)]
        kinds = [Kind.UNUSED] * size
        for text, i in model["vocab"].items():
            texts[i] = text
            kinds[i] = Kind.BYTE if _is_byte(text) else Kind.NORMAL
        for i, token in added.items():
            texts[i] = token["content"]
            kinds[i] = Kind.CONTROL if token["special"] else Kind.USER_DEFINED
        scores = [-float(i) if kind is Kind.NORMAL else 0.0 for i, kind in enumerate(kinds)]
        rank: dict[str, int] = {}
        for number, merge in enumerate(model["merges"]):
            left, right = merge if isinstance(merge, list) else merge.split(" ")
            rank.setdefault(left + right, number)
        for text, number in rank.items():
            scores[model["vocab"][text]] = -float(number)
        ids = {name: int(getattr(tokenizer, f"{name}_token_id")) for name in ("bos", "eos", "unk", "pad")}
        return cls(texts, scores, kinds, **ids)


def merge_path(text: str, scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return the merges, in order, that BPE makes on a text standing alone.

    Args:
        text: the text, spaces written as in pieces.
        scores: the score of every piece that can be made; the highest is merged first, the leftmost on a tie.
    """
    symbols: list[str] = list(text)
    following = [*range(1, len(symbols)), -1]
    before = [-1, *range(len(symbols) - 1)]
    heap: list[tuple[float, int, str, str]] = []

    def offer(left: int, right: int) -> None:
        if left >= 0 and right >= 0 and (score := scores.get(symbols[left] + symbols[right])) is not None:
            heapq.heappush(heap, (-score, left, symbols[left], symbols[right]))

    for i in range(len(symbols) - 1):
        offer(i, i + 1)
    path = []
    while heap:
        _, left, first, second = heapq.heappop(heap)
        right = following[left]
        if right < 0 or symbols[left] != first or symbols[right] != second:
            continue
        path.append((first, second))
        symbols[left], symbols[right] = first + second, ""
        following[left] = following[right]
        if following[left] >= 0:
            before[following[left]] = left
        offer(before[left], left)
        offer(left, following[left])
    return path


def last_merge(text: str, scores: Mapping[str, float]) -> tuple[str, str] | None:
    """Return the merge that completes a piece, or None when merging never reaches it."""
    path = merge_path(text, scores)
    return path[-1] if path and path[-1][0] + path[-1][1] == text else None


def _is_byte(text: str) -> bool:
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")
