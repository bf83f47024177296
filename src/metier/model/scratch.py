"""A model with random weights, in a shape that llama.cpp and Auto classes know."""

import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from metier.model.convert import SLIDING_PATTERN


def scratch(pieces: int, hidden_size: int, layers: int, context_tokens: int, seed: int) -> Gemma3ForCausalLM:
    """Return a dense Gemma 3 model of the given size, initialised from the seed.

    Heads are 32 wide, the feed-forward layer 4 times the model's width.
    """
    torch.manual_seed(seed)
    kinds = ["sliding_attention", "full_attention"]
    config = Gemma3TextConfig(
        vocab_size=pieces,
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 32,
        num_key_value_heads=1,
        head_dim=32,
        query_pre_attn_scalar=32,
        max_position_embeddings=context_tokens,
        sliding_window=512,
        layer_types=[kinds[(i + 1) % SLIDING_PATTERN == 0] for i in range(layers)],
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        tie_word_embeddings=True,
    )
    config.architectures = ["Gemma3ForCausalLM"]
    model: Gemma3ForCausalLM = Gemma3ForCausalLM(config).float()
    return model
