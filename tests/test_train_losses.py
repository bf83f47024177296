"""The losses beside the one on the targets: against reference values, float64 and transformers."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from metier.errors import ArtifactError
from metier.model.scratch import scratch
from metier.spec.training import Losses
from metier.train.batches import Example, collate
from metier.train.objective import PLAIN, batch_loss, mean_loss, smoothed
from metier.train.router import (
    choices,
    freeze_routers,
    is_mixture,
    is_router,
    load_balance,
    router_losses,
    router_z,
    routers,
    scores,
)

REFERENCE = np.load(Path(__file__).parent / "fixtures" / "router_losses.npz")
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
EXAMPLES = [Example([2, 9, 8], [7, 1]), Example([2, 9, 8, 5, 6, 7], [7, 4, 3, 1])]


def qwen():
    torch.manual_seed(0)
    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SIZES, num_experts=4, moe_intermediate_size=24, head_dim=16, norm_topk_prob=True)
    ).float()


def olmoe():
    torch.manual_seed(0)
    return OlmoeForCausalLM(OlmoeConfig(**SIZES, num_experts=4, intermediate_size=24)).float()


def mixtral():
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=4, intermediate_size=24)).float()


def openmoe():
    return scratch(64, 32, 4, 64, seed=1, architecture="openmoe", experts=4, moe_layer_interval=2)


def balance_of(logits_NE):
    """The balance loss of scores that are a whole batch, two experts a token."""
    return load_balance(logits_NE, choices([logits_NE], 2)[0], len(logits_NE))


MIXTURES = pytest.mark.parametrize("make", [qwen, olmoe, mixtral, openmoe])


@pytest.mark.parametrize("case", range(3))
def test_router_losses_are_those_of_the_code_that_trained_openmoe(case):
    groups = torch.from_numpy(REFERENCE[f"{case}.logits"])
    balance = torch.stack([balance_of(logits_NE) for logits_NE in groups]).mean()
    z = torch.stack([router_z(logits_NE, len(logits_NE)) for logits_NE in groups]).mean()
    assert balance.item() == pytest.approx(float(REFERENCE[f"{case}.aux_loss"]), rel=1e-5)
    assert z.item() == pytest.approx(float(REFERENCE[f"{case}.z_loss"]), rel=1e-5)


def test_perfect_balance_costs_the_number_of_chosen_experts():
    logits_NE = 1e-4 * torch.stack([torch.eye(4)[i] + torch.eye(4)[(i + 1) % 4] for i in range(4)])
    assert balance_of(logits_NE).item() == pytest.approx(2.0, rel=1e-4)
    assert balance_of(logits_NE[:1].repeat(4, 1) * 1e6).item() == pytest.approx(4.0, rel=1e-4)


def test_load_balance_pulls_probability_from_where_the_choices_are():
    logits_NE = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) + 2 * torch.eye(8)[0]
    logits_NE.requires_grad_()
    balance_of(logits_NE).backward()
    assert logits_NE.grad[:, 0].sum() > 0 and logits_NE.grad[:, 1:].sum() < 0


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(2, 6), st.integers(0, 10**6))
def test_the_shares_of_parts_add_up_to_the_router_losses_in_float64(layers, experts, seed):
    draw = torch.Generator().manual_seed(seed)
    scores = [3 * torch.randn(12, experts, generator=draw) for _ in range(layers)]
    cut = int(torch.randint(13, (), generator=draw))
    balances, zs = [], []
    for logits_NE in scores:
        rows = logits_NE.double().tolist()
        chosen, probability, squares = [0] * experts, [0.0] * experts, []
        for row in rows:
            total = math.fsum(math.exp(value) for value in row)
            squares.append(math.log(total) ** 2)
            for expert in sorted(range(experts), key=lambda e: -row[e])[:2]:
                chosen[expert] += 1
            probability = [p + math.exp(v) / total for p, v in zip(probability, row, strict=True)]
        products = (f / len(rows) * p / len(rows) for f, p in zip(chosen, probability, strict=True))
        balances.append(experts * math.fsum(products))
        zs.append(math.fsum(squares) / len(rows))
    parts = [[logits_NE[:cut] for logits_NE in scores], [logits_NE[cut:] for logits_NE in scores]]
    chosen_LE = choices(parts[0], 2) + choices(parts[1], 2)
    balance, z = (sum(shares) for shares in zip(*(router_losses(p, chosen_LE, 12) for p in parts), strict=True))
    assert balance.item() == pytest.approx(sum(balances) / layers, rel=1e-5)
    assert z.item() == pytest.approx(sum(zs) / layers, rel=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 40), st.floats(0, 0.9), st.integers(0, 10**6))
def test_smoothed_targets_are_those_of_float64(pieces, share, seed):
    draw = torch.Generator().manual_seed(seed)
    logits_AV = 4 * torch.randn(5, pieces, generator=draw)
    targets_A = torch.randint(pieces, (5,), generator=draw)
    losses = []
    for row, target in zip(logits_AV.double().tolist(), targets_A.tolist(), strict=True):
        log_total = math.log(math.fsum(math.exp(value) for value in row))
        wanted = [1 - share if piece == target else share / (pieces - 1) for piece in range(pieces)]
        losses.append(-math.fsum(w * (value - log_total) for w, value in zip(wanted, row, strict=True)))
    assert smoothed(logits_AV, targets_A, share, 5).item() == pytest.approx(math.fsum(losses) / 5, rel=1e-5)


def test_a_dense_model_is_charged_for_its_targets_alone_unless_asked():
    model, batch = scratch(64, 32, 2, 64, seed=1), collate(EXAMPLES, 0)
    plain = batch_loss(model, batch)
    default = batch_loss(model, batch, Losses())
    assert plain.total == plain.nats == default.total and default.parts == {}
    asked = batch_loss(model, batch, Losses(output_z=0.5, label_smoothing=0.1))
    with torch.no_grad():
        logits_NTV = model(input_ids=batch.ids_NT, attention_mask=batch.mask_NT).logits
    wanted_NT = batch.targets_NT != -100
    z = logits_NTV[wanted_NT].logsumexp(-1).square().mean()
    cross = smoothed(logits_NTV[wanted_NT], batch.targets_NT[wanted_NT], 0.1, int(wanted_NT.sum()))
    assert asked.nats == plain.nats
    assert asked.total.item() == pytest.approx((cross + 0.5 * z).item(), rel=1e-5)


@MIXTURES
def test_a_mixture_is_charged_for_its_routing_by_default(make):
    model, batch = make(), collate(EXAMPLES, 0)
    loss = batch_loss(model, batch, Losses())
    assert set(loss.parts) == {"output_z", "load_balance", "router_z"} and is_mixture(model)
    p = loss.parts
    total = loss.nats + 1e-4 * p["output_z"] + 0.01 * p["load_balance"] + 1e-4 * p["router_z"]
    assert loss.total.item() == pytest.approx(total.item(), rel=1e-6)
    outputs = model.get_decoder()(input_ids=batch.ids_NT, attention_mask=batch.mask_NT, output_router_logits=True)
    # transformers takes all layers for one; its own loss is ours where there is one layer
    theirs = [load_balancing_loss_func((one,), 4, 2, batch.mask_NT).item() for one in scores(outputs, model)]
    assert p["load_balance"].item() == pytest.approx(sum(theirs) / len(theirs), rel=1e-5)
    loss.total.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in routers(model))


def test_scores_are_found_where_a_model_puts_them():
    logits_NE = torch.zeros(3, 4)
    openmoe = SimpleNamespace(routing=(SimpleNamespace(logits_NE=logits_NE),))
    model = torch.nn.Module()
    model.config = SimpleNamespace(model_type="other")
    assert scores(openmoe, model)[0] is logits_NE
    assert scores(SimpleNamespace(router_logits=(logits_NE,)), model)[0] is logits_NE
    with pytest.raises(ArtifactError, match=r"'other'.*Set losses\.load_balance and losses\.router_z to 0"):
        scores(SimpleNamespace(), model)
    model.register_buffer("expert_bias", torch.zeros(4))
    with pytest.raises(ArtifactError, match=r"choose by more than their scores \(expert_bias\)"):
        scores(SimpleNamespace(router_logits=(logits_NE,)), model)


@MIXTURES
def test_what_fills_the_padding_changes_no_loss_of_a_mixture(make):
    model = make()
    one, other = (batch_loss(model, collate(EXAMPLES, pad), Losses()) for pad in (0, 5))
    assert one.total.item() == pytest.approx(other.total.item(), rel=1e-6)


@MIXTURES
def test_the_validation_loss_is_the_same_whatever_else_is_minimised(make):
    model, batch = make(), collate(EXAMPLES, 0)
    assert mean_loss(model, [batch]) == pytest.approx(batch_loss(model, batch, PLAIN).nats.item(), rel=1e-6)
    assert batch_loss(model, batch, Losses(label_smoothing=0.2)).nats == batch_loss(model, batch, PLAIN).nats


@MIXTURES
def test_routers_are_found_by_their_names(make):
    model = make()
    found = [name for name, _ in model.named_parameters() if is_router(name)]
    assert len(found) == 2 and all(name.endswith(("mlp.gate.weight", "mlp.gate_weight")) for name in found)
    freeze_routers(model)
    batch_loss(model, collate(EXAMPLES, 0), Losses()).total.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == is_router(name), name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.3.mlp.gate_weight", True),
        ("model.layers.3.block_sparse_moe.gate.weight", True),
        ("model.layers.3.block_sparse_moe.router.layer.weight", True),
        ("model.layers.0.mlp.router.weight", True),
        ("model.layers.0.mlp.gate_proj.weight", False),
        ("model.layers.0.mlp.shared_expert_gate.weight", False),
        ("model.layers.0.mlp.experts.gate_up_proj", False),
        ("model.layers.0.mlp.extra_mlp.gate_proj.weight", False),
    ],
)
def test_other_gates_are_not_routers(name, expected):
    assert is_router(name) is expected


def test_a_dense_model_has_no_routers():
    assert not list(routers(scratch(64, 32, 2, 64, seed=1)))
