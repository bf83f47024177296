"""Models from scratch: the shape that was asked for, twins of equal active size, and the same weights every time."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from metier.model.scratch import scratch
from metier.spec.shape import SIZES, ImpossibleShapeError, shape_of


def weights_a_token_passes(model):
    """Parameters, but for routers, of which a token uses all; of the experts the share it is sent to."""
    config, total = model.config, 0
    for name, weight in model.named_parameters():
        if name.endswith("mlp.gate.weight"):
            continue
        experts = "mlp.experts" in name
        total += weight.numel() * (config.num_experts_per_tok if experts else 1) // (len(weight) if experts else 1)
    return total


@pytest.mark.parametrize(
    "sizes",
    [{}, {"experts": 16, "experts_per_token": 4}, {"feed_forward_size": 96, "experts_per_token": 3, "head_dim": 16}],
    ids=str,
)
def test_a_mixture_and_its_dense_twin_pass_a_token_through_as_many_weights(sizes):
    shared = {key: value for key, value in sizes.items() if not key.startswith("experts")}
    dense = scratch(100, 64, 2, 64, 0, **shared)
    moe = scratch(100, 64, 2, 64, 0, architecture="moe", **sizes)
    assert weights_a_token_passes(dense) == dense.num_parameters()
    assert weights_a_token_passes(moe) == dense.num_parameters() < moe.num_parameters()
    assert (dense.config.model_type, moe.config.model_type) == ("qwen3", "qwen3_moe")
    same = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "rope_parameters", "rms_norm_eps")
    assert all(getattr(dense.config, key) == getattr(moe.config, key) for key in same)
    assert moe.config.norm_topk_prob


def test_stated_sizes_are_the_models():
    sizes = {"heads": 6, "key_value_heads": 3, "head_dim": 16, "experts": 5, "experts_per_token": 3, "expert_size": 24}
    model = scratch(100, 64, 3, 64, 0, architecture="moe", **sizes)
    layers = model.model.layers
    assert len(layers) == 3
    assert layers[0].self_attn.q_proj.weight.shape == (96, 64)
    assert layers[0].self_attn.k_proj.weight.shape == (48, 64)
    assert layers[2].mlp.experts.gate_up_proj.shape == (5, 48, 64)
    assert layers[2].mlp.gate.weight.shape == (5, 64)
    with torch.no_grad():
        assert model(torch.tensor([[2, 7, 9]])).logits.shape == (1, 3, 100)


@pytest.mark.parametrize("architecture", ["dense", "moe"])
def test_a_seed_decides_every_weight(architecture):
    one, same, other = (scratch(100, 32, 1, 64, seed, architecture=architecture).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


@given(
    st.sampled_from(["dense", "moe", "openmoe"]),
    st.integers(1, 8).map(lambda number: 32 * number),
    st.integers(1, 8),
    st.dictionaries(st.sampled_from(SIZES), st.integers(1, 64)),
)
def test_whatever_is_not_refused_fits_together(architecture, hidden_size, layers, sizes):
    try:
        shape = shape_of(architecture, hidden_size, layers, **sizes)
    except ImpossibleShapeError as error:
        wrong = error
    else:
        wrong = None
    if wrong:
        assert wrong.key in SIZES and wrong.found and wrong.fix
        return
    assert shape.heads % shape.key_value_heads == 0 and shape.head_dim % 2 == 0
    assert all(getattr(shape, key) == value for key, value in sizes.items())
    assert shape.experts_per_token <= shape.experts
    if architecture == "moe":
        assert shape.experts_per_token * shape.expert_size == shape.feed_forward_size


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 250))
def test_a_dense_model_has_a_twin_wherever_its_width_divides(experts, used, eighths):
    assume(used <= experts)
    width = 8 * used * eighths
    found = shape_of("moe", 64, 2, experts=experts, experts_per_token=used, feed_forward_size=width)
    assert found.feed_forward_size == shape_of("dense", 64, 2, feed_forward_size=width).feed_forward_size


@pytest.mark.parametrize("sizes", [{"expert_size": 50}, {"experts_per_token": 3, "feed_forward_size": 510}])
def test_experts_of_a_width_that_torch_cannot_compute_everywhere_are_refused(sizes):
    with pytest.raises(ImpossibleShapeError, match="multiple of 8"):
        shape_of("moe", 64, 2, **sizes)


def test_a_size_that_is_none_is_no_size():
    assert shape_of("dense", 64, 2, heads=None) == shape_of("dense", 64, 2)
    with pytest.raises(TypeError, match="'width' is no size"):
        shape_of("dense", 64, 2, width=3)


def test_openmoe_has_the_shape_that_was_asked_for():
    sizes = {"heads": 2, "head_dim": 16, "feed_forward_size": 48, "experts": 4, "moe_layer_interval": 2}
    config = scratch(100, 64, 4, 64, 0, architecture="openmoe", **sizes).config
    wanted = {"hidden_size": 64, "num_hidden_layers": 4, "intermediate_size": 48, "head_dim": 16, "vocab_size": 100}
    wanted |= {"num_attention_heads": 2, "num_key_value_heads": 2, "num_experts": 4, "router_topk": 2}
    wanted |= {"moe_layer_interval": 2, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    assert {key: getattr(config, key) for key in wanted} == wanted
