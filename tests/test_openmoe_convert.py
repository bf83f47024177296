"""Converting a checkpoint: the same weights, little memory, nothing half-written, nothing overwritten."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from doubles import PEAK_MIB
from safetensors.torch import load_file
from test_openmoe_checkpoint import FIXTURE, WEIGHTS, folder_of, per_expert, same
from transformers import AutoModelForCausalLM

from metier.errors import ArtifactError, MetierError, RunError, SpecError
from metier.model import load_model
from metier.model.openmoe import convert, files
from metier.model.openmoe.checkpoint import load_checkpoint
from metier.model.openmoe.convert import convert_checkpoint


def off(model):
    state = model.state_dict()
    return {name: ((state[name] - weight).abs().max() / weight.abs().max()).item() for name, weight in WEIGHTS.items()}


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0), ("float16", 2**-11), ("bfloat16", 2**-8)])
def test_a_converted_checkpoint_is_the_same_rounded(tmp_path, dtype, error):
    source = folder_of(tmp_path, per_expert(WEIGHTS), suffix="bin" if dtype == "bfloat16" else "safetensors", shards=2)
    target = convert_checkpoint(source, tmp_path / "target", dtype, piece_bytes=5000, shard_bytes=100_000)
    assert len(list(target.glob("*.safetensors"))) > 2
    assert max(off(load_model(target)).values()) <= error
    theirs = AutoModelForCausalLM.from_pretrained(target)
    assert str(theirs.dtype) == f"torch.{dtype}"
    assert max(off(theirs.float()).values()) <= error


def test_int8_keeps_routers_and_norms_and_rounds_every_matrix_by_rows(tmp_path):
    target = convert_checkpoint(FIXTURE, tmp_path / "target", "int8")
    model = load_model(target)
    for name, error in off(model).items():
        kept = "norm" in name or name.endswith("gate_weight")
        assert (error == 0) if kept else (0 < error <= 0.51 / 127), name
    stored = load_file(target / "model.safetensors")
    name = "model.layers.1.mlp.experts.down_proj"
    assert (stored[f"{name}.int8"].shape, stored[f"{name}.scale"].shape) == ((8, 32, 48), (8, 32))
    assert stored["lm_head.scale"].shape == (97,)
    assert sum(file.stat().st_size for file in target.glob("*.safetensors")) < 0.35 * 623_112
    again = convert_checkpoint(target, tmp_path / "again", "float32")
    assert same(load_checkpoint(again), model.state_dict())


def test_an_int8_folder_is_not_taken_for_floats_by_the_library(tmp_path):
    target = convert_checkpoint(FIXTURE, tmp_path / "target", "int8")
    _, info = AutoModelForCausalLM.from_pretrained(target, output_loading_info=True)
    assert "lm_head.weight" in info["missing_keys"]


def test_what_lies_beside_the_weights_comes_along(tmp_path):
    source = folder_of(tmp_path, WEIGHTS)
    (source / "tokenizer.json").write_text("{}")
    target = convert_checkpoint(source, tmp_path / "target")
    assert (target / "tokenizer.json").read_text() == "{}"
    assert json.loads((target / "config.json").read_text())["model_type"] == "openmoe"


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_no_more_is_read_at_once_than_was_allowed(tmp_path, monkeypatch, suffix):
    source = folder_of(tmp_path, WEIGHTS, suffix=suffix)
    seen, read_rows = [], files.read_rows

    def noted(*arguments):
        rows = read_rows(*arguments)
        seen.append(rows.numel() * rows.element_size())
        assert rows.untyped_storage().nbytes() == seen[-1]  # no view that keeps a whole tensor
        return rows

    monkeypatch.setattr("metier.model.openmoe.checkpoint.read_rows", noted)
    convert_checkpoint(source, tmp_path / "target", "int8", piece_bytes=700)
    matrix = 4 * 32 * 96  # one expert's gate, which is not cut
    assert max(seen) == matrix
    assert sum(seen) == sum(weight.numel() * 4 for weight in WEIGHTS.values())
    assert max(size for size in seen if size not in (matrix, matrix // 2)) <= 700


MEASURED = f"""{PEAK_MIB}
import sys
from pathlib import Path
from metier.model.openmoe.convert import convert_checkpoint
convert_checkpoint(Path(sys.argv[1]), Path(sys.argv[3]) / "small", "int8")
before = peak_mib()
convert_checkpoint(Path(sys.argv[2]), Path(sys.argv[3]) / "large", "int8", piece_bytes=2**20)
print(peak_mib() - before)
"""


def sparse_checkpoint(folder, **changes):
    """A checkpoint of zeros that takes no room on the disk, whatever its size."""
    from metier.model.openmoe import OpenMoeForCausalLM
    from metier.model.openmoe.checkpoint import read_config

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(json.loads((FIXTURE / "config.json").read_text()) | changes))
    with torch.device("meta"):
        weights = OpenMoeForCausalLM(read_config(folder)).state_dict()
    header, end = {}, 0
    for name, weight in weights.items():
        size = 4 * math.prod(weight.shape)
        header[name] = {"dtype": "F32", "shape": list(weight.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return end


def test_memory_stays_far_below_the_size_of_a_tensor(tmp_path):
    size = sparse_checkpoint(tmp_path / "source", vocab_size=2**19, num_hidden_layers=2)
    assert size > 128 * 2**20  # two matrices of 64 MiB, mostly
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(FIXTURE), str(tmp_path / "source"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 16, done.stdout


def test_a_killed_conversion_goes_on_after_the_last_finished_file(tmp_path, monkeypatch):
    whole = convert_checkpoint(FIXTURE, tmp_path / "whole", "float32", shard_bytes=150_000)
    write_shard, done = convert._write_shard, []

    def killed(path, *rest):
        if len(done) == 2:
            path.with_suffix(".part").write_bytes(b"half")
            raise KeyboardInterrupt
        done.append(path)
        write_shard(path, *rest)

    monkeypatch.setattr(convert, "_write_shard", killed)
    target = tmp_path / "target"
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(FIXTURE, target, "float32", shard_bytes=150_000)
    assert not (target / "manifest.json").exists() and not (target / "config.json").exists()
    times = [path.stat().st_mtime_ns for path in done]
    monkeypatch.setattr(convert, "_write_shard", write_shard)
    convert_checkpoint(FIXTURE, target, "float32", shard_bytes=150_000)
    assert [path.stat().st_mtime_ns for path in done] == times
    files_of = {path.name: path.read_bytes() for path in whole.glob("*.safetensors")}
    assert {path.name: path.read_bytes() for path in target.glob("*.safetensors")} == files_of
    assert not list(target.glob("*.part"))


def test_a_finished_conversion_is_not_repeated(tmp_path, monkeypatch):
    convert_checkpoint(FIXTURE, tmp_path / "target", "int8")
    monkeypatch.setattr(convert, "_write_shard", lambda *_: pytest.fail("written again"))
    convert_checkpoint(FIXTURE, tmp_path / "target", "int8")


def test_nothing_of_the_users_is_overwritten(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "thesis.txt").write_text("mine")
    for holder in (target, FIXTURE):
        with pytest.raises(ArtifactError, match="holds something other than the beginning of this conversion"):
            convert_checkpoint(FIXTURE, holder, "int8")
    done = convert_checkpoint(FIXTURE, tmp_path / "done", "int8")
    with pytest.raises(ArtifactError, match="holds something other"):
        convert_checkpoint(FIXTURE, done, "float16")
    assert (target / "thesis.txt").read_text() == "mine"


def test_bad_weights_and_wishes_are_refused(tmp_path):
    with pytest.raises(SpecError, match="'int4' is not one of float32"):
        convert_checkpoint(FIXTURE, tmp_path / "a", "int4")
    large = WEIGHTS | {"lm_head.weight": WEIGHTS["lm_head.weight"] * 1e6}
    with pytest.raises(ArtifactError, match=r"lm_head\.weight.*too large for float16"):
        convert_checkpoint(folder_of(tmp_path, large), tmp_path / "b", "float16")
    nan = WEIGHTS | {"lm_head.weight": WEIGHTS["lm_head.weight"] * float("nan")}
    (tmp_path / "other").mkdir()
    with pytest.raises(ArtifactError, match=r"lm_head\.weight holds NaN"):
        convert_checkpoint(folder_of(tmp_path / "other", nan), tmp_path / "c", "int8")
    assert not list(tmp_path.glob("[abc]/manifest.json"))


def test_a_disk_too_small_is_told_before_anything_is_written(tmp_path):
    sparse_checkpoint(tmp_path / "source", vocab_size=2**24, hidden_size=2**13, num_hidden_layers=1)
    with pytest.raises(RunError, match="GiB are needed") as found:
        convert_checkpoint(tmp_path / "source", tmp_path / "target", "float32")
    assert isinstance(found.value, MetierError) and not Path(tmp_path / "target").exists()
