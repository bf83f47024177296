"""Tiny mixtures of experts whose routing is known, because it was put there by hand."""

from functools import cache
from pathlib import Path

import torch
from doubles import counted_animals
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DeepseekV3Config,
    MixtralConfig,
    OlmoeConfig,
    PreTrainedConfig,
    Qwen3MoeConfig,
)

from metier.export.huggingface import write_folder
from metier.tokenizer.learn import learn

EXPERTS, CHOSEN = 8, 2
_SHAPE = {
    "vocab_size": 320,
    "hidden_size": 16,
    "intermediate_size": 16,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_experts_per_tok": CHOSEN,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}


def text(rows: int = 400) -> str:
    """Return sentences of animals counted, one a line."""
    return "\n".join(f"{asked} {answer}." for asked, answer in counted_animals(rows))


@cache
def tokenizer(size: int = 320):
    """Return a tokenizer learned from the sentences."""
    return learn([text()], size).tokenizer()


def config(kind: str) -> PreTrainedConfig:
    """Return the configuration of a tiny mixture of an architecture."""
    return {
        "qwen3_moe": lambda: Qwen3MoeConfig(**_SHAPE, head_dim=8, num_experts=EXPERTS, mlp_only_layers=[0]),
        "mixtral": lambda: MixtralConfig(**_SHAPE, num_local_experts=EXPERTS),
        "olmoe": lambda: OlmoeConfig(**_SHAPE, num_experts=EXPERTS),
        "deepseek_v3": lambda: DeepseekV3Config(
            **_SHAPE,
            n_routed_experts=EXPERTS,
            n_group=2,
            topk_group=2,
            first_k_dense_replace=1,
            q_lora_rank=8,
            kv_lora_rank=8,
            qk_nope_head_dim=8,
            qk_rope_head_dim=8,
            v_head_dim=8,
        ),
    }[kind]()


def mixture(kind: str, seed: int = 0):
    """Return a mixture with random weights."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config(kind)).eval()


def planted(kind: str):
    """Return a mixture whose routers choose by token id alone: id i goes to experts 2p and 2p+1, p = i mod 4.

    Attention and experts answer 0, so that every layer sees the embedding, whose first 4 values say p.
    """
    model = mixture(kind)
    with torch.no_grad():
        embedding = model.get_input_embeddings().weight
        embedding.zero_()
        for id_ in range(len(embedding)):
            embedding[id_, id_ % (EXPERTS // CHOSEN)] = 1.0
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj", "down_proj.weight", "w2.weight")):
                weight.zero_()
            if name.endswith("gate.weight"):
                weight.zero_()
                for expert in range(EXPERTS):
                    weight[expert, expert // CHOSEN] = 1.0 - 0.25 * (expert % CHOSEN)
    return model


def saved(folder: Path, model, size: int = 320) -> Path:
    """Write a mixture and its tokenizer into a folder."""
    write_folder(folder, model, tokenizer(size))
    return folder


def dense(folder: Path) -> Path:
    """Write a tiny model without experts into a folder."""
    torch.manual_seed(0)
    shape = {key: value for key, value in _SHAPE.items() if not key.startswith(("moe_", "num_experts"))}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **shape))
    write_folder(folder, model, tokenizer())
    return folder
