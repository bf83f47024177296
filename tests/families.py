"""The families of released models that a base may come from, each as a tiny folder with random weights."""

from pathlib import Path
from typing import Any, NamedTuple

from doubles import of_any_architecture
from vocabularies import name_class, tokenizer_like

LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


class Case(NamedTuple):
    """A released family: the shape of its models and the kind of its tokenizer."""

    architecture: str
    tokenizer: str
    tied: bool = False
    more_rows: int = 0
    rope: dict[str, Any] | None = None


CASES = {
    "SmolLM2": Case("llama", "smollm", tied=True),
    "Llama 2": Case("llama", "llama-2"),
    "Llama 3.2": Case("llama", "llama-3", tied=True, rope=LLAMA_3_ROPE),
    "Mistral": Case("mistral", "mistral"),
    "Mixtral": Case("mixtral", "llama-2"),
    "Qwen 2": Case("qwen2", "qwen", tied=True, more_rows=13),
    "Qwen 3": Case("qwen3", "qwen", more_rows=13),
    "Qwen 3 MoE": Case("qwen3_moe", "qwen", more_rows=13),
    "OLMoE": Case("olmoe", "olmoe", more_rows=6),
    "Gemma 3": Case("gemma3_text", "gemma", tied=True),
}


def write_released(case: Case, folder: Path) -> None:
    """Write a model of a family as the hub has it: random weights, a small tokenizer of the real kind."""
    tokenizer = tokenizer_like(case.tokenizer)
    model = of_any_architecture(case.architecture, len(tokenizer) + case.more_rows, case.tied)
    if case.rope:
        model.config.rope_parameters = case.rope
    for role in ("bos", "eos", "pad"):
        setattr(model.config, f"{role}_token_id", getattr(tokenizer, f"{role}_token_id"))
        setattr(model.generation_config, f"{role}_token_id", getattr(tokenizer, f"{role}_token_id"))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    name_class(folder, case.tokenizer)
