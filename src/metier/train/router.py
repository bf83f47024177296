"""The routers of mixtures of experts: their parameters, what they said, and the losses that keep them useful."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from transformers import PreTrainedModel

from metier.errors import ArtifactError, SpecError
from metier.model.openmoe.layers import OpenMoeLayer
from metier.spec.training import OF_OPENMOE, Training
from metier.spec.weights import is_router as is_router

_BIASES = ("expert_bias", "e_score_correction_bias")
"""What LFM2-MoE, GLM-4-MoE and DeepSeek-V3 add to their scores before they choose."""

_WITHOUT = "Set losses.load_balance and losses.router_z to 0, or choose Qwen3-MoE, OLMoE, Mixtral or OpenMoE"


def routers(model: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
    """Yield the parameters of a model's routers."""
    return (parameter for name, parameter in model.named_parameters() if is_router(name))


def freeze_routers(model: torch.nn.Module) -> None:
    """Let the routers learn no more: without a gradient no optimiser moves them, nor does weight decay.

    Routing of OpenMoE hardly changes after the warm-up (Xue et al. 2024, sections 4 and 5).
    """
    for parameter in routers(model):
        parameter.requires_grad_(False)
        parameter.grad = None


def check_routing(config: Any, settings: Training) -> None:
    """Refuse what a training asks of OpenMoE alone where the model of a configuration is none.

    Raises:
        SpecError: when it is.
    """
    asked = [key for key in OF_OPENMOE if getattr(settings, key) is not None]
    if asked and config.model_type != "openmoe":
        found = f"models of type {config.model_type!r} have no such setting"
        raise SpecError(settings.key(asked[0]), found, "Remove the key, it is for OpenMoE")


def gives_room_by_tokens(config: Any, settings: Training) -> bool:
    """Whether experts have room by what is computed at once, as a training asks or as its model has it already."""
    left_open = settings.capacity_factor is None and config.model_type == "openmoe"
    return settings.limits_room or (left_open and config.router_mode_train != "dropless")


def route_as_asked(model: PreTrainedModel, settings: Training) -> PreTrainedModel:
    """Return the model, set to drop and to draw while it learns as a training asks; what is left open stays as it is.

    Room is counted by the rule of OpenMoE's training code (`metier.model.openmoe.routing.jax_capacity`), in groups of
    the tokens that are computed at once, padding included.

    Raises:
        SpecError: when something is asked of a model that is no OpenMoE.
    """
    config: Any = model.config
    check_routing(config, settings)
    if settings.limits_room:
        config.router_mode_train, config.router_capacity_factor_train = "jax", settings.capacity_factor
    elif settings.capacity_factor is not None:
        config.router_mode_train = "dropless"
    if settings.router_noise is not None:
        config.router_noisy_policy = None if settings.router_noise == "none" else settings.router_noise.capitalize()
    if settings.dropout is not None:
        config.dropout_rate = settings.dropout
        for layer in model.modules():
            if isinstance(layer, OpenMoeLayer):
                layer.dropout.p = settings.dropout
    return model


def experts_a_token(config: Any) -> int | None:
    """Return how many experts a token is sent to, or None for a dense model."""
    if not (getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)):
        return None
    chosen = getattr(config, "num_experts_per_tok", None) or getattr(config, "router_topk", None)
    return int(chosen) if chosen else None


def is_mixture(model: PreTrainedModel) -> bool:
    """Whether the model is a mixture of experts."""
    return experts_a_token(model.config) is not None


def scores(outputs: Any, model: PreTrainedModel) -> Sequence[torch.Tensor]:
    """Return each layer's router scores, (N, E) for N tokens, from what the decoder returned.

    Raises:
        ArtifactError: when the model does not tell them, or chooses by something else.
    """
    named = chain(model.named_buffers(), model.named_parameters())
    if biased := next((name for name, _ in named if name.endswith(_BIASES)), None):
        raise ArtifactError(
            f"a mixture of experts of type {model.config.model_type!r}",
            f"its routers choose by more than their scores ({biased}), so its routing losses would be those of choices "
            "that it does not make",
            _WITHOUT,
        )
    if getattr(outputs, "router_logits", None):  # transformers' mixtures
        return tuple(outputs.router_logits)
    if getattr(outputs, "routing", None):  # OpenMoE
        return tuple(routing.logits_NE for routing in outputs.routing)
    raise ArtifactError(
        f"a mixture of experts of type {model.config.model_type!r}",
        "the model does not return its routers' scores, so its routing losses cannot be taken",
        _WITHOUT,
    )


def drops(outputs: Any, real_N: torch.Tensor, tokens: int) -> dict[str, torch.Tensor]:
    """Return what the experts of an OpenMoE had no room for, mean over its layers; nothing where all have room.

    Args:
        outputs: what the decoder returned.
        real_N: which of its tokens are no padding.
        tokens: real tokens of the whole batch; of a part of it, the part's share is returned.

    Returns:
        ``dropped``, the share of the tokens' choices that were dropped, and ``left_behind``, the share of the tokens
        none of whose choices was kept.
    """
    limited = [one.kept_NK[real_N] for one in getattr(outputs, "routing", None) or () if one.capacity is not None]
    if not limited:
        return {}
    kept_LNK = torch.stack(limited).float()
    of_layer = tokens * len(limited)
    return {
        "dropped": (1 - kept_LNK).sum() / (of_layer * kept_LNK.shape[-1]),
        "left_behind": (1 - kept_LNK.amax(dim=-1)).sum() / of_layer,
    }


def choices(layers: Sequence[torch.Tensor], top_k: int) -> torch.Tensor:
    """Return how many tokens choose each expert among their ``top_k``, before any is dropped, in each layer: (L, E).

    Args:
        layers: scores of each layer's router for N real tokens and E experts.
        top_k: experts that a token chooses.
    """
    chosen = [logits_NE.topk(top_k, dim=-1).indices.flatten() for logits_NE in layers]
    return torch.stack([torch.bincount(one, minlength=layers[0].shape[-1]) for one in chosen])


def load_balance(logits_NE: torch.Tensor, chosen_E: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return E * sum over the experts of f * P: ``top_k`` when all are used alike, more when they are not.

    f is the share of the tokens that choose an expert, P its mean probability; f is not differentiated. Shazeer et al.
    2017, Fedus et al. 2022 (arXiv 2101.03961, section 2.2), in OpenMoE's form, where a token's choices are not divided
    by their number. Both are taken over the whole batch; of a part of it, the part's share of the loss is returned.

    Args:
        logits_NE: a router's scores for N real tokens and E experts.
        chosen_E: how many tokens of the whole batch choose each expert.
        tokens: real tokens of the whole batch.
    """
    probability_E = logits_NE.float().softmax(dim=-1).sum(dim=0) / tokens
    return logits_NE.shape[-1] * (chosen_E / tokens * probability_E).sum()


def router_z(logits_NE: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return the mean square of the log of the softmax's denominator (Zoph et al. 2022, arXiv 2202.08906, eq. 5)."""
    return logits_NE.float().logsumexp(dim=-1).square().sum() / tokens


def router_losses(
    layers: Sequence[torch.Tensor], chosen_LE: torch.Tensor, tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return load balance and router z, each the mean over the layers.

    Args:
        layers: scores of each layer's router for the real tokens of a batch, or of a part of it.
        chosen_LE: how many tokens of the whole batch choose each expert, for each layer.
        tokens: real tokens of the whole batch.
    """
    balances = [
        load_balance(logits_NE, chosen_E, tokens) for logits_NE, chosen_E in zip(layers, chosen_LE, strict=True)
    ]
    return torch.stack(balances).mean(), torch.stack([router_z(logits_NE, tokens) for logits_NE in layers]).mean()
