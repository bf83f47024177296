"""What OpenMoE is trained on: cross-entropy with output z-loss, load balance, router z-loss.

N = tokens, E = experts, K = choices a token, G = groups, T = tokens of a group, V = vocabulary.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from metier.model.openmoe.routing import Routing


def load_balance_loss(routing: Routing) -> Tensor:
    """Return ``E * sum_e f_e P_e``, averaged over groups: 2 for two perfectly balanced choices.

    f_e is the share of tokens that chose e, before dropping and without gradient; P_e is its mean probability
    (Fedus et al. 2021, Switch Transformers, section 2.2, with f counting every choice, as in ST-MoE's code).
    """
    prob_NE = routing.logits_NE.softmax(dim=-1)
    chosen_NE = torch.zeros_like(prob_NE).scatter(-1, routing.expert_NK, 1.0)
    tokens, experts = prob_NE.shape
    shape = (routing.groups, tokens // routing.groups, experts)
    share_GE, prob_GE = chosen_NE.view(shape).mean(dim=1), prob_NE.view(shape).mean(dim=1)
    return experts * (share_GE * prob_GE).sum(dim=-1).mean()


def router_z_loss(routing: Routing) -> Tensor:
    """Return the mean squared log-sum-exp of the router's scores (Zoph et al. 2022, ST-MoE, equation 5)."""
    return routing.logits_NE.logsumexp(dim=-1).square().mean()


def router_losses(routings: Sequence[Routing]) -> tuple[Tensor, Tensor]:
    """Return load balance and router z-loss, each the mean over the MoE layers, without coefficients.

    Raises:
        ValueError: when there is no MoE layer.
    """
    if not routings:
        raise ValueError("a model without MoE layers has no router losses")
    balance = torch.stack([load_balance_loss(routing) for routing in routings]).mean()
    return balance, torch.stack([router_z_loss(routing) for routing in routings]).mean()


def token_losses(logits_NV: Tensor, targets_N: Tensor, label_smoothing: float = 0.0, z_loss: float = 0.0) -> Tensor:
    """Return each target's loss in nats: smoothed cross-entropy plus ``z_loss`` times the squared log-sum-exp.

    Smoothing is T5X's: the target keeps 1 - s, every other class gets s / (V - 1), and the entropy of that
    distribution is taken off, so that the best possible loss is 0 (t5x ``compute_weighted_cross_entropy``).
    """
    logits_NV = logits_NV.float()
    log_z_N = logits_NV.logsumexp(dim=-1)
    target_N = logits_NV.gather(-1, targets_N[:, None])[:, 0]
    loss_N = log_z_N - target_N
    if label_smoothing > 0:
        others = logits_NV.shape[-1] - 1
        low, high = label_smoothing / others, 1 - label_smoothing
        # Sum over the other classes of (log Z - logit): the logits' sum needs no matrix of soft targets.
        rest_N = others * log_z_N - (logits_NV.sum(dim=-1) - target_N)
        entropy = -(high * math.log(high) + label_smoothing * math.log(low))
        loss_N = high * loss_N + low * rest_N - entropy
    return loss_N + z_loss * log_z_N.square() if z_loss else loss_N


def causal_lm_loss(
    logits_BTV: Tensor,
    labels_BT: Tensor,
    *,
    pad: int | None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    count: Tensor | int | None = None,
) -> Tensor:
    """Return the loss of predicting each label from the position before it.

    Args:
        logits_BTV: the model's scores.
        labels_BT: the tokens themselves; -100 and ``pad`` are no targets.
        pad: the padding id, which is also what starts a text.
        label_smoothing: see `token_losses`.
        z_loss: coefficient of the output z-loss.
        count: what the sum is divided by, instead of the number of targets.
    """
    targets_BT = functional.pad(labels_BT[:, 1:], (0, 1), value=-100)
    wanted_BT = (targets_BT != -100) & (targets_BT != (-100 if pad is None else pad))
    loss_N = token_losses(logits_BTV[wanted_BT], targets_BT[wanted_BT], label_smoothing, z_loss)
    return loss_N.sum() / (max(len(loss_N), 1) if count is None else count)
