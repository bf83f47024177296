"""A model with random weights, in a shape that llama.cpp and Auto classes know."""

import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from metier.model.convert import attention_pattern


def scratch(pieces: int, hidden_size: int, layers: int, context_tokens: int, seed: int) -> Gemma3ForCausalLM:
    """Return a dense Gemma 3 model of the given size, initialised from the seed.

    Heads are 32 wide, the feed-forward layer 4 times the model's width.
    """
    torch.manual_seed(seed)
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
        **attention_pattern(layers, full_theta=1e6),
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        tie_word_embeddings=True,
    )
    config.architectures = ["Gemma3ForCausalLM"]
    model: Gemma3ForCausalLM = Gemma3ForCausalLM(config).float()
    return model
