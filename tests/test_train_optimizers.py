"""Adafactor against transformers' where they overlap, and where they do not."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.optimization import Adafactor as TheirAdafactor

from metier.train.optimizers import Adafactor, adafactor
from metier.train.schedule import learning_rate


def gradients(shape, steps, seed):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draw) * 10.0 ** (step % 5 - 2) for step in range(steps)]


def moved(make, start, grads, rate):
    parameter = torch.nn.Parameter(start.clone())
    optimizer = make([parameter], rate)
    for gradient in grads:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


def theirs(parameters, rate):
    return TheirAdafactor(parameters, lr=rate, scale_parameter=True, relative_step=False)


def ours(parameters, rate):
    return Adafactor(parameters, lr=rate)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([(7,), (5, 3), (1, 4), (6, 1)]), st.integers(1, 6), st.floats(1e-4, 1e-1), st.integers(0, 999))
def test_vectors_and_matrices_move_as_transformers_adafactor_moves_them(shape, steps, rate, seed):
    start = torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1000))
    grads = gradients(shape, steps, seed)
    assert torch.allclose(moved(ours, start, grads, rate), moved(theirs, start, grads, rate), rtol=1e-5, atol=1e-7)


def test_each_expert_of_a_stack_moves_as_it_would_alone():
    scales = torch.tensor([1.0, 1e-2, 100.0, 0.0])[:, None, None]
    start = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0)) * scales
    grads = [g * scales.flip(0) for g in gradients((4, 5, 3), 4, 1)]
    together = moved(ours, start, grads, 0.01)
    for expert in range(4):
        alone = moved(theirs, start[expert], [g[expert] for g in grads], 0.01)
        assert torch.allclose(together[expert], alone, rtol=1e-5, atol=1e-8), expert


def test_a_first_step_is_the_rate_times_the_size_of_the_weights():
    start, gradient = torch.full((4, 6), 0.5), torch.full((4, 6), -3.0)
    assert torch.allclose(moved(ours, start, [gradient], 0.01), torch.full((4, 6), 0.505))
    assert torch.allclose(moved(ours, torch.zeros(3), [torch.ones(3)], 0.01), torch.full((3,), -1e-5))


def test_a_router_is_not_factored():
    model = torch.nn.ModuleDict({"gate": torch.nn.Linear(4, 3, bias=False), "up": torch.nn.Linear(4, 3, bias=False)})
    optimizer = adafactor(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert set(optimizer.state[model["gate"].weight]) == {"step", "squares"}
    assert set(optimizer.state[model["up"].weight]) == {"step", "rows", "columns"}


def test_an_expert_that_no_token_chose_stays_where_it_is():
    start = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    gradient = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
    gradient[1] = 0
    found = moved(ours, start, [gradient], 0.01)
    assert torch.equal(found[1], start[1]) and not torch.equal(found[0], start[0])


@pytest.mark.parametrize(("step", "rate"), [(0, 0.01), (9999, 0.01), (50_000, 0.00447), (390_000, 0.00160)])
def test_the_inverse_square_root_is_openmoes(step, rate):
    found = learning_rate(step, 500_000, 0.01, 10_000 / 500_000, "inverse_sqrt")
    assert found == pytest.approx(1 / math.sqrt(max(step, 10_000)))
    assert found == pytest.approx(rate, rel=2e-3)


def test_a_constant_rate_is_constant_after_its_warm_up():
    rates = [learning_rate(step, 100, 0.5, 0.1, "constant") for step in range(100)]
    assert rates[:10] == sorted(rates[:10]) and set(rates[10:]) == {0.5}
    assert learning_rate(0, 100, 0.5, 0, "constant") == 0.5
