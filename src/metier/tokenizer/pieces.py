"""A vocabulary of pieces that BPE merges: what its two kinds have in common, and the fast tokenizer made from it.

`metier.tokenizer.sentencepiece` is the kind of Gemma, Llama 2 and Mistral, `metier.tokenizer.byte_level` that of
GPT-2, Llama 3, Qwen, OLMoE and SmolLM. The checkpoint's tokenizer and the shipped file's are made from one vocabulary
here, so that they cannot disagree.
"""

import heapq
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, ClassVar, Self

from tokenizers import AddedToken, Tokenizer, processors
from transformers import PreTrainedTokenizerFast

_ROLES = ("bos", "eos", "unk", "pad")


class Kind(IntEnum):
    """What a piece is; the numbers are GGUF's ``tokenizer.ggml.token_type``."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, kw_only=True)
class Pieces(ABC):
    """A vocabulary. Index is token id."""

    texts: list[str]
    kinds: list[Kind]
    eos: int
    pad: int
    bos: int | None = None
    unk: int | None = None
    add_bos: bool = True
    """Whether a text begins with the BOS token."""

    model: ClassVar[str]
    """What a GGUF file calls the kind of vocabulary."""

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.kinds):
            raise ValueError("texts and kinds differ in length")
        if len(set(self.texts)) != len(self.texts):
            twice = next(text for text, times in Counter(self.texts).items() if times > 1)
            raise ValueError(f"{twice!r} is the text of two pieces")
        for name in _ROLES:
            if (i := getattr(self, name)) is not None and not 0 <= i < len(self.texts):
                raise ValueError(f"the {name} piece is number {i} of {len(self.texts)}")

    def __len__(self) -> int:
        return len(self.texts)

    @abstractmethod
    def path(self, text: str) -> list[tuple[str, str]]:
        """Return the merges, in order, that BPE makes on the text of a piece standing alone."""

    @abstractmethod
    def byte_ids(self) -> list[int]:
        """Return the ids of the pieces by which any text can be written."""

    def normal_ids(self) -> dict[str, int]:
        """Return the ids of the pieces that text is cut into, by text."""
        return {text: i for i, (text, kind) in enumerate(self._both()) if kind is Kind.NORMAL}

    def subset(self, kept: Iterable[int]) -> tuple[Self, list[int]]:
        """Return the vocabulary of some ids, in their old order, and the old id of each new one.

        BOS, EOS, padding and the unknown piece are always kept.
        """
        roles: dict[str, Any] = {name: getattr(self, name) for name in _ROLES}
        old = sorted({*kept, *(i for i in roles.values() if i is not None)})
        new_id = {before: now for now, before in enumerate(old)}
        changed = {
            "texts": [self.texts[i] for i in old],
            "kinds": [self.kinds[i] for i in old],
            **{name: None if i is None else new_id[i] for name, i in roles.items()},
            **self._restricted(old),
        }
        return replace(self, **changed), old

    def padded(self, size: int) -> Self:
        """Return the vocabulary with unused pieces behind it, for an embedding that has more rows than pieces."""
        unused = range(len(self), size)
        return replace(
            self,
            texts=[*self.texts, *(f"[PAD{i}]" for i in unused)],
            kinds=[*self.kinds, *(Kind.UNUSED for _ in unused)],
            **self._extended(len(unused)),
        )

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Return the fast tokenizer of the vocabulary."""
        backend = self._backend()
        backend.add_tokens(
            [
                AddedToken(text, special=kind is not Kind.USER_DEFINED, normalized=False)
                for text, kind in self._both()
                if kind in (Kind.CONTROL, Kind.UNKNOWN, Kind.USER_DEFINED)
            ]
        )
        if self.add_bos and self.bos is not None:
            bos = self.texts[self.bos]
            backend.post_processor = processors.TemplateProcessing(
                single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, self.bos)]
            )
        ids = ((name, getattr(self, name)) for name in _ROLES)
        return PreTrainedTokenizerFast(
            tokenizer_object=backend,
            **{f"{name}_token": self.texts[i] for name, i in ids if i is not None},
            padding_side="left",
            clean_up_tokenization_spaces=False,
        )

    def metadata(self) -> dict[str, Any]:
        """Return what a GGUF file says of the vocabulary, by key without the prefix ``tokenizer.ggml.``."""
        ids = {"bos": self.bos, "eos": self.eos, "unknown": self.unk, "padding": self.pad}
        return {
            "model": self.model,
            "tokens": self.texts,
            "token_type": [int(kind) for kind in self.kinds],
            **self._own_metadata(),
            **{f"{name}_token_id": i for name, i in ids.items() if i is not None},
            "add_bos_token": self.add_bos,
            "add_eos_token": False,
        }

    def _both(self) -> Iterable[tuple[str, Kind]]:
        return zip(self.texts, self.kinds, strict=True)

    @abstractmethod
    def _backend(self) -> Tokenizer:
        """Return the tokenizer without special pieces."""

    @abstractmethod
    def _restricted(self, old: Sequence[int]) -> dict[str, Any]:
        """Return the fields of the kind for the vocabulary of some ids."""

    @abstractmethod
    def _extended(self, more: int) -> dict[str, Any]:
        """Return the fields of the kind for a vocabulary with so many more unused pieces."""

    @abstractmethod
    def _own_metadata(self) -> dict[str, Any]:
        """Return the metadata of the kind."""


def merge_path(text: str, rank: Callable[[str, str], float | None]) -> list[tuple[str, str]]:
    """Return the merges, in order, that BPE makes on a text standing alone.

    Args:
        text: the text, as it is written in pieces.
        rank: the rank of merging two neighbours, None where they do not merge; the lowest is merged first, the
            leftmost on a tie.
    """
    symbols: list[str] = list(text)
    following = [*range(1, len(symbols)), -1]
    before = [-1, *range(len(symbols) - 1)]
    heap: list[tuple[float, int, str, str]] = []

    def offer(left: int, right: int) -> None:
        if left >= 0 and right >= 0 and (found := rank(symbols[left], symbols[right])) is not None:
            heapq.heappush(heap, (found, left, symbols[left], symbols[right]))

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
