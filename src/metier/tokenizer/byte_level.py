"""Byte-level BPE: text as bytes, cut into words, words merged by a list of pairs; the kind of GPT-2 and its heirs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from metier.tokenizer.pieces import Pieces, merge_path
from metier.tokenizer.pre_tokenizers import PRE_TOKENIZERS

ALPHABET = frozenset(pre_tokenizers.ByteLevel.alphabet())
"""The 256 characters that stand for the bytes."""


@dataclass(frozen=True, kw_only=True)
class BytePieces(Pieces):
    """A vocabulary whose merges have an order of their own."""

    merges: list[tuple[str, str]]
    """The pairs that are joined, earliest first."""
    pre: str
    """How a text is cut into words: llama.cpp's name for it."""

    model: ClassVar[str] = "gpt2"

    def __post_init__(self) -> None:
        super().__post_init__()
        known = set(self.texts)
        for left, right in self.merges:
            if not {left, right, left + right} <= known:
                raise ValueError(f"the merge of {left!r} and {right!r} is not between pieces")

    @cached_property
    def ranks(self) -> dict[tuple[str, str], int]:
        """The place of every pair in the list of merges."""
        return {pair: number for number, pair in enumerate(self.merges)}

    def path(self, text: str) -> list[tuple[str, str]]:
        """Return the merges, in order, that BPE makes on the text of a piece standing alone."""
        ranks = self.ranks
        return merge_path(text, lambda left, right: ranks.get((left, right)))

    def byte_ids(self) -> list[int]:
        """Return the ids of the pieces of one byte: 256, if the vocabulary has them all."""
        return [i for text, i in self.normal_ids().items() if text in ALPHABET]

    def _backend(self) -> Tokenizer:
        known = PRE_TOKENIZERS[self.pre]
        backend = Tokenizer(
            models.BPE(
                vocab={text: i for i, text in enumerate(self.texts)},
                merges=self.merges,
                ignore_merges=known.ignore_merges,
            )
        )
        backend.pre_tokenizer = known.build()
        backend.decoder = decoders.ByteLevel()
        return backend

    def _restricted(self, old: Sequence[int]) -> dict[str, Any]:
        kept = {self.texts[i] for i in old}
        return {"merges": [(a, b) for a, b in self.merges if a in kept and b in kept and a + b in kept]}

    def _extended(self, more: int) -> dict[str, Any]:
        return {}

    def _own_metadata(self) -> dict[str, Any]:
        return {"pre": self.pre, "merges": [f"{left} {right}" for left, right in self.merges]}
