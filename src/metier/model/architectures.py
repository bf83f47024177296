"""Which architectures metier writes as GGUF and reads from it: one entry of a table each.

An entry says how a file's metadata and a transformers configuration call the same settings. What an architecture of
llama.cpp takes for granted is nowhere in its file: a configuration that asks for anything else is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import gguf
from transformers import AutoConfig, PreTrainedConfig

from metier.errors import ArtifactError
from metier.model.rotation import is_scaled

SLIDING_PATTERN = 6
"""Every sixth layer of Gemma 3 attends to everything (Gemma 3 technical report, section 2)."""

_COMMON = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_GROUPED = {"attention.head_count_kv": "num_key_value_heads"}
_HEAD_DIM = {"attention.key_length": "head_dim", "attention.value_length": "head_dim"}
_EXPERTS = {"expert_count": "num_experts", "expert_used_count": "num_experts_per_tok"}

_FREE = {
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "initializer_range",
    "max_window_layers",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "router_aux_loss_coef",
    "use_cache",
}
"""Settings that change nothing about what a trained model computes, or that the vocabulary of the file states."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One architecture, as transformers and llama.cpp know it."""

    model_type: str
    """What transformers calls it."""
    tensors: gguf.MODEL_ARCH
    """Which tensors llama.cpp wants in a file."""
    further: Mapping[str, str] = field(default_factory=dict)
    """Settings beside those that all have: metadata key without prefix, to attribute of the configuration."""
    granted: Mapping[str, Any] = field(default_factory=dict)
    """Attributes whose value llama.cpp takes for granted, where it is not the default of transformers."""
    norm_offset: float = 0.0
    """What llama.cpp has added to the weight of a norm."""
    interleaved: bool = False
    """Whether llama.cpp rotates neighbours, where transformers rotates the halves of a head."""
    needs_output: bool = False
    """Whether a file has to hold the output matrix even when it is the embedding."""

    @property
    def name(self) -> str:
        """What a GGUF file calls the architecture."""
        return str(gguf.MODEL_ARCH_NAMES[self.tensors])

    def config(
        self, found: Mapping[str, Any], pieces: int, tied: bool, rope: Mapping[str, Any] | None = None
    ) -> PreTrainedConfig:
        """Return the configuration that a file's metadata describes.

        Args:
            found: metadata by key, without the architecture's prefix; what it leaves out is what llama.cpp assumes.
            pieces: size of the vocabulary.
            tied: whether the output matrix is the embedding.
            rope: settings of a scaled rotation, where a file has one.

        Raises:
            KeyError: for a key that is missing, as its argument.
            ValueError: for a setting that no configuration can have.
        """
        found = _assumed(found) | dict(found)
        widths = {key: found[key] for key in ("attention.key_length", "attention.value_length", "rope.dimension_count")}
        if len(set(widths.values())) != 1:
            raise ValueError(f"a head has more than one width: {widths}")
        values = {attribute: found[key] for key, attribute in (_COMMON | dict(self.further)).items()}
        rotation = {"rope_parameters": dict(rope)} if rope else self._rotation(values, float(found["rope.freq_base"]))
        ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))  # a class may have its own defaults
        values |= {"vocab_size": pieces, "tie_word_embeddings": tied}
        config: PreTrainedConfig = AutoConfig.for_model(self.model_type, **values, **rotation, **ids, **self.granted)
        return config

    def settings(self, config: PreTrainedConfig, where: str) -> dict[str, int | float]:
        """Return the metadata that describes a configuration, without the architecture's prefix.

        Args:
            config: of the model to be written.
            where: whose configuration it is, for the error.

        Raises:
            ArtifactError: when a file cannot say, or llama.cpp cannot do, what the configuration asks for.
        """
        settings: dict[str, int | float] = {
            key: _value(config, attribute) for key, attribute in (_COMMON | dict(self.further)).items()
        }
        rope: Any = config.rope_parameters
        settings["rope.freq_base"] = float(rope.get("full_attention", rope)["rope_theta"])
        scaled = rope if is_scaled(config) else None
        again = self.config(settings, config.vocab_size, config.tie_word_embeddings, scaled)
        for attribute in {*type(config).__annotations__, "head_dim"} - _FREE:  # Qwen 2's class obeys one that it lacks
            wanted, read = _value(config, attribute), _value(again, attribute)
            if wanted != read:
                raise ArtifactError(
                    where,
                    f"it has {attribute} = {wanted!r:.200}, where llama.cpp's {self.name!r} has {read!r:.200}",
                    "Choose another base: this one would compute something else in llama.cpp",
                )
        return settings

    def _rotation(self, values: Mapping[str, Any], theta: float) -> dict[str, Any]:
        if self.model_type != "gemma3_text":
            return {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}
        return gemma_attention(int(values["num_hidden_layers"]), int(values["head_dim"]), theta)


def _assumed(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what llama.cpp takes a file to say that says nothing (`load_hparams` in its ``llama-model.cpp``)."""
    heads = found["attention.head_count"]
    width = found.get("attention.key_length", found["embedding_length"] // max(heads, 1))
    return {
        "attention.head_count_kv": heads,
        "attention.key_length": width,
        "attention.value_length": width,
        "rope.dimension_count": width,
        "rope.freq_base": 10_000.0,
    }


def _value(config: PreTrainedConfig, attribute: str) -> Any:
    if attribute == "head_dim":  # not every class sets it when it is left out
        return getattr(config, attribute, None) or config.hidden_size // config.num_attention_heads
    return getattr(config, attribute)


def gemma_attention(layers: int, head_dim: int, full_theta: float) -> dict[str, Any]:
    """Return how Gemma 3 attends: which layers to a window and which to everything, scale, and rotary bases."""
    thetas = {"full_attention": full_theta, "sliding_attention": 1e4}
    return {
        "layer_types": gemma_layer_types(layers),
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()},
        "query_pre_attn_scalar": head_dim,
    }


def gemma_layer_types(layers: int) -> list[str]:
    """Return which of Gemma 3's layers attend to a window and which to everything: it goes by their place."""
    kinds = ["sliding_attention", "full_attention"]
    return [kinds[(i + 1) % SLIDING_PATTERN == 0] for i in range(layers)]


_TABLE = (
    Architecture(
        model_type="gemma3_text",
        tensors=gguf.MODEL_ARCH.GEMMA3,
        further=_GROUPED | _HEAD_DIM | {"attention.sliding_window": "sliding_window"},
        norm_offset=1.0,  # Gemma's norms multiply by one plus the weight
    ),
    Architecture(model_type="qwen3", tensors=gguf.MODEL_ARCH.QWEN3, further=_GROUPED | _HEAD_DIM),
    Architecture(
        model_type="qwen3_moe",
        tensors=gguf.MODEL_ARCH.QWEN3MOE,
        further=_GROUPED | _HEAD_DIM | _EXPERTS | {"expert_feed_forward_length": "moe_intermediate_size"},
        granted={"norm_topk_prob": True},
    ),
    Architecture(model_type="olmoe", tensors=gguf.MODEL_ARCH.OLMOE, further=_EXPERTS, needs_output=True),
    Architecture(model_type="qwen2", tensors=gguf.MODEL_ARCH.QWEN2, further=_GROUPED),
    Architecture(model_type="llama", tensors=gguf.MODEL_ARCH.LLAMA, further=_GROUPED | _HEAD_DIM, interleaved=True),
    Architecture(
        model_type="mistral",
        tensors=gguf.MODEL_ARCH.LLAMA,
        further=_GROUPED | _HEAD_DIM,
        granted={"sliding_window": None},
        interleaved=True,
    ),
    Architecture(
        model_type="mixtral",
        tensors=gguf.MODEL_ARCH.LLAMA,
        further=_GROUPED | _HEAD_DIM | _EXPERTS,
        granted={"sliding_window": None},
        interleaved=True,
    ),
)

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType({one.model_type: one for one in _TABLE})
"""By transformers' ``model_type``."""


def architecture_of(config: PreTrainedConfig, where: str) -> Architecture:
    """Return the architecture of a configuration that can be written as GGUF.

    Raises:
        ArtifactError: when it cannot.
    """
    found = ARCHITECTURES.get(config.model_type)
    if found is None:
        raise ArtifactError(
            where,
            f"its architecture is {config.model_type!r}, which cannot be written as GGUF so far",
            f"Choose a base of one of these architectures: {', '.join(ARCHITECTURES)}; "
            'or, for a checkpoint alone, write export.quantisations = [] and vocabulary.pieces = "all"',
        )
    found.settings(config, where)
    return found


def architecture_of_file(metadata: Mapping[str, Any], where: str) -> Architecture:
    """Return the architecture that a GGUF file's metadata names.

    Raises:
        ArtifactError: when it is none of the table's.
    """
    name = metadata.get("general.architecture")
    mixture = bool(metadata.get(f"{name}.expert_count"))
    for one in ARCHITECTURES.values():
        if one.name == name and ("expert_count" in one.further) == mixture:
            return one
    known = ", ".join(dict.fromkeys(repr(one.name) for one in ARCHITECTURES.values()))
    raise ArtifactError(where, f"its architecture is {name!r}", f"Choose a base of one of these architectures: {known}")
