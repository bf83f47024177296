"""A model with random weights, in a shape that llama.cpp and Auto classes know."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, Qwen3Config, Qwen3MoeConfig

from metier.model.openmoe import OpenMoeConfig
from metier.spec.shape import ArchitectureName, Shape, shape_of


def scratch(
    pieces: int,
    hidden_size: int,
    layers: int,
    context_tokens: int,
    seed: int,
    *,
    architecture: ArchitectureName = "dense",
    **sizes: int | None,
) -> PreTrainedModel:
    """Return a model of the given size, initialised from the seed.

    Args:
        pieces: size of the vocabulary, whose ids 0, 1 and 2 are pad, eos and bos.
        hidden_size: width of the model.
        layers: number of layers.
        context_tokens: longest text.
        seed: of the weights.
        architecture: ``dense`` (Qwen3's shape), ``moe`` (Qwen3-MoE's) or ``openmoe``.
        sizes: further sizes, as `metier.spec.shape.shape_of` takes them.

    Raises:
        ImpossibleShapeError: when the sizes do not fit together.
    """
    torch.manual_seed(seed)
    config = _config(shape_of(architecture, hidden_size, layers, **sizes), pieces, context_tokens)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.config.architectures = [type(model).__name__]
    return model


def _config(shape: Shape, pieces: int, context_tokens: int) -> PreTrainedConfig:
    """Return the configuration of a shape.

    Weights start with variance 1 / width (LeCun et al. 1998, Efficient BackProp, section 4.6), but for OpenMoE's. The
    usual deviation of 0.02 is for models a thousand numbers wide: a narrow one learns several times slower from it.
    """
    settings: dict[str, Any] = {
        "vocab_size": pieces,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.feed_forward_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": context_tokens,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    if shape.architecture == "openmoe":
        return OpenMoeConfig(
            **settings,
            num_experts=shape.experts,
            router_topk=shape.experts_per_token,
            moe_layer_interval=shape.moe_layer_interval,
        )
    settings |= {"tie_word_embeddings": True, "initializer_range": shape.hidden_size**-0.5}
    if shape.architecture == "dense":
        return Qwen3Config(**settings)
    return Qwen3MoeConfig(
        **settings,
        num_experts=shape.experts,
        num_experts_per_tok=shape.experts_per_token,
        moe_intermediate_size=shape.expert_size,
        norm_topk_prob=True,  # llama.cpp always does
    )
