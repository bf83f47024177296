"""Llama 3's scaled rotation: a configuration has the settings, a GGUF file the factors that they make.

Formula: Llama 3.1's, as ``ROPE_INIT_FUNCTIONS["llama3"]`` of transformers has it. D = width of a head.
"""

from typing import Any

import torch
from transformers import LlamaConfig, PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from metier.errors import ArtifactError

FACTORS = "rope_freqs.weight"
"""The GGUF name of the tensor."""

_RELEASED = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""What Llama 3.1, 3.2 and 3.3 have in common; their ``factor`` is 8 or 32."""


def is_scaled(config: PreTrainedConfig) -> bool:
    """Whether a configuration asks for Llama 3's scaled rotation."""
    rope: Any = config.rope_parameters
    return config.model_type == "llama" and rope.get("rope_type") == "llama3"


def factors(config: PreTrainedConfig) -> torch.Tensor:
    """Return by what each frequency is divided, [D/2], of a configuration that `is_scaled`."""
    rope: Any = config.rope_parameters
    width = int(config.head_dim)
    plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, width, 2).float() / width)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    divided: torch.Tensor = plain / scaled
    return divided


def rope_parameters(stored: torch.Tensor, theta: float, where: str) -> dict[str, Any]:
    """Return the settings that make the factors of a file.

    Args:
        stored: the factors, [D/2].
        theta: the base of the rotation.
        where: the file, for the error.

    Raises:
        ArtifactError: when no released Llama has these factors.
    """
    found = {**_RELEASED, "rope_theta": theta, "factor": float(stored.max())}
    config = LlamaConfig(head_dim=2 * len(stored), rope_parameters=found)
    if not torch.allclose(factors(config), stored, rtol=1e-4):
        raise ArtifactError(where, "its rotation is scaled in a way that no released Llama has", "Choose another base")
    return found
