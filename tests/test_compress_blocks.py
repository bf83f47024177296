"""Weights in blocks: closer than the reference quantiser, exact where they already fit, read by gguf as written."""

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from metier.compress.blocks import BLOCK, HIGHEST, LOWEST, fit_scales, quantise, rounded

KINDS = sorted(LOWEST)
ALL_KINDS = sorted([*LOWEST, *HIGHEST])
WEIGHTS = arrays.arrays(
    np.float32, (3, BLOCK), elements=st.floats(-100, 100, width=32).map(lambda x: 0.0 if abs(x) < 1e-3 else x)
)


def stored(weight, kind):
    return gguf.dequantize(quantise(weight, gguf.GGMLQuantizationType[kind]), gguf.GGMLQuantizationType[kind])


def reference(weight, kind):
    return gguf.dequantize(gguf.quantize(weight, gguf.GGMLQuantizationType[kind]), gguf.GGMLQuantizationType[kind])


def normal_weights(rows=64, width=256):
    return np.random.default_rng(3).normal(0, 0.02, (rows, width)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_holds_what_the_grid_rounds_to(kind):
    weight = torch.from_numpy(normal_weights())
    assert np.array_equal(stored(weight.numpy(), kind), rounded(weight, fit_scales(weight, kind), kind).numpy())


@pytest.mark.parametrize("kind", KINDS)
@given(weight=WEIGHTS)
def test_weights_on_the_grid_are_stored_exactly(kind, weight):
    once = stored(weight, kind)
    assert np.array_equal(stored(once, kind), once)


@pytest.mark.parametrize("kind", ALL_KINDS)
@given(weight=WEIGHTS)
def test_no_block_is_further_off_than_the_reference_quantiser_makes_it(kind, weight):
    ours, theirs = (((f(weight, kind) - weight) ** 2).sum(axis=1) for f in (stored, reference))
    assert (ours <= theirs * (1 + 1e-4) + 1e-9).all()


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_normal_weights_lose_a_tenth_less_than_with_the_reference_quantiser(kind):
    weight = normal_weights()
    ours, theirs = (((f(weight, kind) - weight) ** 2).mean() for f in (stored, reference))
    assert ours < 0.9 * theirs


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_block_of_zeros_stays_zero_beside_one_that_is_not(kind):
    weight = np.zeros((2, BLOCK), dtype=np.float32)
    weight[1, 5] = -0.25
    found = stored(weight, kind)
    assert not found[0].any() and np.allclose(found[1], weight[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0"])
def test_other_types_are_left_to_gguf(kind):
    weight, wanted = normal_weights(), gguf.GGMLQuantizationType[kind]
    assert np.array_equal(quantise(weight, wanted), gguf.quantize(weight, wanted))


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_stack_of_matrices_keeps_its_shape(kind):
    weight = normal_weights(12, 64).reshape(3, 4, 64)
    assert stored(weight, kind).shape == weight.shape
    assert np.array_equal(stored(weight, kind).reshape(12, 64), stored(weight.reshape(12, 64), kind))


@pytest.mark.parametrize("kind", sorted(HIGHEST))
@given(value=st.floats(-100, 100, width=16))
def test_a_block_of_one_value_is_stored_exactly_where_f16_holds_it(kind, value):
    weight = np.full((1, BLOCK), value, dtype=np.float32)
    assert np.array_equal(stored(weight, kind), weight)
