"""What a model is made of, as names and shapes of its weights: parameters, file and memory, before there is a model.

Names are those of GGUF or of transformers. H = width of the model, F = of a feed-forward layer, E = experts.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import prod

import gguf

from metier.spec.compress import Cut
from metier.spec.quantisation import Quantisation
from metier.spec.shape import Shape

EMBEDDING, EXPERTS = "embedding", "experts"

_PARTS = {
    "norms": re.compile("norm"),
    # GGUF: ffn_gate_inp; Qwen3-MoE, OLMoE, Mixtral: ...mlp.gate.weight; OpenMoE: ...mlp.gate_weight; others: router...
    # Not a dense layer's gate_proj, nor Qwen2-MoE's shared_expert_gate.
    "routers": re.compile(r"ffn_gate_inp|(^|\.)(gate\.weight|gate_weight|router[^.]*(\..+)?)$"),
    EXPERTS: re.compile("_exps|experts"),
    EMBEDDING: re.compile(r"token_embd|embed_tokens|^output\.|lm_head"),
    "attention": re.compile("attn|attention"),
    "feed-forward": re.compile("ffn|mlp"),
}
"""Parts of a model, and how the names of their weights are told; the first that is found counts."""

_LAYER = re.compile(r"\.(\d+)\.")
"""The first number of a name, such as ``blk.3.attn_q.weight``."""
_EXPERT = re.compile(r"experts\.(\d+)\.")
_KEYS_OR_VALUES = re.compile(r"attn_[kv]\.weight|[kv]_proj\.weight")
_READ_ROW_BY_ROW = re.compile("token_embd|embed_tokens")

CACHE_BYTES = 2
"""llama.cpp keeps keys and values in F16."""

_PIECE_BYTES = 22
"""Of a piece in a file: its length (8 bytes), score (4) and kind (4), and a text of six bytes or so."""
_METADATA_BYTES = 1800
"""The other key-values: settings, chat template, licence, task."""
_TENSOR_BYTES = 60
"""A tensor's name, shape, type and place."""
_ALIGNMENT = 32


@dataclass(frozen=True)
class Weights:
    """The weights of a model by name, as shapes with the width of a row last."""

    shapes: Mapping[str, tuple[int, ...]]
    experts_per_token: int = 0
    """0 where there are no experts."""

    @property
    def pieces(self) -> int:
        """Size of the vocabulary: rows of the embedding."""
        return max(shape[0] for name, shape in self.shapes.items() if part_of(name) == EMBEDDING)

    @cached_property
    def experts(self) -> int:
        """Experts in a layer: rows of a router."""
        return max((shape[0] for name, shape in self.shapes.items() if part_of(name) == "routers"), default=0)

    @cached_property
    def layers(self) -> int:
        """Number of layers."""
        return 1 + max(map(_layer_of, self.shapes))

    @cached_property
    def tied(self) -> bool:
        """Whether the output matrix is the embedding."""
        return sum(part_of(name) == EMBEDDING for name in self.shapes) == 1

    def parts(self) -> dict[str, int]:
        """Return the parameters of each part, those with most first."""
        counts: Counter[str] = Counter()
        for name, shape in self.shapes.items():
            counts[part_of(name)] += prod(shape)
        return dict(counts.most_common())

    @property
    def parameters(self) -> int:
        """All weights."""
        return sum(map(prod, self.shapes.values()))

    @property
    def active_parameters(self) -> int:
        """Weights a token passes through: of the experts the share it is sent to, of an untied embedding the output."""
        active = sum(prod(shape) * self._share_of_a_token(name) for name, shape in self.shapes.items())
        return round(active)

    @property
    def cache_bytes_per_token(self) -> int:
        """What llama.cpp remembers of each token of a context: a key and a value in every layer."""
        return CACHE_BYTES * sum(shape[0] for name, shape in self.shapes.items() if _KEYS_OR_VALUES.search(name))

    def products_per_token(self) -> list[int]:
        """Numbers that go into and come out of each layer's matrices for one token: what a gradient needs again."""
        found: Counter[int] = Counter()
        for name, shape in self.shapes.items():
            if len(shape) > 1 and part_of(name) != EMBEDDING:
                numbers = (shape[-1] + shape[-2]) * prod(shape[:-2]) * self._share_of_a_token(name)
                found[_layer_of(name)] += round(numbers)
        return list(found.values())

    def multiplied(self) -> tuple[int, list[int]]:
        """Return the weights in matrices that tokens are multiplied with, of the output and of each layer.

        Routers and stacks of experts are left out: they compute in float32 whatever the others do.
        """
        layers: Counter[int] = Counter()
        output = 0
        for name, shape in self.shapes.items():
            if part_of(name) == EMBEDDING:
                output += round(prod(shape) * self._share_of_a_token(name))
            elif len(shape) > 1 and part_of(name) not in ("routers", EXPERTS):
                layers[_layer_of(name)] += prod(shape)
        return output, list(layers.values())

    def file_mib(self, quantisation: str) -> float:
        """Return the size of the GGUF file in MiB.

        Matrices take the quantisation where their rows divide into its blocks, else F16; norms and routers F32: as
        `metier.export.gguf.write_gguf` writes them.
        """
        size = _METADATA_BYTES + _PIECE_BYTES * self.pieces
        for name, shape in self.shapes.items():
            values, block_bytes = gguf.GGML_QUANT_SIZES[kind_of(name, shape, quantisation)]
            size += _TENSOR_BYTES + -(-prod(shape) * block_bytes // values // _ALIGNMENT) * _ALIGNMENT
        return size / 2**20

    def with_pieces(self, pieces: int) -> "Weights":
        """Return the same model with a vocabulary of another size."""
        embedding = {n: (pieces, *shape[1:]) for n, shape in self.shapes.items() if part_of(n) == EMBEDDING}
        return replace(self, shapes={**self.shapes, **embedding})

    def cut(self, cut: Cut) -> "Weights":
        """Return what a cut leaves of the model, one that it has the parts for; which layers go makes no difference."""
        layers = self.layers - cut.layers
        kept = {n: shape for n, shape in self.shapes.items() if _layer_of(n) < layers}
        experts = cut.kept_experts(self.experts, self.experts_per_token)
        shapes = {}
        for name, shape in kept.items():
            part, expert = part_of(name), _EXPERT.search(name)
            if expert and int(expert[1]) >= experts:
                continue
            if part == "routers" or (part == EXPERTS and not expert):
                shape = (experts, *shape[1:])
            elif part == "feed-forward" and len(shape) == 2 and "down" in name:
                shape = (shape[0], cut.kept_channels(shape[1]))
            elif part == "feed-forward" and len(shape) == 2:
                shape = (cut.kept_channels(shape[0]), shape[1])
            shapes[name] = shape
        return replace(self, shapes=shapes)

    def _share_of_a_token(self, name: str) -> float:
        part = part_of(name)
        if part == EXPERTS:
            return self.experts_per_token / self.experts if self.experts else 1.0
        return 0.0 if part == EMBEDDING and not self.tied and _READ_ROW_BY_ROW.search(name) else 1.0


def is_router(name: str) -> bool:
    """Whether a weight of this name belongs to a router."""
    return _PARTS["routers"].search(name) is not None


@cache
def part_of(name: str) -> str:
    """Return the part of a model that a weight belongs to, by its name."""
    return next((part for part, pattern in _PARTS.items() if pattern.search(name)), "other")


def _layer_of(name: str) -> int:
    """Return the number of a weight's layer; -1 for what is in none."""
    found = _LAYER.search(name)
    return int(found[1]) if found else -1


def kind_of(name: str, shape: tuple[int, ...], quantisation: str) -> gguf.GGMLQuantizationType:
    """Return the type that a weight of this name and shape has in a file of a quantisation."""
    if len(shape) < 2 or part_of(name) == "routers":
        return gguf.GGMLQuantizationType.F32
    types = Quantisation.of(quantisation)
    wanted = gguf.GGMLQuantizationType[types.embedding if part_of(name) == EMBEDDING else types.body]
    return wanted if shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0] == 0 else gguf.GGMLQuantizationType.F16


def of_shape(shape: Shape, pieces: int) -> Weights:
    """Return the weights of a model from scratch, as `metier.model.scratch.scratch` makes them."""
    width = shape.hidden_size
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (pieces, width), "output_norm": (width,)}
    if shape.architecture == "openmoe":
        shapes["output"] = (pieces, width)
    for layer in range(shape.layers):
        own = {**_attention(shape), **_feed_forward(shape, layer)}
        shapes |= {f"blk.{layer}.{name}": size for name, size in own.items()}
    return Weights({f"{name}.weight": size for name, size in shapes.items()}, shape.experts_per_token)


def _attention(shape: Shape) -> dict[str, tuple[int, ...]]:
    width, all_heads = shape.hidden_size, shape.heads * shape.head_dim
    shared = shape.key_value_heads * shape.head_dim
    norms = {} if shape.architecture == "openmoe" else dict.fromkeys(("attn_q_norm", "attn_k_norm"), (shape.head_dim,))
    return {
        "attn_norm": (width,),
        "attn_q": (all_heads, width),
        "attn_k": (shared, width),
        "attn_v": (shared, width),
        "attn_output": (width, all_heads),
        **norms,
    }


def _feed_forward(shape: Shape, layer: int) -> dict[str, tuple[int, ...]]:
    width, inner = shape.hidden_size, shape.feed_forward_size
    gates = 2 if shape.architecture == "openmoe" else 1  # its gate is a product of two by itself
    dense: dict[str, tuple[int, ...]] = {
        "ffn_norm": (width,),
        "ffn_gate": (gates * inner, width),
        "ffn_up": (inner, width),
        "ffn_down": (width, inner),
    }
    if not shape.experts or (layer + 1) % shape.moe_layer_interval:
        return dense
    count, size = shape.experts, shape.expert_size
    experts: dict[str, tuple[int, ...]] = {
        "ffn_gate_inp": (count, width),
        "ffn_gate_exps": (count, gates * size, width),
        "ffn_up_exps": (count, size, width),
        "ffn_down_exps": (count, width, size),
    }
    if shape.architecture == "openmoe":  # experts stand beside the dense layer, each behind a norm of its own
        return {**dense, **experts, "ffn_norm_exps": (width,)}
    return {"ffn_norm": (width,), **experts}
