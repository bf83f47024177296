"""The parts of an OpenMoE layer; tensors are named as in the published PyTorch checkpoints.

B = batch, T = time, N = B * T, H = model width, F = width of a feed-forward layer, E = experts, D = head width.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRMSNorm, eager_attention_forward, rotate_half

from metier.model.openmoe.config import OpenMoeConfig
from metier.model.openmoe.routing import Routing, experts, gated_ffn, route


class Rotation(NamedTuple):
    """Cosines and sines ``[B, T, D]`` of the queries' places and of the keys'."""

    query: tuple[Tensor, Tensor]
    key: tuple[Tensor, Tensor]


class Projection(nn.Linear):
    """A linear map of attention, whose weights begin normal with variance 0.1 / fan-in, divided by ``divisor**2``."""

    def __init__(self, inputs: int, outputs: int, divisor: float = 1.0) -> None:
        self.std = math.sqrt(0.1 / inputs) / divisor
        super().__init__(inputs, outputs, bias=False)


class OpenMoeAttention(nn.Module):
    """Multi-head attention whose scores are not divided by sqrt(D): the query's initialisation holds that factor."""

    def __init__(self, config: OpenMoeConfig, layer: int) -> None:
        super().__init__()
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads or config.num_attention_heads
        self.config, self.layer, self.head_dim, self.is_causal = config, layer, config.head_dim, True
        self.num_key_value_groups = heads // kv_heads
        self.q_proj = Projection(config.hidden_size, heads * config.head_dim, math.sqrt(config.head_dim))
        self.k_proj = Projection(config.hidden_size, kv_heads * config.head_dim)
        self.v_proj = Projection(config.hidden_size, kv_heads * config.head_dim)
        self.o_proj = Projection(heads * config.head_dim, config.hidden_size)

    def forward(
        self, x_BTH: Tensor, rotation: Rotation, mask: Tensor | None, cache: Cache | None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Return the layer's answer and, from the eager implementation, the attention weights."""
        shape = (*x_BTH.shape[:-1], -1, self.head_dim)
        query, key, value = (
            projection(x_BTH).view(shape).transpose(1, 2) for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = _rotated(query, rotation.query), _rotated(key, rotation.key)
        if cache is not None:
            key, value = cache.update(key, value, self.layer)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        y, weights = attend(self, query, key, value, mask, dropout=0.0, scaling=1.0, **kwargs)
        y_BTH: Tensor = self.o_proj(y.reshape(*x_BTH.shape[:-1], -1))
        return y_BTH, weights


def _rotated(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = (part[:, None] for part in rotation)
    turned: Tensor = x * cos + rotate_half(x) * sin
    return turned


class OpenMoeFfn(nn.Module):
    """A dense feed-forward layer: ``down(a * silu(b) * up(x))`` with ``[a, b] = gate(x)``."""

    def __init__(self, config: OpenMoeConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's answer, shaped as the input."""
        y: Tensor = self.down_proj(gated_ffn(self.gate_proj(x), self.up_proj(x)))
        return y


class OpenMoeExperts(nn.Module):
    """All experts of a layer, stacked, in JAX's orientation (inputs, outputs)."""

    def __init__(self, config: OpenMoeConfig) -> None:
        super().__init__()
        count, width, inner = config.num_experts, config.hidden_size, config.intermediate_size
        self.wi_gate = nn.Parameter(torch.empty(count, width, 2 * inner))
        self.wi_up = nn.Parameter(torch.empty(count, width, inner))
        self.wo = nn.Parameter(torch.empty(count, inner, width))

    def forward(self, x_NH: Tensor, routing: Routing) -> Tensor:
        """Return the weighted sum of the kept experts' answers."""
        chosen = (routing.expert_NK, routing.weight_NK, routing.kept_NK)
        return experts(x_NH, *chosen, self.wi_gate, self.wi_up, self.wo)


class OpenMoeSparseFfn(nn.Module):
    """A router and its experts."""

    def __init__(self, config: OpenMoeConfig) -> None:
        super().__init__()
        self.config = config
        self.gate_weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        self.experts = OpenMoeExperts(config)

    def forward(self, x_BTH: Tensor) -> tuple[Tensor, Routing]:
        """Return the layer's answer and what its router decided."""
        x_NH = x_BTH.reshape(-1, x_BTH.shape[-1])
        with torch.autocast(x_NH.device.type, enabled=False):  # in bfloat16, ties would route by chance
            logits_NE = x_NH.float() @ self.gate_weight.float().T
            routing = route(logits_NE, self.config, training=self.training)
        return self.experts(x_NH, routing).view(x_BTH.shape), routing


class OpenMoeLayer(GradientCheckpointingLayer):
    """Attention, then a dense feed-forward layer, or a sparse one followed by a dense one with a norm of its own."""

    def __init__(self, config: OpenMoeConfig, layer: int) -> None:
        super().__init__()
        self.is_moe = config.is_moe(layer)
        self.self_attn = OpenMoeAttention(config, layer)
        self.mlp: nn.Module = OpenMoeSparseFfn(config) if self.is_moe else OpenMoeFfn(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        if self.is_moe:
            self.pre_extra_mlp_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
            self.extra_mlp = OpenMoeFfn(config)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(
        self, h_BTH: Tensor, rotation: Rotation, mask: Tensor | None, cache: Cache | None, **kwargs: Any
    ) -> tuple[Tensor, Routing | None]:
        """Return the new hidden states and what the router decided, if there is one."""
        routing = None
        y_BTH, _ = self.self_attn(self.input_layernorm(h_BTH), rotation, mask, cache, **kwargs)
        h_BTH = h_BTH + self.dropout(y_BTH)
        x_BTH = self.post_attention_layernorm(h_BTH)
        if not self.is_moe:
            return h_BTH + self.dropout(self.mlp(x_BTH)), None
        y_BTH, routing = self.mlp(x_BTH)
        h_BTH = h_BTH + self.dropout(y_BTH)
        return h_BTH + self.dropout(self.extra_mlp(self.pre_extra_mlp_layernorm(h_BTH))), routing
