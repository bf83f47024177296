"""Every published layout gives the same model; a wrong or hostile checkpoint is refused with the tensor's name."""

import json
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from metier.errors import ArtifactError
from metier.model import load, load_model
from metier.model.bases import find_base
from metier.model.openmoe import OpenMoeConfig, OpenMoeForCausalLM
from metier.model.openmoe.checkpoint import is_openmoe, load_checkpoint, open_checkpoint
from metier.model.openmoe.int8 import dequantise_rows, quantise_rows

FIXTURE = Path(__file__).parent / "fixtures" / "openmoe"
WEIGHTS = load_file(FIXTURE / "model.safetensors")
SINGLE = {"wi_gate": "gate_proj", "wi_up": "up_proj", "wo": "down_proj"}
GATE = "model.layers.1.mlp.gate_weight"


def per_expert(weights):
    """The layout of the independent port: one transposed matrix an expert, and a renamed router."""
    out = {}
    for name, weight in weights.items():
        stem, _, last = name.rpartition(".")
        if last in SINGLE:
            for expert, matrix in enumerate(weight):
                out[f"{stem}.{expert}.{SINGLE[last]}.weight"] = matrix.T.contiguous()
        else:
            out[name.replace("gate_weight", "gate.weight")] = weight
    return out


def folder_of(tmp_path, weights, *, suffix="safetensors", shards=1, changes=None):
    """Write a checkpoint folder in one of the published ways."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    settings = json.loads((FIXTURE / "config.json").read_text()) | (changes or {})
    (folder / "config.json").write_text(json.dumps(settings))
    save = save_file if suffix == "safetensors" else torch.save
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    if shards == 1:
        save(weights, folder / f"{stem}.{suffix}")
        return folder
    named = {}
    for shard in range(shards):
        part = dict(list(weights.items())[shard::shards])
        file = f"{stem}-{shard + 1:05}-of-{shards:05}.{suffix}"
        save(part, folder / file)
        named |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": named}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    return folder


def same(model, weights=WEIGHTS):
    state = model.state_dict()
    return state.keys() == weights.keys() and all(torch.equal(state[name], weights[name]) for name in weights)


def test_the_folder_of_the_fixture_loads_whatever_lies_beside_it():
    model = load_model(FIXTURE)
    assert same(model)
    assert not model.training and model.dtype == torch.float32
    assert torch.equal(model.model.rotary_emb.inv_freq, OpenMoeForCausalLM(model.config).model.rotary_emb.inv_freq)
    assert is_openmoe(FIXTURE) and not is_openmoe(FIXTURE.parent)
    assert find_base(str(FIXTURE)).origin == "openmoe"


def test_a_missing_tokenizer_is_told_with_what_to_do():
    with pytest.raises(ArtifactError, match=r"has no tokenizer\.json.*umt5-small.*load_model"):
        load(FIXTURE)


@pytest.mark.parametrize("layout", [dict, per_expert], ids=["stacked", "single experts"])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("shards", [1, 3])
def test_every_published_layout_is_the_same_model(tmp_path, layout, suffix, shards):
    folder = folder_of(tmp_path, layout(WEIGHTS), suffix=suffix, shards=shards)
    assert same(load_model(folder))


def test_our_own_saved_model_and_old_buffers_are_read(tmp_path):
    model = load_checkpoint(FIXTURE)
    model.save_pretrained(tmp_path / "ours", max_shard_size="200KB")
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 1
    assert same(load_model(tmp_path / "ours"))
    buffers = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(8) for i in range(4)}
    assert same(load_checkpoint(folder_of(tmp_path, WEIGHTS | buffers, suffix="bin")))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_kinds_of_numbers_become_float32(tmp_path, dtype):
    folder = folder_of(tmp_path, {name: weight.to(dtype) for name, weight in WEIGHTS.items()})
    assert same(load_checkpoint(folder), {name: weight.to(dtype).float() for name, weight in WEIGHTS.items()})


def test_older_names_of_keys_are_read(tmp_path):
    folder = folder_of(tmp_path, WEIGHTS)
    settings = json.loads((folder / "config.json").read_text())
    old = {"router_topk": "topk", "router_capacity_factor_eval": "capacity_factor_eval", "mlp_gated": "gated"}
    settings = {old.get(key, key): value for key, value in settings.items()} | {"capacity_factor_eval": 3.5}
    (folder / "config.json").write_text(json.dumps(settings))
    assert load_checkpoint(folder).config.router_capacity_factor_eval == 3.5


def test_a_model_with_one_expert_is_read_expert_by_expert(tmp_path):
    shape = {"num_experts": 1, "router_topk": 1, "vocab_size": 20, "hidden_size": 8, "intermediate_size": 6}
    shape |= {"head_dim": 4, "num_attention_heads": 2, "num_hidden_layers": 2, "moe_layer_interval": 1}
    model = OpenMoeForCausalLM(OpenMoeConfig(**shape))
    folder = folder_of(tmp_path, per_expert(model.state_dict()), changes=shape | {"num_key_value_heads": 2})
    assert same(load_checkpoint(folder), model.state_dict())


@settings(max_examples=20, deadline=None)
@given(piece_bytes=st.integers(1, 30_000))
def test_pieces_of_any_size_make_up_the_tensor(piece_bytes):
    checkpoint = open_checkpoint(FIXTURE)
    for name in ("lm_head.weight", "model.norm.weight", "model.layers.1.mlp.experts.wo"):
        pieces = list(checkpoint.pieces(name, piece_bytes))
        assert torch.equal(torch.cat([piece for _, piece in pieces]), WEIGHTS[name])
        assert [rows.start for rows, _ in pieces] == [0, *(rows.stop for rows, _ in pieces[:-1])]
        row = WEIGHTS[name][:1].numel() * 4
        assert all(piece.numel() * 4 <= max(piece_bytes, row) for _, piece in pieces)


# What must be refused.


def refused(folder, match):
    with pytest.raises(ArtifactError, match=match) as found:
        load_model(folder)
    assert "\n" not in str(found.value)


def changed(name, change):
    return WEIGHTS | {name: change(WEIGHTS[name].clone())}


def without(name):
    return {key: weight for key, weight in WEIGHTS.items() if key != name}


def with_value(value):
    def change(weight):
        weight.view(-1)[-1] = value
        return weight

    return change


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize(
    ("weights", "match"),
    [
        (without(GATE), rf"missing: {GATE}"),
        (without("lm_head.weight") | {"head.weight": WEIGHTS["lm_head.weight"]}, r"lm_head\.weight; foreign: head\.w"),
        (WEIGHTS | {"extra": torch.ones(2)}, "foreign: extra"),
        (
            changed(GATE, lambda w: w[:, :-1].contiguous()),
            rf"{GATE} has shape \(8, 31\), config.json asks for \(8, 32\)",
        ),
        (changed("model.norm.weight", lambda w: w[None]), r"model\.norm\.weight has shape \(1, 32\)"),
        (changed("lm_head.weight", lambda w: w.to(torch.int32)), r"lm_head\.weight is of kind"),
        (changed("lm_head.weight", lambda w: w.to(torch.int8)), r"lm_head\.weight is of kind torch\.int8"),
        (changed("lm_head.weight", with_value(float("nan"))), r"lm_head\.weight holds NaN"),
        (changed("model.layers.3.mlp.experts.wo", with_value(float("inf"))), r"3\.mlp\.experts\.wo holds infinity"),
        (
            WEIGHTS | {"model.layers.1.mlp.gate.weight": WEIGHTS[GATE].clone()},
            r"1\.mlp\.gate\.?_?weight is the same as",
        ),
    ],
    ids=[
        *("missing", "renamed", "foreign", "wrong shape", "wrong rank", "integers", "int8 without scales"),
        *("NaN", "infinity", "twice"),
    ],
)
def test_a_wrong_checkpoint_is_refused_by_the_tensor_at_fault(tmp_path, weights, match, suffix):
    refused(folder_of(tmp_path, weights, suffix=suffix), match)


def test_a_missing_expert_is_refused(tmp_path):
    weights = per_expert(WEIGHTS)
    del weights["model.layers.3.mlp.experts.5.up_proj.weight"]
    refused(folder_of(tmp_path, weights), r"missing: model\.layers\.3\.mlp\.experts\.wi_up; foreign: .*experts\.0\.up")


@pytest.mark.parametrize("cut", [3, 100, 40_000, 623_000])
def test_a_truncated_safetensors_file_is_refused(tmp_path, cut):
    file = folder_of(tmp_path, WEIGHTS) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    refused(file.parent, r"tensor \S+ is cut short" if cut > 10_000 else "cannot be read")


@pytest.mark.parametrize("cut", [0, 3, 100_000, 600_000])
def test_a_truncated_bin_file_is_refused(tmp_path, cut):
    file = folder_of(tmp_path, WEIGHTS, suffix="bin") / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:cut])
    refused(file.parent, r"pytorch_model\.bin: is refused: it is damaged")


class Bomb:
    """Touches a file when it is unpickled with code execution."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("place", ["whole", "tensor"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, place):
    ran = tmp_path / "ran"
    held = Bomb(ran) if place == "whole" else WEIGHTS | {GATE: Bomb(ran)}
    refused(
        folder_of(tmp_path, held, suffix="bin"), r"is refused: it is damaged or would build more than tensors.*mkdir"
    )
    assert not ran.exists()


def test_a_bare_pickle_and_the_oldest_format_are_refused(tmp_path):
    folder = folder_of(tmp_path, WEIGHTS)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    refused(folder, "is refused: it is damaged, or was written by torch before")
    torch.save(WEIGHTS, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    refused(folder, "is refused: it is damaged, or was written by torch before")
    assert not (tmp_path / "ran").exists()


def test_transposed_views_are_read(tmp_path):
    views = {name: weight.T.contiguous().T if weight.dim() == 2 else weight for name, weight in WEIGHTS.items()}
    folder = folder_of(tmp_path, views, suffix="bin")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.parts["lm_head.weight"][0].stored.strides == (1, 97)
    pieces = [piece for _, piece in checkpoint.pieces("lm_head.weight", 1000)]
    assert len(pieces) > 5 and torch.equal(torch.cat(pieces), WEIGHTS["lm_head.weight"])
    assert same(load_checkpoint(folder))


@pytest.mark.parametrize("held", [[1, 2], {"a": 3}, {1: torch.ones(2)}, {"a": torch.ones(2).to_sparse()}], ids=str)
def test_a_bin_file_of_anything_but_named_tensors_is_refused(tmp_path, held):
    refused(
        folder_of(tmp_path, held, suffix="bin"),
        "holds a list|is a int|1 is a tensor|is of kind torch.float32, torch.sp",
    )


def rewrite_index(folder, change):
    (path,) = folder.glob("*.index.json")
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize(
    "elsewhere",
    ["../secret.{}", "/etc/secret.{}", "a/b.{}", "..", "", "config.json", "a\\b.{}", None, 3],
    ids=str,
)
def test_an_index_may_not_leave_its_folder(tmp_path, suffix, elsewhere):
    folder = folder_of(tmp_path, WEIGHTS, suffix=suffix, shards=2)
    shutil.copy(next(folder.glob(f"*-00001-*.{suffix}")), tmp_path / f"secret.{suffix}")
    place = elsewhere.format(suffix) if isinstance(elsewhere, str) else elsewhere
    rewrite_index(folder, lambda named: named.update({GATE: place}))
    refused(folder, rf"tensor {GATE} is said to be in {re.escape(repr(place))}: no \.{suffix} file here")


def test_an_index_that_does_not_fit_its_files_is_refused(tmp_path):
    folder = folder_of(tmp_path, WEIGHTS, shards=2)
    (path,) = folder.glob("*.index.json")
    whole = path.read_text()
    file = json.loads(whole)["weight_map"][GATE]
    other = next(found.name for found in folder.glob("*.safetensors") if found.name != file)
    rewrite_index(folder, lambda named: named.update({GATE: other}))
    refused(folder, rf"tensor {GATE} is not in {other}")
    path.write_text(whole)
    (folder / file).unlink()
    refused(folder, rf"tensor \S+ is said to be in {file}, which is missing")
    for text in ("", "[]", '{"weight_map": 3}', "[" * 100_000):
        path.write_text(text)
        refused(folder, "is no index of a checkpoint")


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ({"shape": [2**40, 2**40]}, rf"{GATE} of shape \[1099511627776, 1099511627776\] cannot be 1024 bytes"),
        ({"data_offsets": [0, 2**60]}, rf"{GATE} of shape \[8, 32\] cannot be 1152921504606846976 bytes"),
        ({"data_offsets": [2**50, 2**50 + 1024]}, rf"{GATE} is cut short"),
        ({"data_offsets": [2**50, 8]}, rf"{GATE} of shape \[8, 32\] cannot be -"),
        ({"data_offsets": [-1024, 0]}, rf"{GATE} has shape \[8, 32\] and lies at -1024"),
        ({"shape": [-8, -32]}, rf"{GATE} has shape \[-8, -32\]"),
        ({"shape": None}, "cannot be read as safetensors"),
    ],
    ids=["shape", "size", "place", "backwards", "before", "negative", "none"],
)
def test_an_absurd_header_is_refused(tmp_path, entry, match):
    file = folder_of(tmp_path, WEIGHTS) / "model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header[GATE] |= entry
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    refused(file.parent, match)


def test_a_header_longer_than_the_file_is_refused(tmp_path):
    file = folder_of(tmp_path, WEIGHTS) / "model.safetensors"
    file.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    refused(file.parent, "cannot be read")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"num_hidden_layers": 10**12}, "num_hidden_layers = 1000000000000"),
        ({"hidden_size": "32"}, "hidden_size"),
        ({"num_experts": -8}, "num_experts = -8"),
        ({"hidden_size": 64}, r"model\.embed_tokens\.weight has shape \(97, 32\), config\.json asks for \(97, 64\)"),
        ({"num_experts": 4}, r"gate_weight has shape \(8, 32\), config\.json asks for \(4, 32\)"),
        ({"moe_layer_interval": 4}, r"model\.layers\.1\.mlp\.gate_proj\.weight"),
        ({"num_local_experts": 4}, "unknown key 'num_local_experts'; did you mean 'num_experts'"),
        ({"rope_scaling": {"rope_type": "no such"}}, "describes no OpenMoE model|rope"),
    ],
    ids=str,
)
def test_an_absurd_or_foreign_configuration_is_refused(tmp_path, changes, match):
    refused(folder_of(tmp_path, WEIGHTS, changes=changes), match)


def test_a_bin_file_with_a_member_outside_is_refused(tmp_path):
    folder = folder_of(tmp_path, WEIGHTS, suffix="bin")
    with zipfile.ZipFile(folder / "pytorch_model.bin", "a") as archive:
        archive.writestr("../../outside.txt", "not written")
    refused(folder, r"is refused.*not in a subdirectory.*outside\.txt")
    assert not list(tmp_path.rglob("outside.txt"))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-30, 1e30))
def test_int8_is_right_to_half_a_step_of_each_row(seed, scale):
    weight_OI = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed)) * scale
    weight_OI[3] = 0
    int8_OI, scale_O = quantise_rows(weight_OI)
    assert (int8_OI.dtype, int8_OI.abs().max()) == (torch.int8, 127)
    error_OI = (dequantise_rows(int8_OI, scale_O) - weight_OI).abs()
    assert (error_OI <= scale_O[:, None] * 0.5001).all()
    assert (dequantise_rows(int8_OI, scale_O)[3] == 0).all()
