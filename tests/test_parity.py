"""The gate: what is the same model passes, and every planted difference is caught."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from doubles import of_any_architecture

from metier.data.records import write_records
from metier.errors import ArtifactError
from metier.evaluate.significance import Comparison
from metier.export import gguf as export_gguf
from metier.export.decided import decided_tokens
from metier.export.parity import Walk, exam_passed, walk
from metier.model import gguf_names, load
from metier.model.architectures import ARCHITECTURES, Architecture
from metier.run.engine import Engine
from metier.spec.job import Job
from metier.steps import exam, parity, ship
from metier.tokenizer.sentencepiece import SentencePieces
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
    monkeypatch.setattr(exam, "Engine", partial(Engine, threads=1))
    monkeypatch.setenv("OMP_THREAD_LIMIT", "1")  # of the processes that answer apart


def gated(trained, data, folder, prompt=None):
    """Write the files (with ``prompt`` in their template) and put them through the gate."""
    files, answers = folder / "files", folder / "parity"
    files.mkdir()
    answers.mkdir()
    models = {ship.WHOLE: trained.folder}
    sizes = ship.write_files(JOB, models, prompt or trained.prompt, "own", files)["file_mib"]
    return parity.judged(JOB, parity.gate(JOB, data, models, trained.prompt, files, answers), sizes)


def passed(found):
    return {name: candidate["passed"] for name, candidate in found["candidates"].items()}


@pytest.mark.parametrize("kind", ["dense", "moe", "gemma"])
def test_f16_and_q8_0_of_the_same_model_pass(taught, data, tmp_path, kind):
    found = gated(taught(kind), data, tmp_path)
    assert passed(found) == {"F16": True, "Q8_0": True}
    assert found["chosen"] == "Q8_0"
    assert found["walks"][ship.WHOLE]["positions"] > 80


def changed(patch, change):
    """Let ``change`` see every weight, by its name in the checkpoint, before it is written."""
    right = export_gguf.to_gguf
    patch.setattr(export_gguf, "to_gguf", lambda name, weight, *rest: right(name, change(name, weight), *rest))


def embedding_shifted(patch):
    """Every piece gets the row of its neighbour."""
    changed(patch, lambda name, weight: weight.roll(1, 0) if name.endswith("embed_tokens.weight") else weight)


def texts_shifted(patch):
    """Every piece learned from text gets the text of its neighbour."""
    right = export_gguf._add_vocabulary

    def add(writer, pieces):
        learned = pieces.texts[260:]
        right(writer, replace(pieces, texts=[*pieces.texts[:260], *learned[1:], learned[0]]))

    patch.setattr(export_gguf, "_add_vocabulary", add)


def norms_without_the_one(patch):
    patch.setattr(export_gguf, "to_gguf", lambda name, weight, *_: [weight])


def one_norm_forgotten(patch):
    changed(patch, lambda name, weight: weight - 1 if name.endswith("layers.3.self_attn.q_norm.weight") else weight)


def rotation_of_another_base(patch):
    right = Architecture.settings
    patch.setattr(Architecture, "settings", lambda *args: right(*args) | {"rope.freq_base": 3.0})


def names_exchanged(patch, one, other):
    """Give each of two kinds of tensor the other's name."""
    right = export_gguf.gguf_names
    swap = {one: other, other: one}

    def names(*args):
        return {
            ours: [next((name.replace(a, b) for a, b in swap.items() if a in name), name) for name in theirs]
            for ours, theirs in right(*args).items()
        }

    patch.setattr(export_gguf, "gguf_names", names)


def key_and_value_exchanged(patch):
    names_exchanged(patch, "attn_k.weight", "attn_v.weight")


def gate_and_up_exchanged(patch):
    """The halves of the fused matrices."""
    names_exchanged(patch, "ffn_gate_exps", "ffn_up_exps")


def two_experts_exchanged(patch):
    """In every layer, behind the router's back."""

    def swap(name, weight):
        return weight[[1, 0, *range(2, len(weight))]] if "mlp.experts" in name else weight

    changed(patch, swap)


def two_experts_of_one_layer_exchanged(patch):
    def swap(name, weight):
        return weight[[1, 0, *range(2, len(weight))]] if "layers.1.mlp.experts" in name else weight

    changed(patch, swap)


def router_shuffled(patch):
    changed(patch, lambda name, weight: weight.roll(1, 0) if name.endswith("mlp.gate.weight") else weight)


def router_read_by_columns(patch):
    """Transposed, and put back into its shape."""

    def transpose(name, weight):
        return weight.T.reshape(weight.shape) if name.endswith("mlp.gate.weight") else weight

    changed(patch, transpose)


def one_expert_too_few(patch):
    right = Architecture.settings
    patch.setattr(Architecture, "settings", lambda *args: right(*args) | {"expert_used_count": 1})


GEMMA = (embedding_shifted, texts_shifted, norms_without_the_one)
MIXTURE = (two_experts_exchanged, two_experts_of_one_layer_exchanged, gate_and_up_exchanged, router_shuffled)


@pytest.mark.parametrize(
    ("kind", "fault"),
    [("gemma", fault) for fault in GEMMA] + [("moe", fault) for fault in MIXTURE],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_file_with_a_planted_fault_does_not_pass(taught, data, tmp_path, kind, fault):
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        found = gated(taught(kind), data, tmp_path)
    assert passed(found) == {"F16": False, "Q8_0": False}


def test_a_file_that_cuts_text_otherwise_does_not_pass_and_the_text_is_named(
    trained, data, tmp_path, capsys, monkeypatch
):
    right = SentencePieces._own_metadata
    monkeypatch.setattr(SentencePieces, "_own_metadata", lambda self: right(self) | {"add_space_prefix": True})
    found = gated(trained, data, tmp_path)
    walk = found["walks"][ship.WHOLE]
    assert walk["agreement"] >= 0.995 and not walk["passed"]
    assert passed(found) == {"F16": False, "Q8_0": False}
    assert f"prompts otherwise, such as {walk['cut_otherwise'][0]!r:.200}" in capsys.readouterr().err


def walked(trained, model, folder):
    random = torch.Generator().manual_seed(6)
    ids = torch.randint(260, len(trained.tokenizer), (3, 40), generator=random).tolist()
    path = folder / "loud.gguf"
    export_gguf.write_gguf(
        path, model, trained.tokenizer, "F16", name="loud", licence="own", prompt=trained.prompt, task={}
    )
    with Engine(path, threads=1) as engine:
        return walk(engine, decided_tokens(model, [Example([2, *row[:10]], row[10:]) for row in ids]))


@pytest.mark.parametrize(
    ("name", "tied"),
    [(name, tied) for name in ARCHITECTURES for tied in (True, False) if tied or name != "gemma3_text"],
)
def test_a_loud_random_model_of_every_architecture_passes_the_walk_and_is_read_back(trained, tmp_path, name, tied):
    model = of_any_architecture(name, len(trained.tokenizer), tied)
    found = walked(trained, model, tmp_path)
    assert found.passed, found
    assert found.positions > 60
    again = load(tmp_path / "loud.gguf").model
    for one, other in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert one[0] == other[0]
        assert torch.allclose(one[1], other[1], rtol=1e-3, atol=1e-6), one[0]


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("gemma3_text", embedding_shifted),
        ("gemma3_text", norms_without_the_one),
        ("gemma3_text", one_norm_forgotten),
        ("gemma3_text", rotation_of_another_base),
        ("gemma3_text", key_and_value_exchanged),
        ("qwen3_moe", gate_and_up_exchanged),
        ("qwen3_moe", two_experts_exchanged),
        ("qwen3_moe", two_experts_of_one_layer_exchanged),
        ("qwen3_moe", router_shuffled),
        ("qwen3_moe", router_read_by_columns),
        ("qwen3_moe", one_expert_too_few),
        ("olmoe", two_experts_exchanged),
        ("llama", rotation_of_another_base),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_the_walk_sees_what_is_planted(trained, tmp_path, name, fault):
    model = of_any_architecture(name, len(trained.tokenizer), tied=True)
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        found = walked(trained, model, tmp_path)
        assert not found.passed, found


@pytest.mark.parametrize("name", ["llama", "mistral", "mixtral"])
def test_a_rotation_by_halves_where_llama_cpp_rotates_neighbours_is_seen(trained, tmp_path, monkeypatch, name):
    model = of_any_architecture(name, len(trained.tokenizer), tied=True)
    monkeypatch.setitem(gguf_names._ROTATED, "q_proj.weight", "no_such_attribute")
    assert not walked(trained, model, tmp_path).passed


def scaled(pieces, original):
    """A loud Llama whose rotation is scaled from a context so short that it counts at once."""
    model = of_any_architecture("llama", pieces, tied=True)
    rope = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = type(model.config).from_dict(
        model.config.to_dict() | {"rope_parameters": rope | {"original_max_position_embeddings": original}}
    )
    again = type(model)(config).eval()
    again.load_state_dict(model.state_dict())
    return again


def test_a_scaled_rotation_is_the_same_in_llama_cpp(trained, tmp_path, monkeypatch):
    model = scaled(len(trained.tokenizer), 32)
    assert walked(trained, model, tmp_path).passed
    with pytest.raises(ArtifactError, match="in a way that no released Llama has"):
        load(tmp_path / "loud.gguf")
    monkeypatch.setattr(export_gguf, "is_scaled", lambda _: False)
    assert not walked(trained, model, tmp_path).passed


def test_the_scaled_rotation_of_a_released_llama_is_read_back(trained, tmp_path):
    model = scaled(len(trained.tokenizer), 8192)
    walked(trained, model, tmp_path)
    assert load(tmp_path / "loud.gguf").model.config.rope_parameters == model.config.rope_parameters


@pytest.mark.parametrize("change", [{"before": "Input: "}, {"after": ""}], ids=str)
def test_a_broken_template_is_caught_by_the_exam_where_the_walk_sees_nothing(trained, data, tmp_path, change):
    found = gated(trained, data, tmp_path, replace(trained.prompt, **change))
    assert found["walks"][ship.WHOLE]["passed"]
    assert passed(found) == {"F16": False, "Q8_0": False}


def test_an_embedding_without_its_last_rows_is_refused(trained, data, tmp_path, monkeypatch):
    changed(monkeypatch, lambda name, weight: weight[:-5] if name.endswith("embed_tokens.weight") else weight)
    with pytest.raises(ArtifactError, match=r"llama\.cpp cannot load it"):
        gated(trained, data, tmp_path)


def test_what_fails_the_gate_is_not_released_and_parity_is_named(trained, data, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        embedding_shifted(patch)
        found = gated(trained, data, tmp_path)
    shipping = {"allowed": True, "terms": ["own"], "reasons": []}
    prompts = {"prompt": trained.prompt.to_json(), "base_prompt": None}
    chosen = ship.gguf_path(tmp_path / "files", JOB, found["chosen"])
    examined = exam.examine(JOB, data, chosen, prompts, None, None, tmp_path)
    verdict = exam.judge(JOB, 1.0, json.loads(json.dumps(examined)), None, found, shipping, {})
    assert verdict.released is False
    assert any(reason.startswith("parity") for reason in verdict.reasons)


def test_the_exam_reads_what_the_file_was_asked_with_its_likelihood_and_asks_nothing(trained, data, tmp_path):
    (tmp_path / "files").mkdir()
    ship.write_files(JOB, {ship.WHOLE: trained.folder}, trained.prompt, "own", tmp_path / "files")
    rows = exam.exam_in(JOB, data).rows
    kept = [{"input": row.input, "output": row.output, "answer": row.output, "logprob": -1.0} for row in rows]
    (tmp_path / "sure").mkdir()
    before = "".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in kept)
    (tmp_path / "sure" / exam.TEST).write_text(before)
    file = ship.gguf_path(tmp_path / "files", JOB, "F16")
    prompts = {"prompt": trained.prompt.to_json(), "base_prompt": None}
    found = exam.examine(JOB, data, file, prompts, None, tmp_path / "sure", tmp_path)
    assert found["contestant"]["scores"][0]["value"] == 100
    assert (tmp_path / "sure" / exam.TEST).read_text() == before and not (tmp_path / exam.OURS).exists()


def test_decided_positions_are_the_checkpoints_own_choices(trained):
    examples = encode(trained.tokenizer, trained.prompt, trained.held_out[:3], 64)
    decided = decided_tokens(trained.model, examples)
    assert 0 < len(decided) <= sum(len(example.answer) for example in examples)
    for ids, token, logprob in decided:
        with torch.no_grad():
            logits = trained.model(torch.tensor([ids])).logits[0, -1]
        assert int(logits.argmax()) == token
        assert logits.log_softmax(-1)[token].item() == pytest.approx(logprob, abs=1e-4)
        best, second = logits.log_softmax(-1).topk(2).values
        assert best - second > 0.05


def test_an_undecided_checkpoint_names_nothing(trained):
    model = type(trained.model)(trained.model.config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    examples = encode(trained.tokenizer, trained.prompt, trained.held_out[:3], 64)
    assert decided_tokens(model.eval(), examples) == []
    assert not Walk(0, 0, 0.0).passed


def test_the_walk_passes_from_995_in_1000_that_are_as_likely():
    assert Walk(1000, 995, 0.02).passed
    assert not Walk(1000, 994, 0.0).passed
    assert not Walk(1000, 1000, 0.021).passed


@pytest.mark.parametrize(("low", "wanted"), [(-0.5, False), (-0.49, True), (0.2, True), (-3.0, False)])
def test_the_exam_passes_above_minus_the_margin(low, wanted):
    found = Comparison(metric="chrf2", difference=0.1, low=low, high=0.5, p=0.5, n=20, resamples=1000)
    assert exam_passed(found, 0.5) is wanted
