"""A base of every family goes the road: loaded, trimmed, trained a little, written, and passed by the gate."""

from functools import partial

import pytest
from doubles import counted_animals
from families import CASES, write_released
from vocabularies import BYTE_LEVEL

from metier.data.records import Record, write_records
from metier.model import load
from metier.run.engine import Engine
from metier.run.gguf_header import read_header
from metier.spec.job import Job
from metier.steps import answering, parity, ship, start
from metier.steps.prompt import choose_prompt
from metier.steps.train import learn_job
from metier.tasks.prompt import PromptFormat


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch, tmp_path):
    monkeypatch.setattr(answering, "Engine", partial(Engine, threads=1))
    monkeypatch.setenv("METIER_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rows = [Record(asked, f"{answer} …猫") for asked, answer in counted_animals(160)]
    write_records(folder / "train.jsonl", rows[:120])
    write_records(folder / "validation.jsonl", rows[120:])
    return folder


def job(base, **changes):
    return Job.model_validate(
        {
            "name": "animals",
            "task": "text2text",
            "base": {"model": str(base)},
            "data": {"train": [{"source": "file:none.tsv", "licence": "own"}]},
            "vocabulary": {"pieces": 60},
            "train": {"budget": "2 steps", "batch_tokens": 400, "max_tokens": 96, "peak_lr": 1e-5},
            "evaluate": {"validation_rows": 20, "max_answer_tokens": 6},
            "export": {"quantisations": ["F16"]},
            **changes,
        }
    )


def made(folder, *names):
    for name in names:
        (folder / name).mkdir()
    return [folder / name for name in names]


@pytest.mark.parametrize("name", CASES)
def test_a_base_of_every_family_passes_the_gate(name, data, tmp_path):
    case = CASES[name]
    base, begun, trained, files, answers = made(tmp_path, "base", "start", "train", "files", "parity")
    write_released(case, base)
    description = job(base)
    facts = start.start(description, data, begun)
    assert facts["pieces"] < facts["base"]["pieces"]
    assert facts["parameters"] < facts["base"]["parameters"]
    found = choose_prompt(description, data, begun)
    tried = {candidate["prompt"]["name"] for candidate in found["candidates"]}
    assert ("chat" in tried) is (case.tokenizer in BYTE_LEVEL and BYTE_LEVEL[case.tokenizer].template is not None)
    prompt = PromptFormat.from_json(found["prompt"])
    learn_job(description, data, begun, prompt, trained)
    models = {ship.WHOLE: trained / "model"}
    sizes = ship.write_files(description, models, prompt, "own", files)["file_mib"]
    gate = parity.judged(description, parity.gate(description, data, models, prompt, files, answers), sizes)
    (walk,) = gate["walks"].values()
    assert walk["passed"], walk
    assert walk["positions"] > 100
    assert gate["candidates"]["F16"]["passed"]
    metadata = read_header(files / "animals-F16.gguf").metadata
    assert metadata["tokenizer.ggml.model"] == ("gpt2" if case.tokenizer in BYTE_LEVEL else "llama")
    assert metadata.get("tokenizer.ggml.add_space_prefix", False) is False


@pytest.mark.parametrize("name", ["Qwen 2", "Mistral"])
def test_a_whole_vocabulary_keeps_the_rows_without_pieces(name, data, tmp_path):
    base, begun, files = made(tmp_path, "base", "start", "files")
    write_released(CASES[name], base)
    description = job(base, vocabulary={"pieces": "all"})
    facts = start.start(description, data, begun)
    assert facts["parameters"] == facts["base"]["parameters"]
    ship.write_files(description, {ship.WHOLE: begun}, PromptFormat(name="line", after="\n"), "own", files)
    again = load(files / "animals-F16.gguf")
    assert again.model.config.vocab_size == len(again.tokenizer) == load(base).model.config.vocab_size
    text = "forty-two red foxs 12 …猫"
    with Engine(files / "animals-F16.gguf", threads=1) as engine:
        assert engine.tokenize(text) == load(begun).tokenizer(text).input_ids == again.tokenizer(text).input_ids


def test_a_prompt_that_is_too_long_to_train_on_is_not_chosen(data, tmp_path):
    base, begun = made(tmp_path, "base", "start")
    write_released(CASES["SmolLM2"], base)
    narrow = job(base, train={"budget": "2 steps", "max_tokens": 60}, vocabulary={"pieces": "all"})
    start.start(narrow, data, begun)
    found = choose_prompt(narrow, data, begun)
    chosen = next(c for c in found["candidates"] if c["prompt"] == found["prompt"])
    assert chosen["longest"] <= 60
    assert any(candidate["longest"] > 60 for candidate in found["candidates"])
