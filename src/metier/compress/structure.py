"""Smaller models made of a model: fewer layers, narrower feed-forward layers, fewer experts.

A new model has a valid configuration and, unless asked otherwise, its own memory; the given one is left as it is. All
architectures of `metier.model.architectures` call these parts the same.

E experts, F width of a feed-forward layer, H width of the model.
"""

import copy
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from metier.errors import SpecError
from metier.model.architectures import gemma_layer_types
from metier.spec.compress import Compress
from metier.spec.quantisation import BLOCK

_IN_LAYER = re.compile(r"(?P<before>model\.layers\.)(?P<layer>\d+)(?P<part>\..+)")


def check_cuts(config: PreTrainedConfig, asked: Compress) -> None:
    """Refuse cuts that a model of this configuration has no parts for.

    Raises:
        SpecError: when it has too few layers, no experts, or no dense feed-forward layers, or a share leaves all of
            them.
    """
    experts = int(getattr(config, "num_experts", None) or 0)
    asked.check(int(config.num_hidden_layers), mixture=bool(experts))
    channels = 0 if experts else int(config.intermediate_size)
    for cut in asked.cuts:
        if channels and cut.feed_forward < 1 and cut.kept_channels(channels) == channels:
            raise _all_kept("feed_forward", cut.feed_forward, f"{channels} channels, in blocks of {BLOCK}")
        used = int(config.num_experts_per_tok) if experts else 0
        if experts and cut.experts < 1 and cut.kept_experts(experts, used) == experts:
            raise _all_kept("experts", cut.experts, f"{experts} experts, of which a token uses {used}")


def _all_kept(key: str, share: float, of: str) -> SpecError:
    return SpecError(f"compress.{key}", f"{share:g} keeps all of {of}", "Write a smaller share, or remove it")


def without_layers(model: PreTrainedModel, dropped: Collection[int], *, shared: bool = False) -> PreTrainedModel:
    """Return the model without some of its layers.

    Gemma 3's kinds of attention go by the place of a layer: one that moves up may become of the other kind.

    Args:
        model: any of the architectures.
        dropped: numbers of layers from 0.
        shared: whether the weights are those of the given model, and no copies: for one that is only looked at.
    """
    config = copy.deepcopy(model.config)
    kept = [layer for layer in range(config.num_hidden_layers) if layer not in dropped]
    types = getattr(config, "layer_types", None)
    config.num_hidden_layers = len(kept)
    if types is not None:
        gemma = config.model_type == "gemma3_text"
        config.layer_types = gemma_layer_types(len(kept)) if gemma else [types[layer] for layer in kept]
    weights = {}
    for name, weight in model.state_dict().items():
        place = _IN_LAYER.fullmatch(name)
        if place is None:
            weights[name] = weight
        elif (layer := int(place["layer"])) in kept:
            weights[f"{place['before']}{kept.index(layer)}{place['part']}"] = weight
    return _made(model, config, weights, shared)


def narrowed(model: PreTrainedModel, channels: Sequence[torch.Tensor]) -> PreTrainedModel:
    """Return a dense model with some of its feed-forward channels.

    Args:
        model: one whose layers have a gated feed-forward layer.
        channels: for each layer the numbers of the channels that are kept, as many in every layer.
    """
    config = copy.deepcopy(model.config)
    config.intermediate_size = len(channels[0])
    return _made(
        model, config, _chosen(model, channels, {"mlp.gate_proj": 0, "mlp.up_proj": 0, "mlp.down_proj.weight": 1})
    )


def with_experts(model: PreTrainedModel, experts: Sequence[torch.Tensor]) -> PreTrainedModel:
    """Return a mixture with some of its experts.

    Args:
        model: a mixture of experts.
        experts: for each layer the numbers of the experts that are kept, as many in every layer.
    """
    config = copy.deepcopy(model.config)
    config.num_experts = len(experts[0])
    return _made(model, config, _chosen(model, experts, {"mlp.gate.": 0, "mlp.experts.": 0}))


def _chosen(
    model: PreTrainedModel, numbers: Sequence[torch.Tensor], dims: Mapping[str, int]
) -> dict[str, torch.Tensor]:
    """Return the weights with some places of a dimension only, in every layer's parts of these names."""
    weights = dict(model.state_dict())
    for name, weight in weights.items():
        place = _IN_LAYER.fullmatch(name)
        for part, dim in dims.items() if place else ():
            if place and place["part"].startswith(f".{part}"):
                weights[name] = weight.index_select(dim, numbers[int(place["layer"])].to(weight.device))
    return weights


def _made(
    model: PreTrainedModel, config: PreTrainedConfig, weights: Mapping[str, torch.Tensor], shared: bool = False
) -> PreTrainedModel:
    build: Any = type(model)
    with no_init_weights():
        smaller: PreTrainedModel = build(config)
    smaller.load_state_dict(weights, assign=shared)
    smaller.tie_weights()
    move: Any = smaller.eval().to
    placed: PreTrainedModel = move(model.device, model.dtype)
    return placed
