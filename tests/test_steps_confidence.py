"""The step asks once, goes on where it was killed, and another risk asks nobody."""

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from doubles import tiny_gguf
from fabricated import UNKNOWN, exam

from metier import build
from metier.artifact import run_step, write_json
from metier.data.facts.build import build_store
from metier.data.questions.about import About, Form, about_path, read_about, write_about
from metier.data.records import Record, read_records, write_records
from metier.errors import DataError
from metier.evaluate.answers import Answer
from metier.evaluate.confidence import Asked, asked, knowledge_of
from metier.evaluate.verdict import Contestant
from metier.export.parity import Walk
from metier.facts.confidence import Calibration
from metier.run.engine import Engine
from metier.spec.facts import FactSource
from metier.spec.job import Job
from metier.steps import bundle, confidence, parity, rivals
from metier.steps import exam as exam_step
from metier.steps.answering import Told
from metier.steps.run_folder import Steps
from metier.steps.ship import File
from metier.tasks.prompt import PromptFormat

JOB = {
    "name": "history",
    "task": "qa",
    "base": {"model": "scratch"},
    "data": {"facts": [{"source": "file:facts.csv", "format": "csv", "licence": "own"}]},
    "evaluate": {"test_rows": 40, "max_answer_tokens": 6},
    "release": {"must_beat": []},
}
EXAMS = ("validation", "validation_unknown", "test", "test_unknown")


def job(**qa: float) -> Job:
    return Job.model_validate({**JOB, "qa": {"unknown": UNKNOWN, **qa}})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for number, name in enumerate(EXAMS):
        known, unknown = (0, 45) if name.endswith("unknown") else (45, 0)
        records, _, abouts = exam(known=known, unknown=unknown, seed=number)
        write_records(folder / f"{name}.jsonl", records)
        write_about(about_path(folder / f"{name}.jsonl"), abouts)
    return folder


def write_answers(path: Path, rows: list[Record], answers: list[str]) -> None:
    lines = (
        {"input": row.input, "output": row.output, "answer": said} for row, said in zip(rows, answers, strict=True)
    )
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


class Knowing:
    """Knows every answer and every question without one; is killed when asked one question too many."""

    name = "knowing"

    def __init__(self, data: Path, dies_after: int = 10**9) -> None:
        rows = [row for name in EXAMS for row in read_records(data / f"{name}.jsonl")]
        self.answers = {row.input: Answer(row.output, -0.01) for row in rows}
        self.asked: list[str] = []
        self.dies_after = dies_after

    def answer(self, questions: Sequence[str], *, likely: bool = False) -> list[Answer]:
        assert likely
        self.asked += questions
        if len(self.asked) > self.dies_after:
            raise KeyboardInterrupt
        return [self.answers[question] for question in questions]


def test_each_exam_is_asked_in_the_same_number_and_kept(data: Path, tmp_path: Path) -> None:
    found = confidence.ask(job(), data, Knowing(data), tmp_path)
    assert found == {"asked": 160}
    for name in EXAMS:
        rows = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        assert [row["input"] for row in rows] == [row.input for row in read_records(data / f"{name}.jsonl")[:40]]
        assert {row["logprob"] for row in rows} == {-0.01}


def test_a_killed_step_goes_on_where_it_was_killed(data: Path, tmp_path: Path) -> None:
    first, second = Knowing(data, dies_after=100), Knowing(data)
    with pytest.raises(KeyboardInterrupt):
        run_step(tmp_path / "confidence", {}, lambda folder: confidence.ask(job(), data, first, folder))
    run_step(tmp_path / "confidence", {}, lambda folder: confidence.ask(job(), data, second, folder))
    assert len(second.asked) == 80, "two exams were done"
    run_step(tmp_path / "confidence", {}, lambda folder: confidence.ask(job(), data, Knowing(data, 0), folder))
    known = confidence.knowledge(job(), data, "file", tmp_path / "confidence")
    assert known.exact.value == 100 and known.own.unknown.count == 0


def test_another_risk_is_another_threshold_of_the_same_answers(data: Path, tmp_path: Path) -> None:
    confidence.ask(job(), data, Knowing(data), tmp_path)
    strict, lax = (confidence.knowledge(job(risk=risk), data, "file", tmp_path) for risk in (0.01, 0.3))
    assert strict.calibration.threshold > 1 >= lax.calibration.threshold
    assert (strict.calibration.risk, lax.calibration.risk) == (0.01, 0.3)
    step = SimpleNamespace(hashes={f"{name}.jsonl": name for name in EXAMS})
    keys = [exam_step.inputs(job(risk=risk), step, *confidence.EXAMS) for risk in (0.01, 0.3)]  # type: ignore[arg-type]
    assert keys[0] == keys[1] and set(keys[0]["rows"]) == set(step.hashes)


@pytest.mark.parametrize(
    ("sizes", "counted"),
    [
        ((40, 20, 30, 30), (20, 15)),
        ((30, 30, 40, 20), (15, 20)),
        ((30, 15, 40, 20), (15, 20)),
        ((40, 40, 40, 40), (40, 40)),
    ],
)
def test_both_exams_have_as_many_unknown_questions_to_a_known_one(
    data: Path, tmp_path: Path, sizes: tuple[int, ...], counted: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, rows in zip(EXAMS, sizes, strict=True):
        path = data / f"{name}.jsonl"
        write_about(about_path(path), read_about(about_path(path))[:rows])
        write_records(path, read_records(path)[:rows])
    assert confidence.ask(job(), data, Knowing(data), tmp_path) == {"asked": sum(sizes)}
    measured: list[list[Asked]] = []
    monkeypatch.setattr(confidence, "knowledge_of", lambda name, *exams: measured.extend(exams[:2]))
    confidence.knowledge(job(), data, "file", tmp_path)
    assert tuple(sum(not one.known for one in exam) for exam in measured) == counted
    assert [sum(one.known for one in exam) for exam in measured] == [sizes[0], sizes[2]]


def test_rows_and_what_they_are_about_belong_together(data: Path, tmp_path: Path) -> None:
    write_about(data / "test_about.jsonl", exam(known=3, unknown=0)[2])
    with pytest.raises(DataError, match=r"45 rows, and test_about\.jsonl has 3"):
        confidence.ask(job(), data, Knowing(data), tmp_path)
    with pytest.raises(DataError, match=r"45 rows, and test_about\.jsonl has 3"):
        exam_step.exam_in(job(), data)


def test_a_file_is_asked_through_its_template_and_a_released_one_with_its_prompt(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tiny_gguf(tmp_path / "tiny.gguf")
    for module in (confidence, exam_step):
        monkeypatch.setattr(module, "Engine", partial(Engine, threads=1))
    small = Job.model_validate({**JOB, "evaluate": {"test_rows": 20, "max_answer_tokens": 3}})
    (tmp_path / "ours").mkdir()
    assert confidence.ask_shipped(small, data, file, tmp_path / "ours") == {"asked": 80}
    monkeypatch.setattr(exam_step, "find_base", lambda _: SimpleNamespace(gguf=file))
    (tmp_path / "theirs").mkdir()
    base = exam_step.Released("base", "any", PromptFormat(name="line", after="\n"))
    assert confidence.ask_released(small, data, base, tmp_path / "theirs") == {"asked": 80}
    for who in ("ours", "theirs"):
        known = confidence.knowledge(small, data, who, tmp_path / who)
        assert (known.name, known.exact.n, known.known_or_not.negative) == (who, 20, 20)
    assert (tmp_path / "ours/test.jsonl").read_text() != (tmp_path / "theirs/test.jsonl").read_text()


def test_a_released_model_without_a_file_is_asked_in_transformers(
    data: Path, tmp_path: Path, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exam_step, "find_base", lambda _: SimpleNamespace(gguf=None, folder=trained.folder))
    small = Job.model_validate({**JOB, "evaluate": {"test_rows": 20, "max_answer_tokens": 3}})
    base = exam_step.Released("base", "any", PromptFormat(name="line", after="\n"))
    assert confidence.ask_released(small, data, base, tmp_path) == {"asked": 80}
    said = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    assert len({row["logprob"] for row in said}) > 1 and all(row["logprob"] <= 0 for row in said)
    assert confidence.knowledge(small, data, "base", tmp_path).exact.n == 20


def test_what_has_no_file_has_a_key_of_its_own_and_the_others_the_key_they_had(tmp_path: Path) -> None:
    (tmp_path / "file.gguf").write_bytes(b"")
    for file in ("pypi:llm-some", str(tmp_path / "file.gguf")):
        assert confidence.asked_in(file) == {}
    for folder in ("hf:some/model", str(tmp_path)):
        assert confidence.asked_in(folder) == {"asked_in": "transformers"}


def test_the_folder_that_is_passed_on_has_report_numbers_store_and_calibration(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "facts.csv").write_text("subject,relation,value\nHastings,battle,1066\n")
    source = FactSource(source=f"file:{tmp_path / 'facts.csv'}", format="csv", licence="own")
    built = build_store([source], data / "facts.db")
    confidence.ask(job(), data, Knowing(data), tmp_path)
    known = confidence.knowledge(job(), data, "history-Q8_0", tmp_path)
    monkeypatch.setattr(bundle, "card", lambda **facts: f"{len(facts['knowledge'])} contestant")
    monkeypatch.setattr(bundle.Verdict, "from_json", lambda _: None)
    (tmp_path / "model").mkdir()
    for name in ("history-Q8_0.gguf", bundle.SWEEP, bundle.PLOT):
        (tmp_path / name).write_bytes(b"")
    facts = {
        "sweep": {"candidates": {}, "chosen": "Q8_0"},
        "prompt": {"prompt": PromptFormat(name="line", after="\n").to_json(), "base_prompt": None},
        "ledger": {"base": None},
        "verdict": {},
        "train": {},
        "cut": None,
        "rivals": {},
        "knowledge": [known.to_json()],
    }
    out = tmp_path / "export"
    write_json(out / "begun.json", {})
    bundle.bundle(job(), tmp_path / "history-Q8_0.gguf", tmp_path / "model", facts, tmp_path, data, out)
    described = json.loads((out / "metier.json").read_text())
    assert Calibration.from_json(described["calibration"]) == known.calibration
    assert (described["store"], described["store_key"]) == ("facts.db", built.key)
    assert (out / "facts.db").read_bytes() == (data / "facts.db").read_bytes()
    assert json.loads((out / "knowledge.json").read_text())["contestants"][0]["name"] == "history-Q8_0"
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    assert (out / "README.md").read_text() == "1 contestant"
    assert {line.split()[1] for line in (out / "SHA256SUMS").read_text().splitlines()} >= {"report.html", "facts.db"}


def test_a_build_asks_the_file_its_base_and_its_rival_once_whatever_the_risk(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []

    def ask(job: Job, rows: Path, *rest: Path | str | PromptFormat) -> dict[str, int]:
        folders.append(rest[-1])  # type: ignore[arg-type]
        return confidence.ask(job, rows, Knowing(rows), rest[-1])  # type: ignore[arg-type]

    monkeypatch.setattr(confidence, "ask_shipped", ask)
    monkeypatch.setattr(confidence, "ask_released", ask)
    line = PromptFormat(name="line", after="\n")
    monkeypatch.setattr(rivals, "released", lambda _, name, step: exam_step.Released(name, step.key, line))
    run = tmp_path / "run"
    rows = run_step(run / "data", {}, lambda folder: str(shutil.copytree(data, folder, dirs_exist_ok=True)))
    prompt = line.to_json()
    trained = SimpleNamespace(
        data=rows,
        rivals={"other": SimpleNamespace(key="other", result={})},
        prompts=SimpleNamespace(
            key="prompt", result={"base_prompt": prompt, "candidates": [{"prompt": prompt, "longest": 40}]}
        ),
    )
    measured = SimpleNamespace(key="models", swept={"chosen": "Q8_0"})

    def known(model: str, risk: float) -> list[str]:
        against = {"evaluate": {**JOB["evaluate"], "against": ["pypi:other"]}}
        described = {**JOB, **against, "base": {"model": model}, "qa": {"unknown": UNKNOWN, "risk": risk}}
        job, shipped = Job.model_validate(described), Path("history-Q8_0.gguf")
        told = build._asked_surely(job, run, trained, measured, shipped)  # type: ignore[arg-type]
        found = [confidence.knowledge(job, rows.folder, name, one.folder) for name, one in told.items()]
        assert all(one.calibration.risk == risk for one in found)
        return list(told)

    assert known("hf:some/base", 0.05) == known("hf:some/base", 0.3) == ["history-Q8_0", "base", "other"]
    places = [str(folder.relative_to(run)) for folder in folders]
    assert places == ["confidence", "base_confidence", "rivals/other/confidence"]
    measured.swept["chosen"] = "Q4_0"
    assert known("hf:some/base", 0.3) == ["history-Q8_0", "base", "other"]
    assert len(folders) == 4, "the base and the rival are asked once"
    assert known("scratch", 0.3) == ["history-Q8_0", "other"]


def test_a_rival_is_compared_by_what_it_was_asked_with_its_likelihood(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    monkeypatch.setattr(exam_step, "ask_released", lambda *rest: read.append(rest[-1]) or Contestant("other", ()))
    line = PromptFormat(name="line", after="\n")
    monkeypatch.setattr(rivals, "released", lambda _, name, step: exam_step.Released(name, step.key, line))
    before = run_step(tmp_path / "sure", {}, lambda folder: confidence.ask(job(), data, Knowing(data), folder))
    prompt = SimpleNamespace(key="other", result={})
    ours = tmp_path / "shipped.jsonl"
    ours.write_bytes((before.folder / "test.jsonl").read_bytes())
    examined = SimpleNamespace(key="exam")
    timed = {"timed": line.to_json()}
    met = rivals.met(
        job(),
        data,
        {"other": prompt},  # type: ignore[dict-item]
        timed,
        {"other": before},
        examined,  # type: ignore[arg-type]
        ours,
        Steps(tmp_path / "run"),
    )
    assert read == [before.folder / "test.jsonl"]
    assert (met["other"]["comparison"]["difference"], met["other"]["comparison"]["n"]) == (0, 40)


@pytest.fixture
def with_names(tmp_path: Path) -> Path:
    """Return a folder with an exam of two questions for a subject and one for a value, and the store beside it."""
    folder = tmp_path / "named"
    folder.mkdir()
    rows = [("Bertolt Brecht", "Brecht|B. B.", "1898"), ("Kurt Weill", "B. B.", "1900"), ("Lotte Lenya", "", "1898")]
    table = "".join(f"{name},{also},born,{year}\n" for name, also, year in rows)
    (folder / "facts.csv").write_text(f"subject,also,relation,value\n{table}")
    source = FactSource(source=f"file:{folder / 'facts.csv'}", format="csv", licence="own", also="also")
    build_store([source], folder / "facts.db")
    about_him = ("Who wrote Baal?", "Bertolt Brecht"), ("Who was born first, Brecht or Weill?", "Bertolt Brecht")
    write_records(
        folder / "test.jsonl", [Record(*one, "own") for one in (*about_him, ("When was Brecht born?", "Brecht"))]
    )
    forms: tuple[Form, ...] = ("reverse", "comparison", "ask")
    abouts = [About("known", form, "born", "Bertolt Brecht", "1898", 1898, "Europe") for form in forms]
    write_about(folder / "test_about.jsonl", abouts)
    return folder


@pytest.mark.parametrize(("said", "right"), [("brecht", 3), ("Bertolt Brecht", 2), ("B. B.", 0), ("Kurt Weill", 0)])
def test_a_subject_is_a_right_answer_by_each_name_that_is_its_alone(
    with_names: Path, tmp_path: Path, said: str, right: int
) -> None:
    one = exam_step.exam_in(job(), with_names)
    contestant = exam_step.graded(job(), "ours", [said] * 3, one)
    assert contestant.scores[0].value == pytest.approx(100 * right / 3)
    ours = tmp_path / "ours.jsonl"
    write_answers(ours, one.rows, ["Bertolt Brecht", "Bertolt Brecht", "brecht"])
    assert exam_step.against(job(), one, ours, [said] * 3).difference == pytest.approx(100 * (3 - right) / 3)
    abouts = read_about(with_names / "test_about.jsonl")
    also = exam_step.names_of(with_names / "facts.db", abouts)
    found = asked(one.rows, [Answer(said, -0.1)] * 3, abouts, UNKNOWN, also)
    assert sum(each.right for each in found) == right
    assert knowledge_of("ours", found, found, 0.05).exact.value == contestant.scores[0].value


def test_the_parity_gate_grades_both_sides_by_all_names(
    with_names: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_name = SimpleNamespace(name="whole", answer=lambda questions, likely: [("brecht", None)] * len(questions))
    monkeypatch.setattr(parity, "Checkpoint", lambda *_: by_name)
    monkeypatch.setattr(parity, "load_fast", lambda _: (None, None))
    monkeypatch.setattr(parity, "memory_mib", lambda *_: 1.0)
    monkeypatch.setattr(parity, "gguf_path", lambda *_: with_names / "facts.csv")
    line = PromptFormat(name="line", after="\n")
    gate = parity._Exam(job(), with_names / "test.jsonl", line, tmp_path, tmp_path, tmp_path)
    write_answers(tmp_path / "Q8_0.jsonl", gate._exam.rows, ["Bertolt Brecht", "Brecht", "Brecht"])
    found = gate.measured(File("whole", "Q8_0", True), Told(Walk(1, 1, 0.0), 1.0))
    assert found.score and found.score.value == 100
    assert found.comparison and found.comparison.difference == 0


def test_a_build_grades_what_was_asked_with_its_likelihood_and_asks_nobody_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "facts.csv").write_text("subject,relation,value\nHastings,battle,1066\n")
    build_store([FactSource(source=f"file:{tmp_path / 'facts.csv'}", format="csv", licence="own")], data / "facts.db")
    line, run, read = PromptFormat(name="line", after="\n"), tmp_path / "run", list[str]()

    def ask(job: Job, rows: Path, *rest: Any) -> dict[str, int]:
        return confidence.ask(job, rows, Knowing(rows), rest[-1])

    def graded(*rest: Any) -> Contestant:
        read.append(str(rest[-1].relative_to(run)))
        return Contestant("any", ())

    for name in ("ask_shipped", "ask_released"):
        monkeypatch.setattr(confidence, name, ask)
    for name in ("ask_ours", "ask_base", "ask_released"):
        monkeypatch.setattr(exam_step, name, graded)
    monkeypatch.setattr(rivals, "released", lambda _, name, step: exam_step.Released(name, step.key, line))
    monkeypatch.setattr(exam_step, "memory_mib", lambda *_: 1.0)
    monkeypatch.setattr(exam_step, "judge", lambda *told: SimpleNamespace(to_json=dict, met=told[6]))
    monkeypatch.setattr(bundle, "bundle", lambda *_: {})
    rows = run_step(run / "data", {}, lambda folder: str(shutil.copytree(data, folder, dirs_exist_ok=True)))
    tried = {"prompt": line.to_json(), "base_prompt": line.to_json()}
    prompts = SimpleNamespace(key="prompt", result={**tried, "candidates": [{**tried, "longest": 40}]})
    other = {"other": SimpleNamespace(key="other", result={})}
    trained = SimpleNamespace(data=rows, rivals=other, prompts=prompts, train=SimpleNamespace(key="train", result={}))
    measured = SimpleNamespace(
        key="models",
        swept={"chosen": "Q8_0", "candidates": {"Q8_0": {"cut": "whole"}}},
        files=SimpleNamespace(folder=tmp_path, key="files", result={"file_mib": {"Q8_0": 1.0}}),
        models={"whole": tmp_path},
        ledger={"shipping": {}},
        cuts={},
    )
    described = {**JOB, "base": {"model": "hf:some/base"}, "qa": {"unknown": UNKNOWN}}
    described["evaluate"] = {**JOB["evaluate"], "against": ["pypi:other"]}  # type: ignore[dict-item]
    verdict: Any = build._judged(Job.model_validate(described), run, trained, measured)  # type: ignore[arg-type]
    assert read == [f"{folder}/test.jsonl" for folder in ("base_confidence", "confidence", "rivals/other/confidence")]
    assert verdict.met["other"]["comparison"]["difference"] == 0
    assert not list(run.glob("exam/*.jsonl")) and not list(run.glob("base/*.jsonl"))
