"""What a changed description repeats: what depends on the change, and nothing else."""

import json
import shutil

import pytest
from builds import Built
from doubles import write_job

from metier.artifact import key_of, read_json
from metier.build import build
from metier.errors import RunError, SpecError
from metier.spec.load import load_job
from metier.steps import start
from metier.steps.outside import examine_outside
from metier.train import lora

SCRATCH = 'model = "scratch"\nvocabulary = 400\nhidden_size = 64\nlayers = 2\n'


@pytest.fixture(scope="module")
def first(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("again")
    job = write_job(folder / "job", budget="2 steps")
    text = (job / "job.toml").read_text()
    base = f'model = "{trained.folder}"\nlicence = "Apache-2.0"\n'
    (job / "job.toml").write_text(text.replace(SCRATCH, base).replace("peak_lr = 5e-3\n", ""))
    assert build(load_job(job), folder / "run").released
    return Built(job, folder / "run")


@pytest.fixture
def built(first, tmp_path):
    shutil.copytree(first.run, tmp_path / "run", copy_function=shutil.copy2)
    return Built(first.job, tmp_path / "run")


def test_another_licence_makes_the_papers_and_the_verdict_again_and_trains_nothing(built):
    verdict, repeated = built.again(('licence = "own"', 'licence = "unknown"\nattribution = "nobody knows"'))
    assert not verdict.released and verdict.reasons[0].startswith("licences: ")
    assert repeated == {"data", "files", "export"}
    assert "nobody knows" in (built.run / "export" / "README.md").read_text()
    verdict, repeated = built.again(('licence = "own"', 'licence = "CC-BY-4.0"'))
    assert verdict.released and repeated == {"data", "files", "export"}


def test_openmoes_settings_of_another_base_are_refused_before_anything_is_learned(built):
    with pytest.raises(SpecError, match=r"train\.dropout: models of type 'qwen3' have no such setting"):
        built.again(("[train]", "[train]\ndropout = 0.1"))


def test_another_licence_of_the_base_makes_the_papers_and_the_verdict_again_and_trains_nothing(built):
    verdict, repeated = built.again(("Apache-2.0", "unknown"))
    assert not verdict.released and verdict.reasons[0].startswith("licences: ")
    assert repeated == {"files", "export"}
    ledger = read_json(built.run / "export" / "ledger.json")
    assert ledger["base"]["licence"] == "unknown" and not ledger["shipping"]["allowed"]
    assert "licence unknown" in (built.run / "export" / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "failing", "wanted"),
    [
        (("file_mib = 5", "file_mib = 5\nram_mib = 1"), ["memory"], "at most 1 MiB"),
        (("must_beat = []", 'must_beat = ["base"]'), ["beats base"], "better than base"),
        (("parity_margin = 5.0", "parity_margin = 0.25"), [], "above -0.25"),  # the answers are the same
    ],
    ids=["limits", "must_beat", "margin"],
)
def test_what_a_job_demands_changes_the_verdict_and_asks_nobody_again(built, change, failing, wanted):
    verdict, repeated = built.again(change)
    assert [reason.partition(":")[0] for reason in verdict.reasons] == failing
    assert any(wanted in gate.wanted for gate in verdict.gates)
    assert repeated == {"export"}
    assert read_json(built.run / "export" / "verdict.json") == json.loads(json.dumps(verdict.to_json()))


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (("[train]\n", "[train]\npeak_lr = 6e-5\n"), set()),  # as by default
        (("context_tokens = 256", "context_tokens = 300"), {"export"}),  # the base has its own
        (("validation_rows = 40", "validation_rows = 30"), {"parity", "export"}),
        (("test_rows = 40", "test_rows = 30"), {"base", "exam", "export"}),
        (("max_answer_tokens = 16", "max_answer_tokens = 12"), {"parity", "base", "exam", "export"}),
        (('"2 steps"', '"3 steps"'), {"train", "files", "parity", "exam", "export"}),
    ],
    ids=["rate", "context", "validation rows", "test rows", "answer tokens", "budget"],
)
def test_what_answers_depend_on_asks_those_again_that_it_is_about(built, change, wanted):
    _, repeated = built.again(change)
    assert repeated - wanted == set()
    assert wanted - repeated <= {"export"}, "a card says the same of the same answers"


def test_a_prompt_depends_on_the_exams_and_a_training_on_what_they_decide(first):
    steps = ("prompt", "data", "train", "base")
    prompt, data, train, base = (read_json(first.run / name / "manifest.json") for name in steps)
    exams = prompt["inputs"].pop("exams")
    assert exams == {name: data["files"][name] for name in ("validation.jsonl", "test.jsonl")}
    assert train["inputs"]["prompt"] == base["inputs"]["prompt"] == key_of(prompt["inputs"]) != prompt["key"]


def test_a_start_depends_on_what_it_uses_and_on_nothing_else(built):
    def key(*changes):
        return start.inputs(built.described(*changes))

    def scratch(*changes):
        return key((built.described().base.model, "scratch"), ('licence = "Apache-2.0"\n', ""), *changes)

    longer, limits = ("context_tokens = 256", "context_tokens = 300"), ("file_mib = 5", "file_mib = 4")
    no_file, other_file = ('["Q8_0"]', "[]"), ('["Q8_0"]', '["Q5_0"]')
    every = ("[train]\n", '[vocabulary]\npieces = "all"\n[train]\n')
    auto = ("[train]\n", '[vocabulary]\npieces = "auto"\n[train]\n')
    for change in (longer, limits, no_file, other_file, ("max_tokens = 64", "max_tokens = 60")):
        assert key() == key(change), change
    assert key(every) != key(every, no_file), "a base whose whole vocabulary stays is made anew for a file alone"
    assert key(auto) != key(auto, limits) and key(auto) != key(auto, other_file), (
        "the size of the file is in the choice"
    )
    assert scratch() != scratch(longer), "a model from scratch is made for so many tokens"
    assert scratch() == scratch(limits) == scratch(other_file)


def test_a_vocabulary_is_measured_again_for_another_limit_and_nothing_is_trained_where_the_same_is_chosen(
    built, tmp_path
):
    auto = ("[train]\n", '[vocabulary]\npieces = "auto"\n[train]\n')
    built.again(auto)
    _, repeated = built.again(auto, ("file_mib = 5", "file_mib = 4"))
    assert repeated == {"start", "export"}
    other = Built(shutil.copytree(built.job, tmp_path / "job"), built.run)
    rows = (other.job / "pairs.tsv").read_text()
    (other.job / "pairs.tsv").write_text(rows.replace("red", "crimson"))
    _, repeated = other.again(auto, ("file_mib = 5", "file_mib = 4"))
    assert {"data", "start", "train", "exam"} <= repeated, "another text is learned again, whatever pieces are kept"


def test_what_cannot_be_made_is_refused_before_any_training_although_the_start_is_there(built, monkeypatch):
    before = built.done()
    cut = ("[evaluate]", "[compress]\nlayers = [9]\n[evaluate]")
    with pytest.raises(SpecError, match=r"compress\.layers: 9 to drop, and the model has 2"):
        built.again(cut, ('"2 steps"', '"3 steps"'))
    with pytest.raises(SpecError, match=r"limits\.file_mib: 0\.01 MiB, but"):
        built.again(("file_mib = 5", "file_mib = 0.01"), ('"2 steps"', '"3 steps"'))
    missing = RunError("train.lora", "the package 'peft' is not installed", "Install it")
    monkeypatch.setattr(start, "load_peft", lambda: (_ for _ in ()).throw(missing))
    with pytest.raises(RunError, match="peft"):
        built.again(("[evaluate]", "[train.lora]\n[evaluate]"))
    assert built.done() == before and lora.load_peft is not start.load_peft


def test_an_exam_of_ones_own_asks_again_when_answers_may_be_of_another_length(built):
    rows = built.job / "pairs.tsv"

    def answers():
        return {folder.name: (folder / "base.jsonl").read_text() for folder in (built.run / "outside").iterdir()}

    examine_outside(built.described(), built.run, str(rows), 20)
    (long,) = answers().values()
    examine_outside(built.described(("file_mib = 5", "file_mib = 4")), built.run, str(rows), 20)
    assert list(answers().values()) == [long]
    examine_outside(built.described(("max_answer_tokens = 16", "max_answer_tokens = 1")), built.run, str(rows), 20)
    (short,) = set(answers().values()) - {long}
    assert len(short) < len(long)


def test_a_base_that_changed_under_its_name_is_begun_with_again(built, trained, tmp_path):
    base = shutil.copytree(trained.folder, tmp_path / "base")
    job = built.described((str(trained.folder), str(base)))
    before = start.inputs(job)
    assert start.inputs(job) == before
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert start.inputs(job) != before
