"""The step pretrain in a build: from plain text to a model that learns the job."""

import json

import pytest
from doubles import counted_animals, write_job
from transformers import AutoModelForCausalLM

from metier.artifact import read_json
from metier.build import build
from metier.model.loading import load
from metier.spec.load import load_job

TEXT = """
[[data.text]]
source = "file:stories.txt"
licence = "CC-BY-SA-4.0"
weight = 2.0
[[data.text]]
source = "file:lines.txt"
format = "lines"
licence = "own"
[pretrain]
budget = "1536 tokens"
objective = "ul2"
switch_tokens = 768
row_tokens = 64
batch_tokens = 256
optimizer = "adafactor"
schedule = "inverse_sqrt"
keep_checkpoints = 2
validations = 2
[losses]
output_z = 1e-4
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    job = write_job(folder, budget="3 steps")
    asked = [f"There was a farm with {words} and no more." for words, _ in counted_animals(400, seed=1)]
    (folder / "stories.txt").write_text("\n\n".join("\n".join(asked[i : i + 3]) for i in range(0, 300, 3)))
    (folder / "lines.txt").write_text("\n".join(asked[300:]))
    description = (job / "job.toml").read_text().replace("[data.split]", "[data.split]\nleak_sides = 'input'")
    (job / "job.toml").write_text(description.replace("test_rows = 40", "test_rows = 20") + TEXT)
    run = tmp_path_factory.mktemp("run")
    build(load_job(job), run)
    return job, run


def test_a_build_pretrains_before_it_trains(built):
    _, run = built
    facts = read_json(run / "pretrain" / "manifest.json")["result"]
    assert facts["steps"] == 6 and facts["peak_lr"] == 1e-2
    assert [point["steps"] for point in facts["curve"]] == [0, 3, 6]
    assert set(facts["source_tokens"]) == {"stories.txt", "lines.txt"}
    inputs = read_json(run / "pretrain" / "manifest.json")["inputs"]
    assert inputs["weights"] == {"stories.txt": 2.0, "lines.txt": 1.0}, "rows are drawn by them"
    first = json.loads((run / "train" / "steps.jsonl").read_text().splitlines()[0])
    assert first["step"] == 0 and "output_z" in first
    assert (
        read_json(run / "train" / "manifest.json")["inputs"]["start"]
        == read_json(run / "pretrain" / "manifest.json")["key"]
    )


def test_models_on_the_way_are_whole_folders_and_the_last_is_the_result(built):
    _, run = built
    kept = sorted((run / "pretrain" / "kept").iterdir())
    assert [folder.name for folder in kept] == ["step-00000003", "step-00000006"]
    weights = [load(folder).model.state_dict() for folder in (*kept, run / "pretrain" / "model")]
    assert all(weights[1][name].equal(weights[2][name]) for name in weights[1])
    assert any(not weights[0][name].equal(weights[1][name]) for name in weights[0])
    assert AutoModelForCausalLM.from_pretrained(kept[0]).config.bos_token_id == 2
    left = {path.name for path in (run / "pretrain").iterdir()}
    assert left == {"manifest.json", "facts.json", "plan.json", "steps.jsonl", "kept", "model"}


def test_the_licence_of_the_text_is_in_what_is_passed_on(built):
    _, run = built
    card = (run / "export" / "README.md").read_text()
    assert "stories.txt | CC-BY-SA-4.0" in card
    assert any("CC-BY-SA-4.0" in line for line in read_json(run / "export" / "ledger.json")["shipping"]["terms"])
