"""The Hugging Face folder, and the papers that travel with the file."""

import json
import shutil
import subprocess
from dataclasses import replace

import pytest
import torch
from families import CASES, write_released
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from metier.evaluate.candidates import Candidate
from metier.evaluate.metrics import Score
from metier.evaluate.significance import Comparison
from metier.evaluate.verdict import Contestant, Licences, Limit, Parity, decide
from metier.export.card import card, checksums, modelfile
from metier.export.huggingface import write_folder
from metier.model import load


@pytest.fixture(scope="module")
def auto(trained):
    model = AutoModelForCausalLM.from_pretrained(trained.folder, trust_remote_code=False)
    return model.eval(), AutoTokenizer.from_pretrained(trained.folder, trust_remote_code=False)


def test_auto_classes_load_the_folder_with_our_logits(trained, auto):
    model, tokenizer = auto
    for row in trained.held_out[:5]:
        text = trained.prompt.render(row.input) + row.output
        ids = tokenizer(text, return_tensors="pt").input_ids
        assert ids[0].tolist() == trained.tokenizer(text).input_ids
        with torch.no_grad():
            difference = (model(ids).logits - trained.model(ids).logits).abs().max()
        assert difference <= 1e-5


@pytest.mark.parametrize("family", CASES)
def test_a_folder_says_its_rotation_as_versions_before_5_read_it_too(family, tmp_path):
    write_released(CASES[family], tmp_path / "released")
    model, tokenizer = load(tmp_path / "released")
    write_folder(tmp_path / "made", model, tokenizer)
    config = json.loads((tmp_path / "made" / "config.json").read_text())
    rope = config["rope_parameters"]
    full = rope.get("full_attention", rope)
    assert config["rope_theta"] == full["rope_theta"]
    assert config.get("rope_local_base_freq") == rope.get("sliding_attention", {}).get("rope_theta")
    scaled = CASES[family].rope
    assert config.get("rope_scaling") == (scaled and {k: v for k, v in full.items() if k != "rope_theta"})
    if family == "Qwen 3 MoE":
        assert config["num_experts"] == model.config.num_experts
    assert AutoConfig.from_pretrained(tmp_path / "made").to_dict() == {
        **model.config.to_dict(),
        "_name_or_path": str(tmp_path / "made"),
    }


def test_the_folder_holds_no_code_and_no_pickle(trained):
    assert {file.suffix for file in trained.folder.iterdir()} <= {".json", ".safetensors", ".jinja"}


def test_the_folders_chat_template_renders_the_prompt_and_generation_stops(trained, auto):
    model, tokenizer = auto
    row = next(row for row in trained.held_out)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": row.input}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<bos>" + trained.prompt.render(row.input)
    ids = tokenizer(trained.prompt.render(row.input), return_tensors="pt").input_ids
    with torch.no_grad():
        out = model.generate(ids, max_new_tokens=60, do_sample=False)
    assert out.shape[1] < ids.shape[1] + 30
    assert out[0, -1] == tokenizer.eos_token_id


def test_a_modelfile_names_the_file_the_template_and_the_limits(trained):
    lines = modelfile("animals-Q8_0.gguf", trained.prompt, 256, 16)
    assert lines.startswith("FROM ./animals-Q8_0.gguf\n")
    assert f'TEMPLATE """{trained.prompt.ollama_template()}"""\n' in lines
    assert {
        "PARAMETER repeat_penalty 1",
        "PARAMETER temperature 0",
        "PARAMETER num_ctx 256",
        "PARAMETER num_predict 16",
    } <= set(lines.splitlines())
    assert lines.count('"""') == 2


LEDGER = {
    "sources": [
        {
            "name": "file:rows|1.tsv",
            "role": "train",
            "licence": "CC-BY-4.0",
            "attribution": "the rowers",
            "sha256": "ab" * 32,
            "rows": {"read": 1234, "train": 1100},
        },
        {
            "name": "file:exam.tsv",
            "role": "test",
            "licence": "own",
            "attribution": "",
            "sha256": "cd" * 32,
            "rows": {"read": 10, "train": 0},
        },
    ],
    "base": {"licence": "Gemma"},
    "shipping": {"allowed": True, "terms": ["name the rowers"], "reasons": ["every licence allows it"]},
}
BASE = {
    "reference": "hf:someone/base",
    "licence": "Gemma",
    "origin": "base",
    "sha256": "ef" * 32,
    "pieces": 262144,
    "parameters": 268_000_000,
}
TRAINING = {
    "steps": 120,
    "tokens": 68743,
    "seconds": 90,
    "peak_lr": 6e-5,
    "lora": None,
    "validation_loss_nats": {"0": 3.2, "120": 1.9},
}


def verdict(allowed=True):
    return decide(
        must_beat=[],
        comparisons={},
        file_mib=Limit(1.0, 5.0),
        ram_mib=Limit(100.0, None),
        parity=Parity(True, "the bound", {"low": -0.1, "difference": 0.0, "agreement": 1.0}),
        licences=Licences(allowed, "name the rowers", ()),
        scores=[Contestant("animals", (), 1.0)],
    )


CANDIDATES = (
    Candidate(
        "Q8_0",
        "whole",
        2.0,
        True,
        "",
        Score("chrf2", 50, 49, 51, 100, "signature"),
        Comparison("chrf2", 0, -0.1, 0.1, 1.0, 100, 1000),
        48.0,
        120.0,
    ),
    Candidate("Q4_0", "whole", 1.0, failed="no memory"),
)


def the_card(trained, **changes):
    facts = {
        "name": "animals",
        "file_name": "animals-Q8_0.gguf",
        "verdict": verdict(),
        "ledger": LEDGER,
        "base": BASE,
        "training": TRAINING,
        "cut": None,
        "candidates": CANDIDATES,
        "chosen": "Q8_0",
        "prompt": replace(trained.prompt, before="Q: "),
        "base_prompt": None,
        "rivals": {},
        "languages": ["ja", "en"],
    }
    return card(**{**facts, **changes})


@pytest.mark.parametrize(
    "said",
    [
        "animals-Q8_0.gguf",
        "**released**",
        'license_name: "CC-BY-4.0 AND Gemma"\n',
        'language: ["ja", "en"]',
        "`hf:someone/base`",
        "licence Gemma",
        "268 M parameters",
        "ef" * 32,
        "| file:rows/1.tsv | CC-BY-4.0 | the rowers | 1,234 | 1,100 |",
        "Yes, under these terms:",
        "- name the rowers",
        "120 steps",
        "Q: {input}",
        "| Q8_0 | 50.0 [49.0, 51.0] | +0.00 [-0.10, +0.10] | 2.00 | 48.0 | 120.0 | ships |",
        "| Q4_0 | - | - | 1.00 | - | - | failed: no memory |",
        "![score against size](sweep.svg)",
    ],
)
def test_the_card_says(trained, said):
    assert said in the_card(trained)


def test_the_card_says_how_each_rival_was_asked(trained):
    prompt = replace(trained.prompt, before="Rival, ").to_json()
    rival = {"origin": "A Rival 1B", "reference": "pypi:a-rival", "licence": "MIT", "sha256": "12" * 32}
    text = the_card(trained, rivals={"a-rival": {**rival, "prompt": prompt}})
    assert f"a-rival is A Rival 1B (`pypi:a-rival`, licence MIT, sha256 `{'12' * 32}`)" in text
    assert "    Rival, {input}\n" in text and "Rival" not in the_card(trained)


def test_the_card_names_a_model_of_this_machine_without_its_path(trained):
    local = {**BASE, "reference": "/home/ada/models/small"}
    assert "(`small`)" in the_card(trained, base=local) and "/home/ada" not in the_card(trained, base=local)


def test_the_card_without_a_file_says_so(trained):
    text = the_card(trained, file_name=None, candidates=(), chosen=None)
    assert "Sizes tried" not in text
    assert "there is no GGUF file" in text and "llama.cpp" not in text
    assert "tags: [metier]\n" in text
    assert "The checkpoint was asked" in text and "shipped file was asked" not in text


def test_the_card_of_a_cut_model_says_what_was_cut_and_that_it_was_healed(trained):
    healing = {"steps": 30, "tokens": 12_345}
    cut = {"layers_dropped": [2, 3], "feed_forward_size": 256, "parameters": 2_100_000, "healing": healing}
    text = the_card(trained, cut=cut)
    assert "layers dropped (from 0): 2, 3; feed-forward channels kept: 256; 2.1 M parameters are left" in text
    assert "for 30 steps, 12,345 tokens" in text and "Cut after" not in the_card(trained)


def test_the_card_of_what_may_not_be_shipped_says_no(trained):
    ledger = LEDGER | {"shipping": {"allowed": False, "terms": [], "reasons": ["rows.tsv has an unknown licence"]}}
    text = the_card(trained, ledger=ledger, verdict=verdict(allowed=False), base=None)
    assert "not released" in text
    assert "No:\n\n- rows.tsv has an unknown licence" in text
    assert "none; trained from scratch" in text


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="needs sha256sum")
def test_checksums_verify_and_notice_a_changed_file(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a b.txt").write_text("one")
    (tmp_path / "sub" / "ü.bin").write_bytes(b"\0\1")
    (tmp_path / "SHA256SUMS").write_text(checksums(tmp_path), encoding="utf-8")

    def verifies():
        return subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=tmp_path, capture_output=True)

    assert verifies().returncode == 0
    assert checksums(tmp_path).count("\n") == 2
    (tmp_path / "sub" / "ü.bin").write_bytes(b"\0\2")
    assert verifies().returncode != 0
