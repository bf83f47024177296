"""OpenMoE's losses, against their definitions in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.model.openmoe import Routing
from metier.model.openmoe.losses import causal_lm_loss, load_balance_loss, router_losses, token_losses


def by_definition(logits_NV, targets_N, smoothing, z_loss):
    """T5X's loss, written out with a matrix of soft targets, in float64."""
    logits = np.asarray(logits_NV, dtype=np.float64)
    log_z = np.log(np.exp(logits).sum(-1, keepdims=True))
    others = logits.shape[1] - 1
    soft = np.full_like(logits, smoothing / others)
    soft[np.arange(len(logits)), targets_N] = 1 - smoothing
    entropy = -(soft * np.log(np.where(soft > 0, soft, 1.0))).sum(-1)
    return -(soft * (logits - log_z)).sum(-1) - entropy + z_loss * log_z[:, 0] ** 2


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    classes=st.integers(2, 400),
    smoothing=st.sampled_from([0.0, 0.001, 0.1, 0.5, 0.9]),
    z_loss=st.sampled_from([0.0, 1e-4, 1e-2]),
)
def test_smoothed_loss_is_its_definition(seed, classes, smoothing, z_loss):
    random = torch.Generator().manual_seed(seed)
    logits_NV = 4 * torch.randn(7, classes, generator=random)
    targets_N = torch.randint(classes, (7,), generator=random)
    found = token_losses(logits_NV, targets_N, smoothing, z_loss)
    wanted = by_definition(logits_NV, targets_N, smoothing, z_loss)
    assert np.allclose(found.numpy(), wanted, rtol=1e-5, atol=2e-5)


def test_a_large_vocabulary_does_not_blow_the_loss_up():
    torch.manual_seed(0)
    logits_NV, targets_N = torch.randn(8, 256384), torch.randint(256384, (8,))
    assert token_losses(logits_NV, targets_N, 0.001).sum() == pytest.approx(
        by_definition(logits_NV, targets_N, 0.001, 0.0).sum(), rel=1e-5
    )
    assert token_losses(logits_NV, targets_N, 0.001).sum() < 150


def test_the_best_smoothed_loss_is_zero():
    logits_NV = torch.full((1, 5), float(np.log(0.1 / 4)))
    logits_NV[0, 2] = float(np.log(0.9))
    assert token_losses(logits_NV, torch.tensor([2]), 0.1).item() == pytest.approx(0, abs=1e-6)


def test_padding_and_ignored_labels_are_no_targets():
    torch.manual_seed(0)
    logits_BTV, labels_BT = torch.randn(2, 6, 20), torch.randint(2, 20, (2, 6))
    labels_BT[0, 4:], labels_BT[1, :3] = 0, -100
    wanted = [(b, t) for b in range(2) for t in range(5) if labels_BT[b, t + 1] not in (0, -100)]
    losses = [torch.nn.functional.cross_entropy(logits_BTV[b, t], labels_BT[b, t + 1]) for b, t in wanted]
    assert len(wanted) == 6
    assert causal_lm_loss(logits_BTV, labels_BT, pad=0).item() == pytest.approx(float(sum(losses) / 6), rel=1e-6)
    assert causal_lm_loss(logits_BTV, labels_BT, pad=0, count=2) == pytest.approx(float(sum(losses) / 2), rel=1e-6)
    assert causal_lm_loss(logits_BTV, torch.zeros_like(labels_BT), pad=0) == 0


def test_perfect_balance_is_two_for_two_choices():
    expert_NK = torch.tensor([[0, 1], [2, 3], [1, 0], [3, 2]])
    routing = Routing(torch.zeros(4, 4), expert_NK, torch.full((4, 2), 0.25), torch.ones(4, 2).bool(), None, 1)
    assert load_balance_loss(routing).item() == pytest.approx(2)
    skewed_NE = torch.tensor([[3.0, 3.0, 0.0, 0.0]] * 4)
    favoured = Routing(
        skewed_NE, torch.tensor([[0, 1]] * 4), torch.full((4, 2), 0.25), torch.ones(4, 2).bool(), None, 1
    )
    others = favoured._replace(expert_NK=torch.tensor([[2, 3]] * 4))
    share = float(skewed_NE.softmax(-1)[0, 0])
    assert load_balance_loss(favoured).item() == pytest.approx(4 * 2 * share)
    assert load_balance_loss(others).item() == pytest.approx(4 * 2 * (0.5 - share))
    with pytest.raises(ValueError, match="no router losses"):
        router_losses([])
