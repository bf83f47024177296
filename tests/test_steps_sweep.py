"""The sweep beside the checkpoint: cuts are healed and go on after a kill, and what llama.cpp cannot run is told."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from doubles import counted_animals, tiny_gguf

from metier import artifact
from metier.artifact import read_json, run_step, sha256_file
from metier.data.records import Record, write_records
from metier.errors import ArtifactError, RunError, SpecError
from metier.evaluate.answers import read_answers
from metier.evaluate.candidates import Candidate
from metier.export.huggingface import write_folder
from metier.model.loading import load, load_model, padding
from metier.model.scratch import scratch
from metier.spec.job import Job
from metier.steps import answering, compress, parity, ship, training_folder
from metier.steps.exam import Exam
from metier.train import loop
from metier.train.batches import collate, encode
from metier.train.objective import batch_loss, divergence, mean_loss

DESCRIPTION = {
    "name": "animals",
    "task": "text2text",
    "base": {"model": "scratch"},
    "data": {"train": [{"source": "file:none.tsv", "licence": "own"}]},
    "train": {"budget": "1 steps", "batch_tokens": 600, "max_tokens": 64, "peak_lr": 5e-3},
    "evaluate": {"validation_rows": 40, "test_rows": 20, "max_answer_tokens": 16},
    "export": {"quantisations": ["Q8_0", "Q4_1"]},
    "release": {"must_beat": []},
}


def job(**tables):
    return Job.model_validate({**DESCRIPTION, **tables})


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    monkeypatch.setenv("OMP_THREAD_LIMIT", "1")


@pytest.fixture(scope="module")
def data(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_records(folder / "train.jsonl", [Record(*pair) for pair in counted_animals(1400)[:1300]])
    write_records(folder / "validation.jsonl", trained.held_out[:40])
    return folder


def swept(job, data, models, prompt, folder):
    for name in ("files", "parity"):
        (folder / name).mkdir()
    sizes = ship.write_files(job, models, prompt, "own", folder / "files")["file_mib"]

    def gate():
        found = parity.gate(job, data, models, prompt, folder / "files", folder / "parity")
        judged = parity.judged(job, json.loads(json.dumps(found)), sizes)
        parity.write_sweep(judged, folder)
        return judged

    return gate


def interrupt(*_, **__):
    raise KeyboardInterrupt


def states(found):
    return {name: one["failed"] or one["passed"] for name, one in found["candidates"].items()}


def test_a_file_that_cannot_be_loaded_is_told_as_failed_and_the_others_go_on(trained, data, tmp_path):
    gate = swept(job(), data, {ship.WHOLE: trained.folder}, trained.prompt, tmp_path)
    file = tmp_path / "files" / "animals-Q4_1.gguf"
    file.write_bytes(file.read_bytes()[:-100_000])
    found = gate()
    assert states(found)["Q8_0"] is True and "cut short" in states(found)["Q4_1"]
    assert found["chosen"] == "Q8_0"
    assert read_json(tmp_path / "sweep.json") == json.loads(json.dumps(found))
    assert (tmp_path / "sweep.svg").stat().st_size > 2000
    best = Candidate.from_json(found["candidates"]["Q8_0"])
    assert best.ram_mib > 10 and best.tokens_per_s > 1 and best.score.n == best.comparison.n == 40


def test_intervals_of_checkpoint_and_file_count_rows_about_one_subject_together(trained, tmp_path, monkeypatch):
    rows = [Record(row.input, "wrong" if at % 4 else row.output) for at, row in enumerate(trained.held_out[:40])]
    write_records(tmp_path / "validation.jsonl", rows)
    subjects = [f"subject {at % 4}" for at in range(len(rows))]
    monkeypatch.setattr(parity, "exam_of", lambda job, path, first: Exam(rows[:first], subjects[:first]))
    described = job(export={"quantisations": ["F16"]})
    found = swept(described, tmp_path, {ship.WHOLE: trained.folder}, trained.prompt, tmp_path)()
    one, other = (read_answers(tmp_path / "parity" / f"{name}.jsonl") for name in ("checkpoint", "F16"))
    assert one == other, "the double is decided"
    assert found["checkpoint"] == found["candidates"]["F16"]["score"]


def test_another_margin_other_limits_and_preferences_measure_nothing_again(trained, data, tmp_path, monkeypatch):
    swept(job(), data, {ship.WHOLE: trained.folder}, trained.prompt, tmp_path)()
    found = parity.gate(job(), data, {ship.WHOLE: trained.folder}, trained.prompt, tmp_path / "files", tmp_path)
    for one, speed, low in zip(found["candidates"].values(), (20.0, 10.0), (-0.1, -0.3), strict=True):
        assert "passed" not in one and "file_mib" not in one, "a verdict is no measurement"
        one |= {"tokens_per_s": speed, "comparison": one["comparison"] | {"low": low}}
    sizes = {"Q8_0": 3.0, "Q4_1": 2.0}
    plots = set()
    for tables, wanted in (
        ({}, "Q4_1"),
        ({"compress": {"prefer": "speed"}}, "Q8_0"),
        ({"compress": {"prefer": "speed"}, "limits": {"file_mib": 2.5}}, "Q4_1"),
        ({"limits": {"ram_mib": 1.0}}, "Q4_1"),
        ({"release": {"must_beat": [], "parity_margin": 0.2}}, "Q8_0"),
        ({"release": {"must_beat": [], "parity_margin": 0.05}}, "Q8_0"),
    ):
        again = parity.judged(job(**tables), found, sizes)
        parity.write_sweep(again, tmp_path)
        assert again["chosen"] == wanted and again == read_json(tmp_path / "sweep.json")
        assert {name: one["file_mib"] for name, one in again["candidates"].items()} == sizes
        margin = again["parity_margin"]
        assert {name: one["passed"] for name, one in again["candidates"].items()} == {
            "Q8_0": margin > 0.1,
            "Q4_1": margin > 0.3,
        }
        plots.add((tmp_path / "sweep.svg").read_text())
    assert len(plots) == 4
    after, before = (tmp_path / "sweep.svg").read_text(), parity.judged(job(), found, sizes)
    parity.write_sweep(before, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(parity, "draw_frontier", interrupt)
        with pytest.raises(KeyboardInterrupt):
            parity.write_sweep(again, tmp_path)
    parity.write_sweep(again, tmp_path)
    assert (tmp_path / "sweep.svg").read_text() == after, "a kill before the plot is drawn leaves no older one"
    none = {"metric": None, "walks": {}, "checkpoint": None, "candidates": {}}
    assert parity.judged(job(), none, {})["chosen"] is None


def test_a_crash_of_llama_cpp_ends_the_candidate_and_not_the_build(trained, data, tmp_path, monkeypatch):
    right = parity.ask_apart
    die = "import os, signal; os.kill(os.getpid(), signal.SIGABRT)"

    def crash_on_some(asked):
        with pytest.MonkeyPatch.context() as patch:
            if asked.model.endswith("Q4_1.gguf"):
                patch.setattr(answering, "_COMMAND", (sys.executable, "-c", die))
            return right(asked)

    monkeypatch.setattr(parity, "ask_apart", crash_on_some)
    gate = swept(job(), data, {ship.WHOLE: trained.folder}, trained.prompt, tmp_path)
    found = gate()
    assert states(found) == {"Q8_0": True, "Q4_1": f"llama.cpp ended the process with {signal.Signals.SIGABRT.name}"}


def test_when_llama_cpp_can_run_no_file_the_gate_ends_with_what_it_said(trained, data, tmp_path):
    only = job(export={"quantisations": ["Q4_1"]})
    gate = swept(only, data, {ship.WHOLE: trained.folder}, trained.prompt, tmp_path)
    (tmp_path / "files" / "animals-Q4_1.gguf").write_bytes(b"GGUF")
    with pytest.raises(ArtifactError, match="answers with none of the files"):
        gate()


def test_a_full_disk_is_no_fault_of_the_candidate(trained, data, tmp_path, monkeypatch):
    told = json.dumps({"error": ["answers.jsonl", "the answers cannot be kept (no space)", "Make room"]})
    command = (sys.executable, "-c", f"print('a library says hello'); print({told!r})")
    monkeypatch.setattr(answering, "_COMMAND", command)
    asked = answering.Asked("a.gguf", "rows.jsonl", 1, "answers.jsonl", 16, 1024, (), ())
    with pytest.raises(RunError, match="answers cannot be kept"):
        answering.ask_apart(asked)


def test_a_process_that_answers_ends_with_the_one_that_asked(tmp_path):
    write_records(tmp_path / "rows.jsonl", [Record(f"question {n}", "") for n in range(1000)])
    model = str(tiny_gguf(tmp_path / "tiny.gguf"))
    asked = answering.Asked(model, str(tmp_path / "rows.jsonl"), 1000, str(tmp_path / "a.jsonl"), 200, 1024, (), ())
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(answering._COMMAND, text=True, **pipes)
    told, said = process.communicate(json.dumps(asdict(asked)) + "\n")
    assert process.returncode == 1 and told == "" and "Error" not in said
    answers = tmp_path / "a.jsonl"
    assert not answers.exists() or answers.read_text().count("\n") < 1000


def test_a_killed_gate_goes_on_behind_the_files_that_were_measured(trained, data, tmp_path, monkeypatch):
    gate = swept(job(), data, {ship.WHOLE: trained.folder}, trained.prompt, tmp_path)
    right, asked = parity.ask_apart, []

    def ask_twice_at_most(one):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(one)
        return right(one)

    monkeypatch.setattr(parity, "ask_apart", ask_twice_at_most)
    with pytest.raises(KeyboardInterrupt):
        gate()
    rest = []
    monkeypatch.setattr(parity, "load_fast", lambda _: pytest.fail("loaded a model that has nothing left to say"))
    monkeypatch.setattr(parity, "ask_apart", lambda one: (rest.append(one), right(one))[1])
    found = gate()
    assert states(found)["Q8_0"] is True and states(found)["Q4_1"] in (True, False), "measured, whatever came of it"
    assert [one.model.rpartition("-")[2] for one in (*asked, *rest)] == ["F16.gguf", "Q8_0.gguf", "Q4_1.gguf"]


CUTS = {"layers": [0, 1], "feed_forward": [1.0, 0.5], "heal": "30 steps"}


@pytest.fixture(scope="module")
def cut(trained, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compress")
    wanted = job(compress=CUTS)
    return wanted, folder, compress.compress_job(wanted, data, trained.folder, trained.prompt, folder)


def test_every_cut_is_smaller_and_learns_what_it_lost(cut, trained):
    _, folder, facts = cut
    assert list(facts) == ["ff50", "drop1", "drop1-ff50"]
    assert facts["drop1-ff50"]["feed_forward_size"] == 128 and len(facts["drop1-ff50"]["layers_dropped"]) == 1
    for name, found in facts.items():
        model, tokenizer = load(folder / name / "model")
        assert model.num_parameters() == found["parameters"] < trained.model.num_parameters()
        assert tokenizer.chat_template == trained.prompt.chat_template()
        losses = found["healing"]["validation_loss_nats"]
        assert losses["30"] < losses["0"] * (0.5 if name.startswith("drop") else 1)
        assert {path.name for path in (folder / name).iterdir()} == {
            *("model", "cut.json", "facts.json", "plan.json", "steps.jsonl")
        }


def test_cuts_that_are_done_are_not_done_again_and_need_no_room(cut, trained, data, tmp_path, monkeypatch):
    wanted, folder, facts = cut
    monkeypatch.setattr(compress, "train", lambda *_, **__: pytest.fail("healed again"))
    monkeypatch.setattr(training_folder.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    again = compress.compress_job(wanted, data, trained.folder, trained.prompt, folder)
    assert again == json.loads(json.dumps(facts))
    with pytest.raises(RunError, match="0 MiB free, training needs about"):
        compress.compress_job(wanted, data, trained.folder, trained.prompt, tmp_path)


@pytest.mark.parametrize(
    ("change", "healed"),
    [
        ({"feed_forward": [1.0, 0.5, 0.25]}, ["ff25", "drop1-ff25"]),
        ({"layers": [1], "feed_forward": [1.0]}, []),
        ({"heal": "31 steps"}, ["ff50", "drop1", "drop1-ff50"]),
    ],
    ids=["more", "fewer", "healed otherwise"],
)
def test_other_cuts_of_the_same_model_leave_those_that_are_done(
    cut, trained, data, tmp_path, monkeypatch, change, healed
):
    _, folder, facts = cut
    found = []

    def heal(*asked):
        found.append(asked[-2].name)
        return {"healed": "anew"}, lambda part: part.mkdir(parents=True)

    def step(work, **changes):
        asked = job(compress=CUTS | changes)
        inputs = {"compress": asked.compress.model_dump(exclude={"prefer"}), "train": "its key"}
        return run_step(tmp_path / "compress", inputs, lambda place: work(asked, place), aside=True)

    monkeypatch.setattr(artifact, "LONG_S", 0)
    monkeypatch.setattr(compress, "_heal", heal)
    step(lambda _, place: shutil.copytree(folder, place, dirs_exist_ok=True) and facts)
    given = (data, trained.folder, trained.prompt)
    made = step(lambda asked, place: compress.compress_job(asked, *given, place), **change)
    assert found == healed
    for name in made.result.keys() - {*healed}:
        assert made.result[name] == json.loads(json.dumps(facts[name]))
        assert {one: made.hashes[one] for one in made.hashes if one.startswith(f"{name}/")} == {
            f"{name}/{one.relative_to(folder / name)}": sha256_file(one)
            for one in (folder / name).rglob("*")
            if one.is_file()
        }
    taken = (tmp_path / "compress" / "layers.json").exists()
    assert taken is ("heal" not in change), "how layers were found is as good as it was"


def test_a_healing_without_room_for_a_step_names_its_own_key(trained, data, tmp_path):
    short = job(compress=CUTS | {"heal": "0.001s"})
    with pytest.raises(SpecError, match=r"compress\.heal: 0\.001s has no room for a step"):
        compress.compress_job(short, data, trained.folder, trained.prompt, tmp_path)
    keys = [compress._Healing().key(name) for name in ("budget", "peak_lr", "precision")]
    assert keys == ["compress.heal", "compress.peak_lr", "train.precision"]


def test_the_whole_model_is_on_the_accelerator_before_any_loss_of_it_is_taken(trained, data, tmp_path, monkeypatch):
    moved = []

    def mean_loss(model, _):
        assert moved == ["qwen3"]
        raise KeyboardInterrupt

    monkeypatch.setattr(compress, "to_accelerator", lambda model: moved.append(model.config.model_type))
    monkeypatch.setattr(compress, "mean_loss", mean_loss)
    with pytest.raises(KeyboardInterrupt):
        compress.compress_job(job(compress={"layers": [1]}), data, trained.folder, trained.prompt, tmp_path)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_mixture_teaches_with_routers_in_float32_and_is_cut_as_before(trained, data, tmp_path, precision):
    pieces = len(trained.tokenizer)
    mixture = scratch(pieces, 64, 2, 64, 0, architecture="moe", experts=4, experts_per_token=2).eval()
    write_folder(tmp_path / "whole", mixture, trained.tokenizer, trained.prompt)
    described = job(train=DESCRIPTION["train"] | {"precision": precision}, compress={"layers": [1]})
    healer = compress._healer(described, data, tmp_path / "whole", trained.prompt, tmp_path)
    smaller, seen = healer.args[1], []
    teacher, batch = smaller.whole, smaller._batches(4)[0]
    router = teacher.get_decoder().layers[0].mlp.gate
    router.register_forward_hook(lambda _, __, out: seen.append((out[0] if isinstance(out, tuple) else out).dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        batch_loss(mixture, batch, teacher=teacher)
    assert seen == [torch.float32]
    cut, same = (compress.without_layers(one, [1]) for one in (teacher, mixture))
    assert mean_loss(cut, [batch]) == mean_loss(same, [batch])


def test_label_smoothing_is_said_to_have_no_part_in_healing(trained, data, tmp_path, capsys):
    smoothed = job(compress={"feed_forward": [0.5], "heal": "1 steps"}, losses={"label_smoothing": 0.1})
    compress.compress_job(smoothed, data, trained.folder, trained.prompt, tmp_path)
    assert "losses.label_smoothing has no part in healing" in capsys.readouterr().err


def test_the_channels_that_stay_are_better_than_as_many_others(cut, trained, data):
    wanted, _, _ = cut
    tokenizer, prompt = trained.tokenizer, trained.prompt
    examples = encode(tokenizer, prompt, [Record(*pair) for pair in counted_animals(300)], 64)
    smaller = compress._Smaller(wanted, trained.model, padding(tokenizer), examples, data)
    held_out = [collate(encode(tokenizer, prompt, trained.held_out, 64), 0)]
    best = mean_loss(smaller.make(wanted.compress.cuts[0])[0], held_out)
    width = trained.model.config.intermediate_size
    draw = torch.Generator().manual_seed(0)
    for _ in range(3):
        channels = [torch.randperm(width, generator=draw)[: width // 2].sort().values for _ in range(2)]
        assert best < mean_loss(compress.narrowed(trained.model, channels), held_out)


def test_a_rate_for_adapters_is_not_what_all_weights_are_healed_at():
    adapters = {"budget": "1 steps", "peak_lr": 2e-3, "lora": {"rank": 8}}
    base = {"model": "pypi:some-model"}
    found = [
        compress._peak(job(base=base, **tables))
        for tables in (
            {"train": adapters},
            {"train": adapters, "compress": {"peak_lr": 1e-4}},
            {"train": adapters | {"lora": None}},
        )
    ]
    assert found == pytest.approx([6e-5, 1e-4, 2e-3])


def test_a_stopped_healing_goes_on_to_the_same_weights(cut, trained, data, tmp_path, monkeypatch):
    wanted, folder, facts = cut
    often = wanted.model_copy(update={"train": wanted.train.model_copy(update={"checkpoint_seconds": 1e-6})})
    right, calls = loop._Run._step, []

    def step(self, number, batch):
        calls.append(number)
        if len(calls) == 50:  # in the second cut
            raise KeyboardInterrupt
        return right(self, number, batch)

    monkeypatch.setattr(loop._Run, "_step", step)
    with pytest.raises(KeyboardInterrupt):
        compress.compress_job(often, data, trained.folder, trained.prompt, tmp_path)
    found = compress.compress_job(often, data, trained.folder, trained.prompt, tmp_path)
    assert calls == [*range(30), *range(20), *range(19, 30), *range(30)]
    for name in facts:
        one, other = (load_model(where / name / "model").state_dict() for where in (folder, tmp_path))
        assert all(torch.equal(one[key], other[key]) for key in one), name
        assert found[name]["healing"]["validation_loss_nats"] == facts[name]["healing"]["validation_loss_nats"]


def test_files_of_cuts_walk_beside_their_own_checkpoint_and_are_examined_beside_the_whole_one(
    cut, trained, data, tmp_path
):
    wanted, folder, _ = cut
    models = {ship.WHOLE: trained.folder, "ff50": folder / "ff50" / "model"}
    found = swept(wanted, data, models, trained.prompt, tmp_path)()
    assert set(found["candidates"]) == {"Q8_0", "Q4_1", "ff50-Q8_0", "ff50-Q4_1"}
    assert {cut: walk["passed"] for cut, walk in found["walks"].items()} == {ship.WHOLE: True, "ff50": True}
    for one in map(Candidate.from_json, found["candidates"].values()):
        assert one.comparison.difference == pytest.approx(one.score.value - found["checkpoint"]["value"])
    sizes = {name: one["file_mib"] for name, one in found["candidates"].items()}
    assert sizes["ff50-Q8_0"] < sizes["Q8_0"] and sizes["ff50-Q4_1"] < sizes["Q4_1"]


def test_a_teachers_distribution_takes_the_place_of_the_targets(trained):
    examples = encode(trained.tokenizer, trained.prompt, trained.held_out[:8], 64)
    batch = collate(examples, 0)
    itself = batch_loss(trained.model, batch, teacher=trained.model)
    assert itself.total.item() == pytest.approx(0, abs=1e-6)
    assert itself.nats.item() == pytest.approx(batch_loss(trained.model, batch).nats.item())
    torch.manual_seed(0)
    student = type(trained.model)(trained.model.config)
    found = batch_loss(student, batch, teacher=trained.model)
    assert found.total.item() > 0.5
    found.total.backward()
    assert all(p.grad is None for p in trained.model.parameters())
    assert any(p.grad.abs().max() > 0 for p in student.parameters())


def test_the_divergence_is_that_of_the_distributions():
    one, other = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0], [3.0, 0.0, 0.0]])
    p, q = other.softmax(-1), one.softmax(-1)
    wanted = (p * (p / q).log()).sum(-1).mean()
    assert divergence(one, other, len(one)).item() == pytest.approx(wanted.item(), rel=1e-5)
    assert divergence(one + 7, other - 3, len(one)).item() == pytest.approx(wanted.item(), rel=1e-5)
