r"""How byte-level tokenizers cut a text into words before they merge: the ways that llama.cpp knows by name.

A ``tokenizer.json`` describes its pre-tokenizer and names none; a GGUF file names it and describes none. The table has
both. Descriptions: the released ``tokenizer.json`` files that llama.cpp's converter lists for each name; what the names
mean to llama.cpp: `llm_tokenizer_bpe` and `llama_vocab::impl::load` in its ``llama-vocab.cpp``.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers


@dataclass(frozen=True, kw_only=True)
class PreTokenizer:
    """One way to cut a text into words."""

    build: Callable[[], pre_tokenizers.PreTokenizer]
    ignore_merges: bool = False
    """Whether a word that is a piece stays whole, however its merges would run."""
    adds_bos: bool = False
    """Whether a text begins with the BOS token where a file does not say."""


def _split(digits: str) -> pre_tokenizers.PreTokenizer:
    words = Regex(
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def _gpt_2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _smollm() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt_2()])


PRE_TOKENIZERS: Mapping[str, PreTokenizer] = MappingProxyType(
    {
        "gpt-2": PreTokenizer(build=_gpt_2),
        "olmo": PreTokenizer(build=_gpt_2),
        "smollm": PreTokenizer(build=_smollm),
        "qwen2": PreTokenizer(build=lambda: _split(r"\p{N}")),
        "llama-bpe": PreTokenizer(build=lambda: _split(r"\p{N}{1,3}"), ignore_merges=True, adds_bos=True),
    }
)
"""By llama.cpp's name. Of two that are alike, a description is taken for the first."""


def name_of(state: Mapping[str, Any]) -> str | None:
    """Return llama.cpp's name for the pre-tokenizer of a ``tokenizer.json``; None when it is none of the table's."""
    wanted = _steps(state["pre_tokenizer"]), bool(state["model"].get("ignore_merges"))
    for name, known in PRE_TOKENIZERS.items():
        if (_described(known), known.ignore_merges) == wanted:
            return name
    return None


def _described(known: PreTokenizer) -> list[dict[str, Any]]:
    empty = Tokenizer(models.BPE())
    empty.pre_tokenizer = known.build()
    return _steps(json.loads(empty.to_str())["pre_tokenizer"])


def _steps(described: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the steps of a pre-tokenizer, without what does not change the words."""
    if described is None:
        return []
    if described["type"] == "Sequence":
        return [step for part in described["pretokenizers"] for step in _steps(part)]
    return [{key: value for key, value in described.items() if key != "trim_offsets"}]
