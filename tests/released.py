"""What released models say of themselves in config.json, written down by us: numbers and names, no weights.

Only what decides what a model computes is kept; sampling, class names and versions are left out.
"""

from typing import Any, NamedTuple


class Released(NamedTuple):
    """A released model, and what becomes of it."""

    name: str
    config: dict[str, Any]
    becomes: str
    """The architecture in a file; empty where it is refused."""
    refused: str = ""
    """What the refusal says."""


_SIZES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "vocab_size"),
)


def _of(model_type: str, *sizes: int, **others: Any) -> dict[str, Any]:
    """Return a config.json: width, feed-forward width, layers, heads, key and value heads, pieces; and the rest."""
    return {"model_type": model_type, **dict(zip(_SIZES, sizes, strict=True)), **others}


_LLAMA = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "mlp_bias": False,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "use_cache": True,
}
_LLAMA_3_2 = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
_LLAMA_2 = _LLAMA | {"bos_token_id": 1, "eos_token_id": 2, "rope_scaling": None, "tie_word_embeddings": False}
_SMOLLM_2 = _LLAMA | {
    "bos_token_id": 0,
    "eos_token_id": 0,
    "initializer_range": 0.041666666666666664,
    "is_llama_config": True,
    "max_position_embeddings": 8192,
    "rope_interleaved": False,
    "rope_scaling": None,
    "tie_word_embeddings": True,
}
_MISTRAL = {
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False,
    "use_cache": True,
}
_QWEN = {
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "use_cache": True,
    "use_sliding_window": False,
}
_QWEN_3 = _QWEN | {
    "attention_bias": False,
    "eos_token_id": 151645,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rope_scaling": None,
    "sliding_window": None,
}
_GEMMA_3 = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "initializer_range": 0.02,
    "max_position_embeddings": 32768,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 512,
    "use_cache": True,
}
_EVERY_SIXTH = (["sliding_attention"] * 5 + ["full_attention"]) * 3

RELEASED = (
    Released(
        "Llama 3.2 1B",
        _of(
            *("llama", 2048, 8192, 16, 32, 8, 128256),
            **_LLAMA,
            bos_token_id=128000,
            eos_token_id=128001,
            head_dim=64,
            max_position_embeddings=131072,
            rope_scaling=_LLAMA_3_2,
            rope_theta=500000.0,
            tie_word_embeddings=True,
        ),
        "llama",
    ),
    Released(
        "Llama 2 7B",
        _of("llama", 4096, 11008, 32, 32, 32, 32000, **_LLAMA_2, max_position_embeddings=4096),
        "llama",
    ),
    Released(
        "TinyLlama 1.1B",
        _of("llama", 2048, 5632, 22, 32, 4, 32000, **_LLAMA_2, max_position_embeddings=2048, rope_theta=10000.0),
        "llama",
    ),
    Released("SmolLM2 135M", _of("llama", 576, 1536, 30, 9, 3, 49152, **_SMOLLM_2, rope_theta=100000), "llama"),
    Released("SmolLM2 360M", _of("llama", 960, 2560, 32, 15, 5, 49152, **_SMOLLM_2, rope_theta=100000), "llama"),
    Released("SmolLM2 1.7B", _of("llama", 2048, 8192, 24, 32, 32, 49152, **_SMOLLM_2, rope_theta=130000), "llama"),
    Released(
        "Mistral 7B v0.3",
        _of("mistral", 4096, 14336, 32, 32, 8, 32768, **_MISTRAL, rope_theta=1000000.0, sliding_window=None),
        "llama",
    ),
    Released(
        "Mistral 7B v0.1",
        _of("mistral", 4096, 14336, 32, 32, 8, 32000, **_MISTRAL, rope_theta=10000.0, sliding_window=4096),
        "",
        "it has sliding_window = 4096, where llama.cpp's 'llama' has None",
    ),
    Released(
        "Mixtral 8x7B",
        _of(
            *("mixtral", 4096, 14336, 32, 32, 8, 32000),
            **_MISTRAL,
            num_experts_per_tok=2,
            num_local_experts=8,
            output_router_logits=False,
            rope_theta=1000000.0,
            router_aux_loss_coef=0.02,
            sliding_window=None,
        ),
        "llama",
    ),
    Released(
        "Qwen2.5 0.5B",
        _of(
            *("qwen2", 896, 4864, 24, 14, 2, 151936),
            **_QWEN,
            eos_token_id=151643,
            max_position_embeddings=32768,
            max_window_layers=24,
            sliding_window=32768,
            tie_word_embeddings=True,
            use_mrope=False,
        ),
        "qwen2",
    ),
    Released(
        "Qwen3 0.6B",
        _of("qwen3", 1024, 3072, 28, 16, 8, 151936, **_QWEN_3, max_window_layers=28, tie_word_embeddings=True),
        "qwen3",
    ),
    Released(
        "Qwen3 30B-A3B",
        _of(
            *("qwen3_moe", 2048, 6144, 48, 32, 4, 151936),
            **_QWEN_3,
            decoder_sparse_step=1,
            max_window_layers=48,
            mlp_only_layers=[],
            moe_intermediate_size=768,
            norm_topk_prob=True,
            num_experts=128,
            num_experts_per_tok=8,
            output_router_logits=False,
            router_aux_loss_coef=0.001,
            tie_word_embeddings=False,
        ),
        "qwen3moe",
    ),
    Released(
        "OLMoE 1B-7B",
        _of(
            *("olmoe", 2048, 1024, 16, 16, 16, 50304),
            attention_bias=False,
            attention_dropout=0.0,
            clip_qkv=None,
            eos_token_id=50279,
            hidden_act="silu",
            initializer_range=0.02,
            max_position_embeddings=4096,
            norm_topk_prob=False,
            num_experts=64,
            num_experts_per_tok=8,
            output_router_logits=False,
            pad_token_id=1,
            rms_norm_eps=1e-05,
            rope_scaling=None,
            rope_theta=10000.0,
            router_aux_loss_coef=0.01,
            tie_word_embeddings=False,
            use_cache=True,
        ),
        "olmoe",
    ),
    Released(
        "Gemma 3 270M",
        _of(
            *("gemma3_text", 640, 2048, 18, 4, 1, 262144),
            **_GEMMA_3,
            _sliding_window_pattern=6,
            layer_types=_EVERY_SIXTH,
            use_bidirectional_attention=False,
        ),
        "gemma3",
    ),
    Released(
        "Gemma 3 1B",
        _of(
            *("gemma3_text", 1152, 6912, 26, 4, 1, 262144),
            **_GEMMA_3,
            cache_implementation="hybrid",
            sliding_window_pattern=6,
        ),
        "gemma3",
    ),
    Released(
        "Gemma 3 4B",
        {
            "model_type": "gemma3",
            "mm_tokens_per_image": 256,
            "text_config": {
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "model_type": "gemma3_text",
                "num_hidden_layers": 34,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 1024,
            },
        },
        "",
        "its architecture is 'gemma3', which cannot be written as GGUF so far",
    ),
    Released(
        "the text of Gemma 3 4B",
        _of("gemma3_text", 2560, 10240, 34, 8, 4, 262208)
        | {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
        "",
        "it has rope_parameters = ",
    ),
    Released(
        "SmolLM3 3B",
        _of(
            *("smollm3", 2048, 11008, 36, 16, 4, 128256),
            attention_bias=False,
            attention_dropout=0.0,
            bos_token_id=128000,
            eos_token_id=128001,
            hidden_act="silu",
            initializer_range=0.02,
            layer_types=["full_attention"] * 36,
            max_position_embeddings=65536,
            max_window_layers=28,
            mlp_bias=False,
            no_rope_layer_interval=4,
            no_rope_layers=[1, 1, 1, 0] * 9,
            pad_token_id=128004,
            pretraining_tp=2,
            rms_norm_eps=1e-06,
            rope_scaling=None,
            rope_theta=5000000.0,
            sliding_window=None,
            use_cache=False,
            use_sliding_window=False,
        ),
        "",
        "its architecture is 'smollm3', which cannot be written as GGUF so far",
    ),
)
