"""SentencePiece-style BPE: spaces written as a mark, unknown characters as bytes; Gemma's, Llama 2's, Mistral's kind.

llama.cpp merges the neighbours whose joined piece has the highest score (`llm_tokenizer_spm` in its
``llama-vocab.cpp``); the `tokenizers` library merges the pair of the lowest rank. Both come from one order here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from tokenizers import Tokenizer, decoders, models, normalizers

from metier.tokenizer.pieces import Kind, Pieces, merge_path

SPACE = "▁"
"""How a space is written inside a piece."""


@dataclass(frozen=True, kw_only=True)
class SentencePieces(Pieces):
    """A vocabulary in which the piece of the higher score is merged earlier."""

    scores: list[float]
    space_prefix: bool = False
    """Whether a text, and what follows a special piece, is given a space in front."""

    model: ClassVar[str] = "llama"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.texts) != len(self.scores):
            raise ValueError("texts and scores differ in length")

    @cached_property
    def merged(self) -> dict[str, float]:
        """The score of every piece that merging can make: normal pieces, by text."""
        return {text: self.scores[i] for text, i in self.normal_ids().items()}

    def path(self, text: str) -> list[tuple[str, str]]:
        """Return the merges, in order, that BPE makes on the text of a piece standing alone."""
        scores = self.merged

        def rank(left: str, right: str) -> float | None:
            score = scores.get(left + right)
            return None if score is None else -score

        return merge_path(text, rank)

    def last_merge(self, text: str) -> tuple[str, str] | None:
        """Return the merge that completes a piece, or None when merging never reaches it."""
        path = self.path(text)
        return path[-1] if path and path[-1][0] + path[-1][1] == text else None

    def byte_ids(self) -> list[int]:
        """Return the ids of the 256 bytes, and of the space."""
        return [i for i, (text, kind) in enumerate(self._both()) if kind is Kind.BYTE or text == SPACE]

    def _backend(self) -> Tokenizer:
        scores = self.merged
        ranked = sorted((text for text in scores if len(text) > 1), key=lambda text: scores[text], reverse=True)
        backend = Tokenizer(
            models.BPE(
                vocab={text: i for i, text in enumerate(self.texts)},
                merges=[pair for text in ranked if (pair := self.last_merge(text))],
                unk_token=None if self.unk is None else self.texts[self.unk],
                fuse_unk=True,
                byte_fallback=True,
            )
        )
        spaces = normalizers.Replace(" ", SPACE)
        steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        if self.space_prefix:
            backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces])
            backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
        else:
            backend.normalizer = spaces
            backend.decoder = decoders.Sequence(steps)
        return backend

    def _restricted(self, old: Sequence[int]) -> dict[str, Any]:
        return {"scores": [self.scores[i] for i in old]}

    def _extended(self, more: int) -> dict[str, Any]:
        return {"scores": self.scores + [0.0] * more}

    def _own_metadata(self) -> dict[str, Any]:
        return {"pre": "default", "scores": self.scores, "add_space_prefix": self.space_prefix}
