"""The gate: what is the same model passes, and every planted difference is caught."""

import json
from dataclasses import replace
from functools import partial

import gguf
import pytest
import torch

from metier.data.records import write_records
from metier.errors import ArtifactError
from metier.evaluate.significance import Comparison
from metier.export import gguf as export_gguf
from metier.export.parity import Walk, decided_tokens, exam_passed, walk
from metier.model.scratch import scratch
from metier.run.engine import Engine
from metier.spec.job import Job
from metier.steps import exam, ship
from metier.train.batches import Example, encode

JOB = Job.model_validate(
    {
        "name": "animals",
        "task": "text2text",
        "base": {"model": "scratch"},
        "data": {"train": [{"source": "file:none.tsv", "licence": "own"}]},
        "train": {"budget": "1 steps"},
        "evaluate": {"validation_rows": 20, "test_rows": 20, "max_answer_tokens": 16},
        "export": {"quantisations": ["F16", "Q8_0"]},
        "release": {"must_beat": []},
    }
)


@pytest.fixture(scope="module")
def data(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_records(folder / "validation.jsonl", trained.held_out[:40])
    write_records(folder / "test.jsonl", trained.held_out[40:60])
    return folder


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    for step in (ship, exam):
        monkeypatch.setattr(step, "Engine", partial(Engine, threads=1))


def gated(trained, data, folder, prompt=None):
    """Write the files (with ``prompt`` in their template) and put them through the gate."""
    files, parity = folder / "files", folder / "parity"
    files.mkdir()
    parity.mkdir()
    ship.write_files(JOB, trained.folder, prompt or trained.prompt, "own", files)
    return ship.gate(JOB, data, trained.folder, trained.prompt, files, parity)


def passed(found):
    return {quantisation: exam["passed"] for quantisation, exam in found["exams"].items()}


def test_f16_and_q8_0_of_the_same_model_pass(trained, data, tmp_path):
    found = gated(trained, data, tmp_path)
    assert passed(found) == {"F16": True, "Q8_0": True}
    assert found["chosen"] == "Q8_0"
    assert found["walk"]["positions"] > 80


def embedding_shifted(patch):
    """Every piece gets the row of its neighbour."""
    right = export_gguf.to_gguf
    patch.setattr(
        export_gguf, "to_gguf", lambda n, w: right(n, w.roll(1, 0) if n.endswith("embed_tokens.weight") else w)
    )


def texts_shifted(patch):
    """Every piece learned from text gets the text of its neighbour."""
    right = export_gguf._add_vocabulary

    def add(writer, pieces):
        learned = pieces.texts[260:]
        right(writer, replace(pieces, texts=[*pieces.texts[:260], *learned[1:], learned[0]]))

    patch.setattr(export_gguf, "_add_vocabulary", add)


def norms_without_the_one(patch):
    patch.setattr(export_gguf, "to_gguf", lambda name, weight: weight)


def one_norm_forgotten(patch):
    right = export_gguf.to_gguf
    patch.setattr(
        export_gguf, "to_gguf", lambda n, w: w if n.endswith("layers.3.self_attn.q_norm.weight") else right(n, w)
    )


def rotation_of_another_base(patch):
    add = gguf.GGUFWriter.add_rope_freq_base
    patch.setattr(gguf.GGUFWriter, "add_rope_freq_base", lambda writer, _: add(writer, 3.0))


def key_and_value_exchanged(patch):
    right = export_gguf.gguf_names

    def names(*args):
        found = right(*args)
        swap = {"attn_k.weight": "attn_v.weight", "attn_v.weight": "attn_k.weight"}
        return {
            ours: next((theirs.replace(a, b) for a, b in swap.items() if theirs.endswith(a)), theirs)
            for ours, theirs in found.items()
        }

    patch.setattr(export_gguf, "gguf_names", names)


@pytest.mark.parametrize(
    "fault", [embedding_shifted, texts_shifted, norms_without_the_one], ids=lambda fault: fault.__name__
)
def test_a_file_with_a_planted_fault_does_not_pass(trained, data, tmp_path, fault):
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        found = gated(trained, data, tmp_path)
    assert passed(found) == {"F16": False, "Q8_0": False}


@pytest.fixture(scope="module")
def loud(trained):
    """Random weights so large that every layer, head and norm counts; and examples of random ids."""
    model = scratch(len(trained.tokenizer), 64, 6, 512, seed=4)
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=random) * (0.1 if weight.dim() > 1 else 0.2))
    ids = torch.randint(260, len(trained.tokenizer), (3, 40), generator=random).tolist()
    return model.eval(), [Example([2, *row[:10]], row[10:]) for row in ids]


def walked(trained, loud, folder):
    model, examples = loud
    path = folder / "loud.gguf"
    export_gguf.write_gguf(
        path, model, trained.tokenizer, "F16", name="loud", licence="own", prompt=trained.prompt, task={}
    )
    with Engine(path, threads=1) as engine:
        return walk(engine, decided_tokens(model, examples))


def test_a_loud_random_model_passes_the_walk(trained, loud, tmp_path):
    found = walked(trained, loud, tmp_path)
    assert found.passed, found
    assert found.positions > 60


@pytest.mark.parametrize(
    "fault",
    [embedding_shifted, norms_without_the_one, one_norm_forgotten, rotation_of_another_base, key_and_value_exchanged],
    ids=lambda fault: fault.__name__,
)
def test_the_walk_sees_a_planted_fault(trained, loud, tmp_path, fault):
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        found = walked(trained, loud, tmp_path)
    assert not found.passed, found


@pytest.mark.parametrize("change", [{"before": "Input: "}, {"after": ""}], ids=str)
def test_a_broken_template_is_caught_by_the_exam_where_the_walk_sees_nothing(trained, data, tmp_path, change):
    found = gated(trained, data, tmp_path, replace(trained.prompt, **change))
    assert found["walk"]["passed"]
    assert passed(found) == {"F16": False, "Q8_0": False}


def test_an_embedding_without_its_last_rows_is_refused(trained, data, tmp_path, monkeypatch):
    right = export_gguf.to_gguf
    monkeypatch.setattr(
        export_gguf, "to_gguf", lambda n, w: right(n, w[:-5] if n.endswith("embed_tokens.weight") else w)
    )
    with pytest.raises(ArtifactError, match=r"llama\.cpp cannot load it"):
        gated(trained, data, tmp_path)


def test_what_fails_the_gate_is_not_released_and_parity_is_named(trained, data, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        norms_without_the_one(patch)
        found = gated(trained, data, tmp_path)
    shipping = {"allowed": True, "terms": ["own"], "reasons": []}
    prompts = {"prompt": trained.prompt.to_json(), "base_prompt": None}
    verdict = exam.examine(JOB, data, tmp_path / "files", found, prompts, shipping, tmp_path)
    assert verdict["released"] is False
    assert "parity" in json.dumps(verdict["reasons"]).lower()


def test_the_smallest_passing_file_that_fits_is_chosen():
    exams = {
        "F16": {"file_mib": 4.0, "passed": True},
        "Q8_0": {"file_mib": 2.0, "passed": True},
        "Q5_1": {"file_mib": 1.5, "passed": False},
    }
    assert ship._choice(JOB, exams) == "Q8_0"
    tight = JOB.model_copy(update={"limits": JOB.limits.model_copy(update={"file_mib": 1.8})})
    assert ship._choice(tight, exams) == "Q5_1"


def test_decided_positions_are_the_checkpoints_own_choices(trained):
    examples = encode(trained.tokenizer, trained.prompt, trained.held_out[:3], 64)
    decided = decided_tokens(trained.model, examples)
    assert 0 < len(decided) <= sum(len(example.answer) for example in examples)
    for ids, token in decided:
        with torch.no_grad():
            logits = trained.model(torch.tensor([ids])).logits[0, -1]
        assert int(logits.argmax()) == token
        best, second = logits.log_softmax(-1).topk(2).values
        assert best - second > 0.05


def test_an_undecided_checkpoint_names_nothing(trained):
    model = type(trained.model)(trained.model.config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    examples = encode(trained.tokenizer, trained.prompt, trained.held_out[:3], 64)
    assert decided_tokens(model.eval(), examples) == []
    assert not Walk(0, 0).passed


def test_the_walk_passes_from_995_in_1000():
    assert Walk(1000, 995).passed
    assert not Walk(1000, 994).passed


@pytest.mark.parametrize(("low", "wanted"), [(-0.5, False), (-0.49, True), (0.2, True), (-3.0, False)])
def test_the_exam_passes_above_minus_the_margin(low, wanted):
    found = Comparison(metric="chrf2", difference=0.1, low=low, high=0.5, p=0.5, n=20, resamples=1000)
    assert exam_passed(found, 0.5) is wanted
