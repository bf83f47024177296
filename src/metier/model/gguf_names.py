"""How a checkpoint and a GGUF file call and store the same weights: one place for reading and for writing.

E experts, F width of an expert, H width of the model.
"""

from collections.abc import Iterable, Sequence

import gguf
import torch
from transformers import PreTrainedConfig

from metier.model.architectures import Architecture

_FUSED = "experts.gate_up_proj"
"""Ends the name under which transformers holds two of an expert's matrices as one, [E, 2F, H]."""

_ROTATED = {"q_proj.weight": "num_attention_heads", "k_proj.weight": "num_key_value_heads"}
"""Ends of the names of matrices whose outputs are rotated, and the attributes that say how many heads they make."""


def gguf_names(names: Iterable[str], architecture: Architecture, config: PreTrainedConfig) -> dict[str, list[str]]:
    """Return the GGUF names that each Hugging Face weight is stored under.

    A weight has one, but for fused experts, which have two; an output matrix that is the embedding may have none.

    Raises:
        ValueError: for a weight that the architecture does not have.
    """
    table = gguf.get_tensor_name_map(architecture.tensors, config.num_hidden_layers)
    found = {}
    for name in names:
        if name == "lm_head.weight" and config.tie_word_embeddings and not architecture.needs_output:
            continue
        fused = name.endswith(_FUSED)
        parts = [name.replace("gate_up_proj", part) for part in ("gate_proj", "up_proj")] if fused else [name]
        found[name] = [_gguf_name(part, table, architecture) for part in parts]
    return found


def _gguf_name(name: str, table: gguf.TensorNameMap, architecture: Architecture) -> str:
    found = table.get_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise ValueError(f"{name} has no place in a {architecture.name} file")
    # transformers gives the stacked matrices of experts no suffix
    return found if found.endswith((".weight", ".bias")) else f"{found}.weight"


def to_gguf(
    name: str, weight: torch.Tensor, architecture: Architecture, config: PreTrainedConfig
) -> list[torch.Tensor]:
    """Return a weight as GGUF stores it: a tensor for each of its names."""
    if name.endswith(_FUSED):
        return [half.contiguous() for half in weight.chunk(2, dim=1)]
    if name.endswith("norm.weight"):
        weight = weight + architecture.norm_offset
    if architecture.interleaved and (heads := _rotated_heads(name, config)):
        weight = weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2).contiguous()
    return [weight]


def from_gguf(
    name: str, stored: Sequence[torch.Tensor], architecture: Architecture, config: PreTrainedConfig
) -> torch.Tensor:
    """Undo `to_gguf`."""
    if name.endswith(_FUSED):
        return torch.cat(list(stored), dim=1)
    weight = stored[0]
    if name.endswith("norm.weight"):
        weight = weight - architecture.norm_offset
    if architecture.interleaved and (heads := _rotated_heads(name, config)):
        weight = weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()
    return weight


def _rotated_heads(name: str, config: PreTrainedConfig) -> int:
    """How many heads a matrix makes whose outputs are rotated; 0 for any other weight."""
    return next((int(getattr(config, heads, 0)) for end, heads in _ROTATED.items() if name.endswith(end)), 0)
