"""Sorted experts compute what a mixture's own loop computes, gradients included, whoever is chosen."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from metier.model.experts import grouped_product
from metier.model.scratch import scratch


def module(experts, implementation, width=16):
    torch.manual_seed(1)
    config = Qwen3MoeConfig(hidden_size=width, moe_intermediate_size=24, num_experts=experts)
    config._experts_implementation = implementation
    made = Qwen3MoeExperts(config).double()
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return made


def results(experts, implementation, chosen_NK):
    made = module(experts, implementation)
    torch.manual_seed(2)
    x_NH = torch.randn(len(chosen_NK), 16, dtype=torch.float64, requires_grad=True)
    weight_NK = torch.rand(chosen_NK.shape, dtype=torch.float64, requires_grad=True)
    y_NH = made(x_NH, chosen_NK, weight_NK)
    return [y_NH, *torch.autograd.grad(y_NH.sin().sum(), [x_NH, weight_NK, *made.parameters()])]


@settings(max_examples=40)
@given(data=st.data(), experts=st.integers(2, 9), tokens=st.integers(1, 20), choices=st.integers(1, 2))
def test_answers_and_gradients_are_those_of_the_loop_over_experts(data, experts, tokens, choices):
    row = st.lists(st.integers(0, experts - 1), min_size=choices, max_size=choices, unique=True)
    chosen_NK = torch.tensor(data.draw(st.lists(row, min_size=tokens, max_size=tokens)))
    for mine, theirs in zip(results(experts, "sorted", chosen_NK), results(experts, "eager", chosen_NK), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_an_expert_that_nobody_chose_learns_nothing():
    chosen_NK = torch.tensor([[0, 2], [2, 0]])
    *_, gate_up_grad, down_grad = results(4, "sorted", chosen_NK)
    for grad_E in (gate_up_grad, down_grad):
        assert not grad_E[[1, 3]].any() and grad_E[0].any() and grad_E[2].any()


def test_gradients_are_the_same_bits_every_time_however_many_experts_a_token_has():
    torch.manual_seed(0)
    made, tokens, choices = module(8, "sorted", width=64).float(), 600, 6  # enough for several threads
    x_NH = torch.randn(tokens, 64, requires_grad=True)
    chosen_NK = torch.rand(tokens, 8).topk(choices).indices
    weight_NK = torch.rand(tokens, choices)
    threads = torch.get_num_threads()
    torch.set_num_threads(max(threads, 4))
    try:
        grads = [torch.autograd.grad(made(x_NH, chosen_NK, weight_NK).sin().sum(), x_NH)[0] for _ in range(30)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(grads[0], one) for one in grads[1:])


def test_gradients_agree_with_finite_differences():
    torch.manual_seed(0)
    counts_E = torch.tensor([2, 0, 3])
    x_AI = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    weight_EOI = torch.randn(3, 6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: grouped_product(x, w, counts_E), (x_AI, weight_EOI))


def test_mixed_precision_multiplies_in_bfloat16_and_learns_in_float32():
    chosen_NK = torch.tensor([[0, 2], [1, 0], [2, 1]])
    made, x_NH = module(3, "sorted").float(), torch.randn(3, 16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y_NH = made(x_NH, chosen_NK, torch.full((3, 2), 0.5))
    y_NH.float().sum().backward()
    exact_NH = made(x_NH, chosen_NK, torch.full((3, 2), 0.5))
    assert y_NH.dtype == torch.bfloat16 and made.down_proj.grad.dtype == torch.float32
    torch.testing.assert_close(y_NH.float(), exact_NH, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("tokens", [1, 7])
def test_a_whole_model_answers_the_same(tokens):
    model = scratch(60, 32, 2, 64, seed=3, architecture="moe").eval()
    ids = torch.arange(4, 4 + tokens)[None]
    with torch.no_grad():
        model.set_experts_implementation("eager")
        wanted = model(ids).logits
        model.set_experts_implementation("sorted")
        torch.testing.assert_close(model(ids).logits, wanted, rtol=1e-5, atol=1e-5)
