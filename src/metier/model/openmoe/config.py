"""What shapes an OpenMoE model, under the names its published config.json files use."""

import difflib
import math
from dataclasses import fields
from typing import Any, ClassVar

from transformers import GenerationConfig, PreTrainedConfig
from transformers.modeling_rope_utils import RopeParameters

ALIASES = {
    "topk": "router_topk",
    "capacity_factor_train": "router_capacity_factor_train",
    "capacity_factor_eval": "router_capacity_factor_eval",
    "min_capacity": "router_min_capacity",
    "noisy_policy": "router_noisy_policy",
    "drop_tks": "router_drop_tks",
    "gated": "mlp_gated",
    "layer_norm_epsilon": "rms_norm_eps",
}
"""Older spellings of keys, as the first ColossalAI configurations have them."""

PRESETS: dict[str, dict[str, Any]] = {
    "base": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "head_dim": 64,
        "num_experts": 16,
        "moe_layer_interval": 4,
    },
    "8b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 24,
        "head_dim": 128,
        "num_experts": 32,
        "moe_layer_interval": 6,
    },
    "34b": {
        "hidden_size": 3072,
        "intermediate_size": 12288,
        "num_hidden_layers": 32,
        "num_attention_heads": 24,
        "head_dim": 128,
        "num_experts": 32,
        "moe_layer_interval": 4,
    },
}
"""The three published shapes, and shapes alone: routing is as by default, not as each run had it.

They have 0.80, 11.86 and 46.27 billion parameters: the FFN has four matrices.
"""

_LARGEST = {
    "vocab_size": 2**24,
    "hidden_size": 2**17,
    "intermediate_size": 2**20,
    "num_hidden_layers": 1024,
    "num_attention_heads": 1024,
    "num_key_value_heads": 1024,
    "head_dim": 4096,
    "num_experts": 4096,
    "moe_layer_interval": 1024,
    "router_topk": 4096,
    "router_min_capacity": 2**20,
    "router_group_size": 2**30,
    "router_group_multiple": 2**20,
    "max_position_embeddings": 2**24,
}
"""Sizes are from 1 to this: larger ones are damage or an attack, and are refused before anything is allocated."""

_RANGES = {
    "router_capacity_factor_train": (1e-3, 1e6),
    "router_capacity_factor_eval": (1e-3, 1e6),
    "router_aux_loss_factor": (0.0, 1e3),
    "router_z_loss_factor": (0.0, 1e3),
    "z_loss_factor": (0.0, 1e3),
    "label_smoothing": (0.0, 0.999),
    "dropout_rate": (0.0, 0.999),
    "initializer_range": (0.0, 1e3),
    "rms_norm_eps": (1e-12, 1.0),
}

_CHOICES: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("swiglu",),
    "mlp_gated": (True,),
    "attention_bias": (False,),
    "tie_word_embeddings": (False,),
    "router_noisy_policy": (None, "Jitter", "Gaussian"),
    "router_mode_train": ("dropless", "pytorch", "jax"),
    "router_mode_eval": ("dropless", "pytorch", "jax"),
}

_WITHOUT_EFFECT = {
    # How ColossalAI ran the model, not what it computes.
    *("enable_kernel", "enable_load_balance", "enable_comm_overlap", "enable_hierarchical_alltoall"),
    *("load_balance_tolerance", "load_balance_beam_width", "load_balance_group_swap_factor", "load_balance_interval"),
    *("expert_parallel", "pretraining_tp", "router_drop_tks", "auto_map", "model_type"),
    # What transformers 4.34 wrote into every config.json.
    *("add_cross_attention", "cross_attention_hidden_size", "finetuning_task", "is_decoder", "pruned_heads"),
    *("tf_legacy_loss", "tie_encoder_decoder", "tokenizer_class", "torchscript", "use_bfloat16", "prefix"),
    *("task_specific_params", "sep_token_id", "decoder_start_token_id", "output_scores"),
}

_LIBRARY_KEYS = {
    *("attn_implementation", "experts_implementation", "name_or_path", "output_attentions", "output_router_logits"),
    *("torch_dtype", "num_labels", "rope_scaling", "rope_theta", "partial_rotary_factor", "tie_last_hidden_states"),
    *GenerationConfig._get_default_generation_params(),
    *("pad_token_id", "bos_token_id", "eos_token_id"),
}


class OpenMoeConfig(PreTrainedConfig):
    """The shape of an OpenMoE model and how it routes.

    Keys are those of the published config.json files; older spellings are taken, too. Keys that say how ColossalAI
    ran the model (kernels, expert parallelism) are accepted and dropped. Every other unknown key and every
    impossible value is refused.

    Keys of our own:

    * ``router_mode_train``, ``router_mode_eval``: ``dropless`` computes every choice; ``pytorch`` and ``jax`` give
      each expert a capacity and drop what exceeds it, by the rules of the released inference code and of the
      training code. ``dropless`` is the only mode in which cached decoding equals the full forward.
    * ``router_group_size``, ``router_group_multiple``: mode ``jax`` counts capacity in groups of at most so many
      tokens; the number of groups is a multiple of the latter (experts times replicas, in the original runs).
    * ``released_inference``: repeat two oddities of the released inference code, to get its numbers where there is
      padding: every query sees key 0, even when that is padding; and a single-token step does not count padding in
      its query's place, but does in its key's. Cached decoding then differs from the full forward.

    Raises:
        ValueError: for an unknown key or an impossible value.
    """

    model_type: ClassVar[str] = "openmoe"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["cache", "routing"]
    default_theta = 10000.0

    vocab_size: int = 256384
    hidden_size: int = 768
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_key_value_heads: int | None = None
    head_dim: int = 64
    num_experts: int = 16
    moe_layer_interval: int = 4
    router_topk: int = 2
    router_mode_train: str = "dropless"
    router_mode_eval: str = "dropless"
    router_capacity_factor_train: float = 1.25
    router_capacity_factor_eval: float = 2.0
    router_min_capacity: int = 4
    router_group_size: int = 4096
    router_group_multiple: int = 1
    router_noisy_policy: str | None = None
    router_aux_loss_factor: float = 0.01
    router_z_loss_factor: float = 1e-4
    z_loss_factor: float = 1e-4
    label_smoothing: float = 0.0
    dropout_rate: float = 0.0
    released_inference: bool = False
    hidden_act: str = "swiglu"
    mlp_gated: bool = True
    attention_bias: bool = False
    max_position_embeddings: int = 2048
    rope_parameters: RopeParameters | dict[str, Any] | None = None
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    use_cache: bool = True
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 0
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1

    def __post_init__(self, **kwargs: Any) -> None:
        """Take aliases, refuse what is unknown or impossible, then let the library do its part."""
        for old in ALIASES.keys() & kwargs.keys():
            setattr(self, ALIASES[old], kwargs.pop(old)) if ALIASES[old] in _fields() else kwargs.pop(old)
        for name in _WITHOUT_EFFECT & kwargs.keys():
            del kwargs[name]
        _refuse_unknown(kwargs)
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.rope_parameters is None and kwargs.get("rope_scaling") is None:
            kwargs.pop("rope_scaling", None)
        _refuse_impossible(self)
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        rope: Any = self.rope_parameters
        if rope.get("rope_type") != "default" or not 0 < rope["rope_theta"] < math.inf:
            raise ValueError(f"rope_parameters = {rope!r}: only plain rotary positions are known")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "OpenMoeConfig":
        """Return a published shape: ``base``, ``8b`` or ``34b``, with changes.

        Raises:
            ValueError: when there is no such preset, or a change is impossible.
        """
        if name not in PRESETS:
            raise ValueError(f"preset {name!r} is not one of {', '.join(PRESETS)}")
        return cls(**(PRESETS[name] | changes))

    def is_moe(self, layer: int) -> bool:
        """Say whether a layer, counted from 0, has experts: every ``moe_layer_interval``-th does."""
        return (layer + 1) % self.moe_layer_interval == 0


def _fields() -> set[str]:
    return {field.name for field in fields(OpenMoeConfig)}


def _refuse_unknown(keys: dict[str, Any]) -> None:
    for key in keys:
        if key.startswith("_") or key in _LIBRARY_KEYS:
            continue
        close = difflib.get_close_matches(key, _fields() | ALIASES.keys(), n=1)
        raise ValueError(f"unknown key {key!r}" + (f"; did you mean {close[0]!r}?" if close else ""))


def _refuse_impossible(config: OpenMoeConfig) -> None:
    def found(key: str) -> str:
        return f"{key} = {getattr(config, key)!r}"

    for key, largest in _LARGEST.items():
        if type(getattr(config, key)) is not int or not 1 <= getattr(config, key) <= largest:
            raise ValueError(f"{found(key)} is not a whole number from 1 to {largest}")
    for key, (low, high) in _RANGES.items():
        if not isinstance(getattr(config, key), int | float) or not low <= getattr(config, key) <= high:  # nor NaN
            raise ValueError(f"{found(key)} is not a number from {low} to {high}")
    for key, choices in _CHOICES.items():
        if getattr(config, key) not in choices:
            raise ValueError(f"{found(key)} is not one of {', '.join(map(repr, choices))}")
    if config.head_dim % 2:
        raise ValueError(f"{found('head_dim')} is odd: rotary positions turn pairs")
    if config.num_attention_heads % (config.num_key_value_heads or 1):
        raise ValueError(f"{found('num_attention_heads')} is no multiple of {found('num_key_value_heads')}")
    if config.router_topk > config.num_experts:
        raise ValueError(f"{found('router_topk')} is more than {found('num_experts')}")
