"""Which experts a token goes to, and what is dropped when an expert is full.

N = tokens of one call (batch times time, row by row), E = experts, K = choices a token, H = model width,
G = groups, T = tokens of a group, A = assignments (kept choices).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from metier.errors import SpecError
from metier.model.experts import for_each_choice, grouped_product
from metier.model.openmoe.config import OpenMoeConfig


class Routing(NamedTuple):
    """What one MoE layer decided in one call."""

    logits_NE: Tensor
    """The router's scores, float32, before the softmax."""
    expert_NK: Tensor
    """The chosen experts, the most probable first."""
    weight_NK: Tensor
    """Their probabilities, never renormalised, dropped choices included; float32."""
    kept_NK: Tensor
    """False where a choice was dropped because its expert was full."""
    capacity: int | None
    """How many choices an expert takes in a group; None: all of them."""
    groups: int
    """How many groups, one after another, the tokens were cut into for counting capacity."""


def route(logits_NE: Tensor, config: OpenMoeConfig, *, training: bool) -> Routing:
    """Choose experts by probability and drop by capacity, as the configuration's mode says.

    The weights are the softmax probabilities of the chosen experts as they are (OpenMoE's released code; the paper
    does not say). Of equal probabilities the lower expert index wins.

    Args:
        logits_NE: float32 scores of the router.
        config: the mode, number of choices, capacity factor and groups.
        training: which mode and capacity factor hold, and whether noise is added.
    """
    if training:
        logits_NE = _with_noise(logits_NE, config.router_noisy_policy)
    weight_NK, expert_NK = _most_probable(logits_NE.softmax(dim=-1), config.router_topk)
    mode = config.router_mode_train if training else config.router_mode_eval
    factor = config.router_capacity_factor_train if training else config.router_capacity_factor_eval
    tokens, experts = logits_NE.shape
    if mode == "dropless":
        return Routing(logits_NE, expert_NK, weight_NK, torch.ones_like(expert_NK, dtype=torch.bool), None, 1)
    if mode == "jax":
        groups = jax_groups(tokens, config.router_group_size, config.router_group_multiple)
        capacity = jax_capacity(tokens // groups, experts, factor, config.router_min_capacity)
    else:
        groups = 1
        capacity = pytorch_capacity(tokens, experts, config.router_topk, factor, config.router_min_capacity)
    kept_NK = rank_of(expert_NK, experts, groups) < capacity
    return Routing(logits_NE, expert_NK, weight_NK, kept_NK, capacity, groups)


def pytorch_capacity(tokens: int, experts: int, choices: int, factor: float, least: int) -> int:
    """Return how many choices an expert takes in the released PyTorch code: ``K * factor * N / E``, made even."""
    capacity = math.floor(choices * factor * tokens / experts)
    return max(capacity + capacity % 2, least)


def jax_capacity(tokens: int, experts: int, factor: float, least: int) -> int:
    """Return how many choices an expert takes in a group of the JAX code: ``factor * T / E`` for all K choices."""
    return max(round(factor * tokens / experts), least)


def jax_groups(tokens: int, largest: int, multiple: int) -> int:
    """Return the smallest number of groups that divides the tokens, each of at most ``largest`` tokens.

    The rule of flaxformer's ``_num_groups``: the number is also a multiple of ``multiple``.

    Raises:
        SpecError: when no number of groups fits.
    """
    first = max(tokens // largest, multiple)
    for groups in range(first, tokens + 1):
        if tokens % groups == 0 and groups % multiple == 0 and tokens // groups <= largest:
            return groups
    raise SpecError(
        "router_group_multiple",
        f"{tokens} tokens cannot be cut into equal groups whose number is a multiple of {multiple}",
        "Pad the batch, or set router_group_multiple to 1",
    )


def rank_of(expert_NK: Tensor, experts: int, groups: int = 1) -> Tensor:
    """Return each choice's place in the queue of its expert, from 0, within its group.

    All first choices come before all second ones, whether or not they are kept; within each, earlier tokens come
    first. A choice is kept when its place is below the capacity.
    """
    tokens, choices = expert_NK.shape
    queue_GKT = expert_NK.view(groups, tokens // groups, choices).transpose(1, 2)
    group_G11 = torch.arange(groups, device=expert_NK.device)[:, None, None]
    key = (queue_GKT + experts * group_G11).reshape(-1)
    order = key.argsort(stable=True)
    count = torch.bincount(key, minlength=groups * experts)
    place = torch.arange(len(key), device=key.device) - (count.cumsum(0) - count)[key[order]]
    rank_GKT = torch.empty_like(key).scatter_(0, order, place).view(queue_GKT.shape)
    return rank_GKT.transpose(1, 2).reshape(tokens, choices)


def experts(
    x_NH: Tensor,
    expert_NK: Tensor,
    weight_NK: Tensor,
    kept_NK: Tensor,
    wi_gate_EHJ: Tensor,
    wi_up_EHF: Tensor,
    wo_EFH: Tensor,
) -> Tensor:
    """Apply to every token the experts it was given: one matrix product an expert, on tokens sorted by expert.

    Args:
        x_NH: the tokens.
        expert_NK: their experts.
        weight_NK: what each expert's answer is multiplied by.
        kept_NK: choices that are False cost nothing and add nothing.
        wi_gate_EHJ: the gates, J = 2F wide.
        wi_up_EHF: the third factor.
        wo_EFH: back to the model's width.

    Returns:
        The weighted sums, ``[N, H]``: zero where no choice was kept.
    """

    def answers(x_AH: Tensor, counts_E: Tensor) -> Tensor:
        gate_AJ, up_AF = (grouped_product(x_AH, weight.mT, counts_E) for weight in (wi_gate_EHJ, wi_up_EHF))
        return grouped_product(gated_ffn(gate_AJ, up_AF), wo_EFH.mT, counts_E)

    return mixed(x_NH, expert_NK, weight_NK, kept_NK, len(wo_EFH), answers)


def mixed(
    x_NH: Tensor,
    expert_NK: Tensor,
    weight_NK: Tensor,
    kept_NK: Tensor,
    count_of_experts: int,
    answers: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Return every token's weighted sum of its experts' answers; see `experts`.

    ``answers(x_AH, counts_E)`` is called once, with the tokens of the first expert first and how many each was given.
    """
    choices = expert_NK.shape[1]
    key = expert_NK.masked_fill(~kept_NK, count_of_experts).view(-1)  # dropped ones are sorted to the end
    counts_E = torch.bincount(key, minlength=count_of_experts + 1)[:count_of_experts]
    order_A = key.argsort(stable=True)[: int(counts_E.sum())]
    token_A = order_A // choices
    y_AH = answers(for_each_choice(x_NH, choices, order_A), counts_E)
    y_AH = y_AH * weight_NK.reshape(-1)[order_A, None].to(y_AH.dtype)
    return torch.zeros_like(x_NH).index_add(0, token_A, y_AH.to(x_NH.dtype))


def gated_ffn(gate: Tensor, up: Tensor) -> Tensor:
    """Return OpenMoE's three-way product: the gate's first half, its second half through SiLU, and ``up``."""
    linear, gated = gate.chunk(2, dim=-1)
    return linear * functional.silu(gated) * up


def _most_probable(prob_NE: Tensor, choices: int) -> tuple[Tensor, Tensor]:
    """Return the highest probabilities and their indices; unlike topk, argmax promises the first of equal ones."""
    left_NE, chosen = prob_NE.detach(), []
    for _ in range(choices):
        chosen.append(left_NE.argmax(dim=-1, keepdim=True))
        left_NE = left_NE.scatter(-1, chosen[-1], -math.inf)
    expert_NK = torch.cat(chosen, dim=-1)
    return prob_NE.gather(-1, expert_NK), expert_NK


def _with_noise(logits_NE: Tensor, policy: str | None) -> Tensor:
    """Add what ColossalAI's options add; the published models used none."""
    if policy == "Jitter":
        return logits_NE * torch.empty_like(logits_NE).uniform_(0.99, 1.01)
    if policy == "Gaussian":
        return logits_NE + torch.randn_like(logits_NE) / logits_NE.shape[-1]
    return logits_NE
