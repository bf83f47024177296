"""The names and orientations of the original T5X checkpoints, and arrays turned into ours.

T5X keeps all kernels as (inputs, outputs). PyTorch's linear layers are (outputs, inputs), so these are transposed;
stacked experts keep T5X's orientation.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from metier.errors import ArtifactError
from metier.model.openmoe.config import OpenMoeConfig
from metier.model.openmoe.modeling import OpenMoeForCausalLM


class Row(NamedTuple):
    """One line of the mapping; ``{i}`` is the layer."""

    t5x: str
    """Path below ``target/``."""
    torch: str
    op: Literal["copy", "transpose"]


_LAYER, _OURS = "decoder/layers_{i}", "model.layers.{i}"


def _ffn(t5x: str, ours: str) -> tuple[Row, ...]:
    pairs = (("wi_0", "gate_proj"), ("wi_1", "up_proj"), ("wo", "down_proj"))
    return tuple(
        Row(f"{_LAYER}/{t5x}/{kernel}/kernel", f"{_OURS}.{ours}.{name}.weight", "transpose") for kernel, name in pairs
    )


WHOLE_MODEL = (
    Row("token_embedder/embedding", "model.embed_tokens.weight", "copy"),
    Row("decoder/decoder_norm/scale", "model.norm.weight", "copy"),
    Row("decoder/logits_dense/kernel", "lm_head.weight", "transpose"),
)
EVERY_LAYER = (
    Row(f"{_LAYER}/pre_self_attention_layer_norm/scale", f"{_OURS}.input_layernorm.weight", "copy"),
    Row(f"{_LAYER}/self_attention/query/kernel", f"{_OURS}.self_attn.q_proj.weight", "transpose"),
    Row(f"{_LAYER}/self_attention/key/kernel", f"{_OURS}.self_attn.k_proj.weight", "transpose"),
    Row(f"{_LAYER}/self_attention/value/kernel", f"{_OURS}.self_attn.v_proj.weight", "transpose"),
    Row(f"{_LAYER}/self_attention/out/kernel", f"{_OURS}.self_attn.o_proj.weight", "transpose"),
    Row(f"{_LAYER}/pre_mlp_layer_norm/scale", f"{_OURS}.post_attention_layernorm.weight", "copy"),
)
DENSE_LAYER = _ffn("mlp", "mlp")
MOE_LAYER = (
    Row(f"{_LAYER}/mlp/router/router_weights/w/kernel", f"{_OURS}.mlp.gate_weight", "transpose"),
    Row(f"{_LAYER}/mlp/expert/wi_0/kernel", f"{_OURS}.mlp.experts.wi_gate", "copy"),
    Row(f"{_LAYER}/mlp/expert/wi_1/kernel", f"{_OURS}.mlp.experts.wi_up", "copy"),
    Row(f"{_LAYER}/mlp/expert/wo/kernel", f"{_OURS}.mlp.experts.wo", "copy"),
    Row(f"{_LAYER}/pre_extra_mlp_layer_norm/scale", f"{_OURS}.pre_extra_mlp_layernorm.weight", "copy"),
    *_ffn("extra_mlp", "extra_mlp"),
)


def mapping(config: OpenMoeConfig) -> list[Row]:
    """Return the mapping of a whole model, layer by layer."""
    rows = list(WHOLE_MODEL)
    for layer in range(config.num_hidden_layers):
        of_layer = (*EVERY_LAYER, *(MOE_LAYER if config.is_moe(layer) else DENSE_LAYER))
        rows += [Row(row.t5x.format(i=layer), row.torch.format(i=layer), row.op) for row in of_layer]
    return rows


def from_t5x(arrays: Mapping[str, NDArray[Any]], config: OpenMoeConfig) -> dict[str, NDArray[Any]]:
    """Return a T5X checkpoint's arrays under PyTorch's names, as views.

    Args:
        arrays: by path, with or without ``target/`` in front; optimiser state (``state/``) is left out.
        config: the model's shape.

    Raises:
        ArtifactError: when an array is missing, foreign or of a wrong shape.
    """
    given = {path.removeprefix("target/"): array for path, array in arrays.items() if not path.startswith("state/")}
    with torch.device("meta"):
        shapes = {name: tuple(weight.shape) for name, weight in OpenMoeForCausalLM(config).state_dict().items()}
    found: dict[str, NDArray[Any]] = {}
    for row in mapping(config):
        if row.t5x not in given:
            raise ArtifactError("T5X checkpoint", f"array target/{row.t5x} is missing", "Read the whole checkpoint")
        array = given.pop(row.t5x)
        array = np.swapaxes(array, 0, 1) if row.op == "transpose" and array.ndim == 2 else array
        if array.shape != shapes[row.torch]:
            raise ArtifactError(
                "T5X checkpoint",
                f"array target/{row.t5x} makes {row.torch} of shape {array.shape}, not {shapes[row.torch]}",
                "Choose the configuration the checkpoint was trained with",
            )
        found[row.torch] = array
    if given:
        raise ArtifactError(
            "T5X checkpoint", f"array target/{min(given)} belongs to no OpenMoE", "Choose another configuration"
        )
    return found
