"""An int8 checkpoint answers as it does in float32, with few experts in memory; what cannot be right is refused."""

import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from test_openmoe_checkpoint import FIXTURE

from metier.errors import ArtifactError, SpecError
from metier.model import load_model
from metier.model.openmoe import OpenMoeConfig, int8
from metier.model.openmoe.convert import convert_checkpoint
from metier.model.openmoe.expert_cache import ExpertCache
from metier.model.openmoe.headers import header_of
from metier.model.openmoe.int8 import dequantise_rows, int8_product, quantise_rows
from metier.model.openmoe.small_memory import expert_cache, load_int8

EXPERT_MIB = 4 * 32 * 48 / 2**20
GATE = "model.layers.1.mlp.experts.gate_proj"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two files, so that experts of different layers lie in different ones."""
    return convert_checkpoint(FIXTURE, tmp_path_factory.mktemp("int8") / "folder", "int8", shard_bytes=100_000)


@pytest.fixture(scope="module")
def in_float32(folder):
    return load_model(folder)


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copied")


def questions():
    ids = torch.randint(3, 97, (2, 11), generator=torch.Generator().manual_seed(5))
    ids[:, 0] = 0
    return ids


def far(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("experts", [1, 3, 100])
def test_logits_and_routes_are_those_of_the_same_weights_in_float32(folder, in_float32, experts):
    model = load_int8(folder, expert_cache_mib=experts * EXPERT_MIB)
    with torch.no_grad():
        ours, theirs = (one(questions(), output_routing=True) for one in (model, in_float32))
    assert far(ours.logits, theirs.logits) < 1e-5
    for mine, other in zip(ours.routing, theirs.routing, strict=True):
        assert torch.equal(mine.expert_NK, other.expert_NK)


def test_greedy_answers_with_a_cache_of_keys_are_the_same(folder, in_float32):
    model = load_int8(folder, expert_cache_mib=9 * EXPERT_MIB)
    ours, theirs = (one.generate(questions(), max_new_tokens=20, do_sample=False) for one in (model, in_float32))
    assert torch.equal(ours, theirs) and ours.shape[1] > 12
    assert expert_cache(model).hits > 0 and expert_cache(model).evictions > 0


def test_bfloat16_answers_too_with_routers_and_positions_in_float32(folder, in_float32):
    model = load_int8(folder, expert_cache_mib=1, dtype=torch.bfloat16)
    with torch.no_grad():
        ours, theirs = model(questions()).logits, in_float32(questions()).logits
    assert 1e-4 < ((ours - theirs).norm() / theirs.norm()).item() < 0.1
    assert (model.dtype, model.lm_head.int8.dtype) == (torch.bfloat16, torch.int8)
    assert model.model.rotary_emb.inv_freq.dtype == model.model.layers[1].mlp.gate_weight.dtype == torch.float32


def test_no_matrix_is_held_in_floating_point(folder):
    model = load_int8(folder, expert_cache_mib=1)
    floats = [*model.parameters(), *(buffer for buffer in model.buffers() if buffer.is_floating_point())]
    assert {name for name, _ in model.named_parameters() if "norm" not in name} == {
        f"model.layers.{layer}.mlp.gate_weight" for layer in (1, 3)
    }
    assert sum(held.numel() for held in floats) < 0.1 * sum(b.numel() for b in model.buffers() if b.dtype == torch.int8)
    assert not any(weight.requires_grad for weight in model.parameters())
    assert not any(held.is_meta for held in floats) and not model.training


@given(
    st.integers(1, 70), st.integers(1, 40), st.integers(1, 9), st.sampled_from([1, 7, 64, 2**19]), st.integers(0, 999)
)
@settings(deadline=None, max_examples=40)
def test_the_product_does_not_depend_on_how_rows_are_blocked(outputs, inputs, tokens, block, seed):
    torch.manual_seed(seed)
    x_NI = torch.randn(tokens, inputs)
    int8_OI, scale_O = quantise_rows(torch.randn(outputs, inputs))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "BLOCK_NUMBERS", block)
        found = int8_product(x_NI, int8_OI, scale_O)
    torch.testing.assert_close(found, x_NI @ dequantise_rows(int8_OI, scale_O).T, atol=1e-5, rtol=1e-4)


SIDE = st.one_of(st.integers(1, 70), st.sampled_from([64, 128, 192, 320]))


@given(SIDE, SIDE, st.integers(1, 6), st.integers(0, 999))
@settings(deadline=None, max_examples=40)
def test_the_product_in_bfloat16_is_rounded_three_times_with_scale_and_sum(outputs, inputs, tokens, seed):
    torch.manual_seed(seed)
    x_NI = torch.randn(tokens, inputs).bfloat16()
    int8_OI, scale_O = quantise_rows(torch.randn(outputs, inputs))
    expected = x_NI.float() @ dequantise_rows(int8_OI, scale_O).T
    bound = 3.1 * 2**-8 * (x_NI.float().abs() @ dequantise_rows(int8_OI, scale_O).abs().T)
    assert ((int8_product(x_NI, int8_OI, scale_O).float() - expected).abs() <= bound).all()


def a_cache(folder, mib):
    stored = {one.name: one for file in folder.glob("*.safetensors") for one in header_of(file)}
    stems = [f"model.layers.{layer}.mlp.experts" for layer in (1, 3)]
    layers = [tuple(stored[f"{stem}.{last}_proj.int8"] for last in ("gate", "up", "down")) for stem in stems]
    return ExpertCache(layers, mib)


def test_the_least_recently_used_expert_makes_room(folder):
    cache = a_cache(folder, 2.5 * EXPERT_MIB)
    seen = []
    for layer, expert in [(0, 1), (0, 2), (0, 1), (1, 1), (0, 1), (0, 2)]:
        before = cache.misses
        cache.matrices(layer, expert)
        seen.append("read" if cache.misses > before else "held")
    assert seen == ["read", "read", "held", "read", "held", "read"]
    assert (cache.hits, cache.misses, cache.evictions, cache.places) == (2, 4, 2, 2)
    assert cache.read_bytes == 4 * 4 * 32 * 48


@given(
    places=st.integers(1, 17),
    asked=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 7)), max_size=40),
)
@settings(deadline=None, max_examples=30)
def test_any_sequence_is_answered_from_the_file_within_the_budget(folder, in_float32, places, asked):
    cache = a_cache(folder, places * EXPERT_MIB)
    memory = set()
    for count, (layer, expert) in enumerate(asked, 1):
        held = cache.matrices(layer, expert)
        memory |= {matrix.data_ptr() for matrix in held}
        experts = in_float32.model.layers[2 * layer + 1].mlp.experts
        for matrix_OI, stacked in zip(held, (experts.wi_gate, experts.wi_up, experts.wo), strict=True):
            scale_O = stacked[expert].abs().amax(0) / matrix_OI.abs().amax(1)
            assert far(dequantise_rows(matrix_OI, scale_O), stacked[expert].T) < 1e-6
        assert cache.hits + cache.misses == count
        assert cache.held_bytes <= places * EXPERT_MIB * 2**20
        assert cache.held_bytes == min(len(set(asked[:count])), places) * EXPERT_MIB * 2**20
    assert len(memory) <= 3 * places  # memory of evicted experts is used again
    assert cache.evictions == cache.misses - min(len(set(asked)), places)


@pytest.mark.parametrize("mib", [0.99 * EXPERT_MIB, 0, -1, float("nan")])
def test_a_cache_smaller_than_an_expert_is_refused_with_what_to_write(folder, mib):
    with pytest.raises(SpecError, match=r"expert_cache_mib: one expert takes 0.0 MiB, more than .*Write 1 or more"):
        load_int8(folder, expert_cache_mib=mib)


def test_an_endless_budget_is_a_place_for_every_expert(folder):
    assert expert_cache(load_int8(folder, expert_cache_mib=float("inf"))).places == 16


def test_a_checkpoint_that_is_not_int8_is_refused_with_the_command(tmp_path):
    with pytest.raises(ArtifactError, match=r"tensor \S+ is float32 in a .* file, not int8.*metier convert"):
        load_int8(FIXTURE, expert_cache_mib=1)


def test_a_pickled_int8_folder_is_refused(folder, tmp_path):
    weights = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    torch.save(weights, tmp_path / "pytorch_model.bin")
    shutil.copyfile(folder / "config.json", tmp_path / "config.json")
    with pytest.raises(ArtifactError, match=r"tensor \S+ is int8 in a .bin file.*metier convert"):
        load_int8(tmp_path, expert_cache_mib=1)


def file_with(folder, tensor):
    return next(at for file in folder.glob("*.safetensors") for at in header_of(file) if at.name == tensor)


def test_a_file_cut_short_is_refused_with_the_tensors_name(copied):
    stored = file_with(copied, f"{GATE}.int8")
    with stored.file.open("r+b") as file:
        file.truncate(stored.start + 5)
    with pytest.raises(ArtifactError, match=r"tensor \S+ is cut short"):
        load_int8(copied, expert_cache_mib=1)


def test_a_file_cut_short_while_the_model_answers_is_refused_with_the_tensors_name(copied):
    model = load_int8(copied, expert_cache_mib=1)
    stored = file_with(copied, f"{GATE}.int8")
    with stored.file.open("r+b") as file:
        file.truncate(stored.start + 5)
    with pytest.raises(ArtifactError, match=rf"tensor {GATE}.int8 is cut short"), torch.no_grad():
        model(questions())


@pytest.mark.parametrize("name", [f"{GATE}.scale", "lm_head.scale", "model.layers.3.mlp.gate_weight"])
def test_a_scale_or_router_that_is_no_number_is_refused_with_its_name(copied, name):
    stored = file_with(copied, name)
    with stored.file.open("r+b") as file:
        file.seek(stored.start + 4)
        file.write(b"\x00\x00\xc0\x7f")
    with pytest.raises(ArtifactError, match=rf"tensor {name} holds NaN"):
        load_int8(copied, expert_cache_mib=1)


def test_a_model_without_experts_needs_no_cache(tmp_path):
    from metier.model.openmoe import OpenMoeForCausalLM

    settings = json.loads((FIXTURE / "config.json").read_text()) | {"moe_layer_interval": 9, "num_hidden_layers": 2}
    torch.manual_seed(0)
    OpenMoeForCausalLM(OpenMoeConfig(**settings)).save_pretrained(tmp_path / "dense")
    folder = convert_checkpoint(tmp_path / "dense", tmp_path / "int8", "int8")
    model = load_int8(folder, expert_cache_mib=0)
    with torch.no_grad():
        assert far(model(questions()).logits, load_model(folder)(questions()).logits) < 1e-5
    assert expert_cache(model) is None
