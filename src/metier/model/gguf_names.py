"""How a Gemma 3 checkpoint and a GGUF file call the same weights: one table for reading and for writing."""

from collections.abc import Iterable

import gguf
import torch

ARCHITECTURE = "gemma3"
"""The GGUF architecture read and written here."""


def gguf_names(names: Iterable[str], layers: int) -> dict[str, str]:
    """Return the GGUF name of each Hugging Face weight name; the tied output matrix has none.

    Raises:
        ValueError: for a weight that the architecture does not have.
    """
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, layers)
    found = {}
    for name in names:
        if name == "lm_head.weight":
            continue
        other = table.get_name(name, try_suffixes=(".weight",))
        if other is None:
            raise ValueError(f"{name} has no place in a {ARCHITECTURE} file")
        found[name] = other
    return found


def to_gguf(name: str, weight: torch.Tensor) -> torch.Tensor:
    """Return a weight as GGUF stores it: Gemma's norms multiply by ``1 + weight``, llama.cpp by the weight."""
    return weight + 1 if name.endswith("norm.weight") else weight


def from_gguf(name: str, weight: torch.Tensor) -> torch.Tensor:
    """Undo `to_gguf`."""
    return weight - 1 if name.endswith("norm.weight") else weight
