"""A qa job's file answers with confidence and source, says when it does not know, and never hides a bad store."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from math import exp, log
from pathlib import Path
from typing import Any

import pytest
from doubles import tiny_gguf
from typer.testing import CliRunner

from metier import cli
from metier.data.facts.build import build_store
from metier.errors import ArtifactError, InputError, MetierError, RunError
from metier.facts.confidence import Calibration
from metier.facts.store import Store, open_store
from metier.run import shown
from metier.run.engine import Reply
from metier.run.locate import locate
from metier.run.session import Session, open_session
from metier.spec.facts import FactSource
from metier.tasks.qa import Qa

TASK = {"task": "qa", "unknown": "I don't know."}
QA = Qa("I don't know.")
CURVE = Calibration(1.0, 0.0, 0.75, 0.05)
"""The model's own probability as it is."""

ANSWERS = {
    "When was the battle of Wick?": ("1066", 0.97),
    "When was Ada Brook born?": ("1803", 0.9),
    "When did Ada Brook die?": ("1872", 0.31),
    "When was Robin Vale born?": ("1901", 0.8),
    "Who was born in 1802?": ("Ada Brook", 0.85),
    "Which came first, the battle of Wick or the fall of Tam?": ("fall of Tam", 0.999),
    "When was the siege of Nowhere?": (" i don't know ", 0.6),
    "Who is the tallest?": ("", 0.6),
    "Who is the shortest?": ("Not known.", 0.99),
    "Who is silent?": ("...", 0.99),
}


class Knowing:
    """An engine that answers from a table, with the probabilities it is told."""

    def __init__(self, slots: int = 2) -> None:
        self.slots, self.context_tokens, self.asked = slots, 1024, []
        self._lock = threading.Lock()

    def chat(self, text: str, *, max_tokens: int, probabilities: bool = False) -> Reply:
        assert probabilities
        with self._lock:
            self.asked.append(text)
        said, share = ANSWERS.get(text, ("babble", 0.01))
        return Reply(said, 3, 9, text != "Go on?", log(share))

    def check_length(self, text: str) -> None:
        if len(text) > 32 * self.context_tokens:
            raise InputError("the input", "is too long", "Shorten it")

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("facts")
    (folder / "facts.csv").write_text(
        "subject,relation,value\nBattle of Wick,occurred,1066\nFall of Tam,occurred,570 BC\n"
        "Ada Brook,born,12 May 1802\nAda Brook,died,1871\nRobin Vale,born,1901\n",
        encoding="utf-8",
    )
    (folder / "other.csv").write_text("subject,relation,value\nRobin Vale,born,1911\n", encoding="utf-8")
    mine = FactSource(source=f"file:{folder / 'facts.csv'}", format="csv", licence="own", attribution="The \x1b[1mmill")
    other = FactSource(source=f"file:{folder / 'other.csv'}", format="csv", licence="own")
    build_store([mine, other], folder / "facts.db", "of this build")
    return folder / "facts.db"


@pytest.fixture
def store(built: Path) -> Iterator[Store]:
    with open_store(built) as opened:
        yield opened


@pytest.fixture
def session(store: Store) -> Session:
    return Session(Knowing(), QA, store, CURVE)  # type: ignore[arg-type]


def test_a_sure_answer_comes_with_its_confidence_and_source(session: Session) -> None:
    answer = session.ask("When was the battle of Wick?")
    assert (answer.text, answer.sure, answer.guess, answer.disagrees) == ("1066", True, None, False)
    assert answer.confidence == pytest.approx(0.97) and answer.probability == pytest.approx(0.97)
    assert [fact.place for fact in answer.sources] == ["facts.csv, line 2"]
    assert shown.paragraph(answer) == (
        "1066   (97% sure)\n  Battle of Wick | occurred | 1066  -- facts.csv, line 2; The [1mmill (own)"
    )
    assert session.answer("When was the battle of Wick?") == "1066"


def test_a_misspelt_name_is_read_as_the_stores_and_that_is_said(session: Session) -> None:
    answer = session.ask("When was Robin Vlae born?")
    assert answer.read_as is None, "a short word is near too many others"
    answer = session.ask("When was Ada Broook born?")
    assert (answer.text, answer.read_as) == ("1803", "When was Ada Brook born?")
    assert "read as: When was Ada Brook born?" in shown.paragraph(answer)
    assert json.loads(shown.as_json("When was Ada Broook born?", answer))["read_as"] == answer.read_as
    assert shown.row(replace(answer, disagrees=False)).split("\t")[3] == "read as: When was Ada Brook born?"


@pytest.mark.parametrize("text", ["xyzzy " * 5000, "é" * 30_000, "'" * 30_000, "Xyzzy’s" * 4000, "x" * 10_000_000])
def test_a_long_or_foreign_text_takes_no_long_time(session: Session, text: str) -> None:
    started = time.process_time()
    ((_, answer),) = session.ask_lines([text])
    assert isinstance(answer, InputError) == (len(text) > 32_768) and time.process_time() - started < 5


def test_model_and_store_are_kept_apart_where_they_disagree(session: Session) -> None:
    answer = session.ask("When was Ada Brook born?")
    assert (answer.text, answer.sure, answer.disagrees, answer.sources) == ("1803", True, True, ())
    assert [fact.value for fact in answer.store_says] == ["12 May 1802"]
    first, second, third = shown.paragraph(answer).split("\n")
    assert (first, second) == ("1803   (90% sure)", "  the store says otherwise: 12 May 1802")
    assert third.startswith("  Ada Brook | born | 12 May 1802  -- facts.csv, line 4")


def test_an_answer_below_the_threshold_is_a_guess_and_the_store_speaks_for_itself(session: Session) -> None:
    answer = session.ask("When did Ada Brook die?")
    assert (answer.text, answer.sure, answer.guess, answer.disagrees) == ("I don't know.", False, "1872", False)
    assert answer.confidence == pytest.approx(0.31) and answer.sources == ()
    assert shown.paragraph(answer).split("\n")[:2] == [
        """I don't know.   (31% sure of "1872")""",
        "  the store says 1871",
    ]


def test_disputed_facts_are_shown_with_all_their_lines(session: Session) -> None:
    answer = session.ask("When was Robin Vale born?")
    assert (answer.text, answer.disagrees, [fact.value for fact in answer.sources]) == ("1901", False, ["1901"])
    lines = shown.paragraph(answer).split("\n")
    assert lines[1] == "  disputed: sources say 1901 or 1911"
    assert "facts.csv, line 6" in lines[2] and "other.csv, line 2" in lines[3]
    assert shown.row(answer).endswith("\tdisputed")


def test_questions_for_a_subject_and_comparisons_have_their_lines(session: Session) -> None:
    assert [fact.relation for fact in session.ask("Who was born in 1802?").sources] == ["born"]
    answer = session.ask("Which came first, the battle of Wick or the fall of Tam?")
    assert {fact.value for fact in answer.sources} == {"1066", "570 BC"} and not answer.disagrees
    assert shown.paragraph(answer).startswith("fall of Tam   (over 99% sure)\n  ")


@pytest.mark.parametrize(
    "question", ["When was the siege of Nowhere?", "Who is the tallest?", "Who is the shortest?", "Who is silent?"]
)
def test_the_files_own_words_for_not_knowing_are_no_guess(session: Session, question: str) -> None:
    answer = session.ask(question)
    assert not answer.sure and answer.guess is None and answer.confidence is None
    assert answer.text in ("i don't know", "I don't know.", "Not known.")


@pytest.mark.parametrize("question", ["", "  \n", "?!", "\0"])
def test_an_empty_question_is_not_known_and_not_asked(session: Session, question: str) -> None:
    assert session.ask(question).text == "I don't know." == session.answer(question)
    assert session.engine.asked == []  # type: ignore[attr-defined]


def test_a_question_is_asked_as_the_keyboard_has_it(session: Session) -> None:
    session.ask(" When  was\u00a0\u201cAda\u2019s\u201d\nwar? ")
    assert session.engine.asked == ["""When was "Ada's" war?"""]  # type: ignore[attr-defined]


def test_accents_that_the_store_has_not_are_left_out(session: Session) -> None:
    asked = session.engine.asked  # type: ignore[attr-defined]
    session.ask("When was \u00c1da Br\u00f6ok born, in \u5df4\u91cc?")
    session.ask("Who was S\u00f8ren \u0141ukasz von Gro\u00dfau?")
    assert asked == ["When was Ada Brook born, in \u5df4\u91cc?", "Who was Soren Lukasz von Grossau?"]
    assert replace(session.asker, store=None)._as_written("\u00c1da") == "\u00c1da"  # type: ignore[type-var]


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store whose names and values have accents and marks of their own."""
    folder = tmp_path_factory.mktemp("marked")
    rows = "Jos\u00e9 Vale,born,1901\nO\u2019Dell,born,1902\nTam,capital,Wick\u2013\u00c9tal\n"
    (folder / "facts.csv").write_text(f"subject,relation,value\n{rows}", encoding="utf-8")
    build_store([FactSource(source=f"file:{folder / 'facts.csv'}", format="csv", licence="own")], folder / "facts.db")
    with open_store(folder / "facts.db") as opened:
        yield opened


@pytest.mark.parametrize(
    ("question", "asked"),
    [
        ("When was Jos\u00e9 Vale born?", "When was Jos\u00e9 Vale born?"),
        ("when was jos\u00e9 vale born", "when was jos\u00e9 vale born"),
        ("WHEN WAS JOS\u00c9 VALE BORN", "when was jos\u00e9 vale born"),
        ("JOS\u00c9 VALE?", "JOS\u00c9 VALE?"),
        ("When was Jose\u0301 Vale born?", "When was Jos\u00e9 Vale born?"),
        ("Jos\u00e9\u2019s day, in \u201cTam\u201d \u2014 when?", """Jos\u00e9's day, in "Tam" - when?"""),
        ("When was O\u2019Dell born?", "When was O\u2019Dell born?"),
        ("Whose capital is \u00c9tal?", "Whose capital is \u00c9tal?"),
        ("Whose capital is Wick\u2013\u00c9tal?", "Whose capital is Wick\u2013\u00c9tal?"),
        ("\u202aWhen was \u2068Jos\u00e9 Vale\u2069 born?\u202c", "When was Jos\u00e9 Vale born?"),
        ("When was Jos\u00e9 Va\u200cle born?", "When was Jos\u00e9 Va\u200cle born?"),
        ("\ufeffWhen was Jo\u00ads\u00e9\u200b Vale born?", "When was Jos\u00e9 Vale born?"),
    ],
)
def test_accents_and_marks_of_the_stores_names_and_values_stay(marked: Store, question: str, asked: str) -> None:
    session = Session(Knowing(), QA, marked, CURVE)  # type: ignore[arg-type]
    session.ask(question)
    assert session.engine.asked == [asked]  # type: ignore[attr-defined]


def test_an_answer_that_finds_no_end_is_not_given(store: Store) -> None:
    for calibration in (CURVE, None):
        answer = Session(Knowing(), QA, store, calibration).ask("Go on?")  # type: ignore[arg-type]
        assert not answer.sure and answer.guess == "babble"


def test_a_long_guess_is_cut_on_the_terminal_and_whole_in_json(session: Session) -> None:
    answer = replace(session.ask("When did Ada Brook die?"), guess="x" * 500)
    assert shown.paragraph(answer).split("\n")[0] == f"""I don't know.   (31% sure of "{"x" * 56} ...")"""
    assert json.loads(shown.as_json("?", answer))["guess"] == "x" * 500


def test_where_no_threshold_keeps_the_risk_nothing_is_given(store: Store) -> None:
    answer = Session(Knowing(), QA, store, replace(CURVE, threshold=2.0)).ask("When was the battle of Wick?")  # type: ignore[arg-type]
    assert not answer.sure and answer.guess == "1066" and [fact.value for fact in answer.store_says] == ["1066"]


def test_without_calibration_and_store_the_answer_says_so() -> None:
    answer = Session(Knowing(), QA).ask("When was the battle of Wick?")  # type: ignore[arg-type]
    assert (answer.text, answer.sure, answer.confidence, answer.looked_up) == ("1066", True, None, False)
    assert answer.probability == pytest.approx(0.97)
    assert shown.paragraph(answer) == (
        "1066   (97% by the model's own count, not calibrated; no store to look it up in)"
    )


def test_json_has_all_of_it_and_a_row_has_four_columns(session: Session) -> None:
    question = "When was the battle of Wick?"
    found = json.loads(shown.as_json(question, session.ask(question)))
    assert set(found) == {
        *("input", "output", "confidence", "probability", "sure", "guess", "looked_up"),
        *("sources", "store_says", "disagrees", "read_as"),
    }
    assert (found["input"], found["output"], found["sure"], found["guess"]) == (question, "1066", True, None)
    assert found["sources"] == found["store_says"]
    assert found["sources"][0] == {
        "subject": "Battle of Wick",
        "relation": "occurred",
        "value": "1066",
        "line": "Battle of Wick | occurred | 1066",
        "place": "facts.csv, line 2",
        "source": "facts.csv",
        "licence": "own",
        "attribution": "The \x1b[1mmill",
        "disputed": False,
    }
    assert shown.row(session.ask(question)) == "1066\t0.970\tfacts.csv: facts.csv, line 2\t"
    assert shown.row(session.ask("When was Ada Brook born?")) == "1803\t0.900\tfacts.csv: facts.csv, line 4\tdisagrees"
    assert shown.row(session.ask("")) == "I don't know.\t\t\t"
    assert shown.row(session.ask("When did Ada Brook die?")) == "I don't know.\t0.310\t\t"
    odd = replace(session.ask(question), text="a\tb\nc\x1b[31m")
    assert shown.row(odd).count("\t") == 3 and "\n" not in shown.row(odd) and "\x1b" not in shown.paragraph(odd)


def test_a_thousand_questions_come_back_in_order_and_are_read_a_little_ahead(session: Session) -> None:
    known, read = list(ANSWERS), []

    def lines() -> Iterator[str]:
        for number in range(1000):
            read.append(number)
            yield f"{known[number % 5]}\n" if number % 7 else f"number {number}?\r\n"

    answers = session.ask_lines(lines())
    for number in range(1000):
        line, answer = next(answers)
        assert len(read) - number <= 4 * 2 + 1
        if number % 7:
            assert line == known[number % 5]
            assert (answer.text if answer.sure else answer.guess) == ANSWERS[line][0]
        else:
            assert line == f"number {number}?" and answer.guess == "babble"
    assert next(answers, None) is None


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return tiny_gguf(path, metadata={"metier.task": json.dumps(TASK)})


@pytest.fixture
def export(tmp_path: Path, tiny: Path, built: Path) -> Path:
    shutil.copy(tiny, tmp_path / "model.gguf")
    shutil.copy(built, tmp_path / "facts.db")
    described(tmp_path)
    return tmp_path


def described(folder: Path, **changes: Any) -> None:
    value = {"format": 1, "file": "model.gguf", "task": TASK, "store": "facts.db", "store_key": "of this build"}
    value |= {"calibration": CURVE.to_json(), **changes}
    (folder / "metier.json").write_text(json.dumps(value))


def run(*arguments: str, stdin: str = "", **environment: str) -> tuple[int, str, str]:
    environment = {"PYTHONIOENCODING": "utf-8", **environment}
    done = subprocess.run(
        [sys.executable, "-c", "from metier.cli import main; main()", "run", *arguments],
        input=stdin,
        capture_output=True,
        encoding=environment["PYTHONIOENCODING"],
        check=False,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout, done.stderr


def test_an_export_folder_carries_store_key_and_calibration(export: Path) -> None:
    found = locate(str(export))
    assert (found.store, found.store_key, found.calibration) == (export / "facts.db", "of this build", CURVE)
    described(export, store=None, calibration=None)
    found = locate(str(export))
    assert (found.store, found.store_key, found.calibration) == (None, None, None)


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {"store": name}
            for name in ("../facts.db", "/etc/passwd", "..", "", "a/../b", "..\\facts.db", "a\0b", 3, ["a"])
        ),
        *({"store_key": key} for key in (None, "", 7)),
        *({"calibration": value} for value in ("0.5", [1], {}, {"slope": 1.0}, True)),
        *({"calibration": {**CURVE.to_json(), "slope": value}} for value in ("x", None, float("nan"), float("inf"))),
        {"calibration": {**CURVE.to_json(), "threshold": float("nan")}},
    ],
)
def test_a_description_of_a_store_or_curve_that_is_none_is_refused(export: Path, changes: dict[str, Any]) -> None:
    described(export, **changes)
    with pytest.raises(ArtifactError, match=re.escape(str(export / "metier.json"))):
        locate(str(export))


def spoil(folder: Path, how: str) -> sqlite3.Connection | None:
    path = folder / "facts.db"
    if how == "missing":
        path.unlink()
    elif how == "cut short":
        path.write_bytes(path.read_bytes()[:-5000])
    elif how == "from another build":
        described(folder, store_key="of another")
    elif how == "no fact store":
        path.write_bytes(b"something else" * 1000)
    elif how == "locked":
        writer = sqlite3.connect(path, isolation_level=None)
        writer.execute("BEGIN EXCLUSIVE")
        return writer
    return None


@pytest.mark.parametrize(
    ("how", "said", "error"),
    [
        ("missing", "there is no fact store", ArtifactError),
        ("cut short", "is cut short", ArtifactError),
        ("from another build", "is from another build", ArtifactError),
        ("no fact store", "is no fact store", ArtifactError),
        ("locked", "is locked by another program", RunError),
    ],
)
def test_a_store_that_cannot_be_used_is_refused_before_anything_is_answered(
    export: Path, how: str, said: str, error: type[MetierError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metier.facts.store._WAIT_SECONDS", 0.05)
    kept = spoil(export, how)
    with pytest.raises(error, match=said):
        open_session(str(export))
    if kept is not None:
        kept.close()


def test_the_command_refuses_a_missing_store_in_one_line(export: Path) -> None:
    (export / "facts.db").unlink()
    code, out, err = run(str(export), "When was the battle of Wick?")
    assert (code, out) == (4, "")
    assert err.count("\n") == 1 and "facts.db: there is no fact store" in err


def test_a_real_model_is_asked_with_its_probabilities(export: Path) -> None:
    with open_session(str(export)) as session:
        reply = session.engine.chat("Wick", max_tokens=96, probabilities=True)
        answer = session.ask("Wick")
        assert reply.logprob is not None and reply.text.isalnum(), "letters, if no words"
        assert answer.probability == pytest.approx(exp(reply.logprob), rel=0.01)
        assert answer.confidence == pytest.approx(CURVE.confidence(reply.logprob), rel=0.01)
        assert not answer.sure and answer.guess == reply.text.strip()
        with pytest.raises(RunError, match="context holds"):
            session.ask("when " * 5000)


def test_a_bare_file_answers_without_the_folder_around_it(tiny: Path) -> None:
    with open_session(str(tiny)) as session:
        assert session.task == QA and session.store is None
        answer = session.ask("Wick")
    assert answer.confidence is None and answer.probability is not None and not answer.looked_up


@pytest.fixture
def opened(session: Session, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setattr("metier.run.session.open_session", lambda model: session)
    return CliRunner()


def test_the_command_prints_answer_confidence_and_source(opened: CliRunner) -> None:
    done = opened.invoke(cli.app, ["run", "history", "When was the battle of Wick?"])
    assert done.output.startswith("1066   (97% sure)\n  Battle of Wick | occurred | 1066  -- facts.csv, line 2")


def test_the_command_prints_json(opened: CliRunner) -> None:
    done = opened.invoke(cli.app, ["run", "history", "--json", "When did Ada Brook die?"])
    found = json.loads(done.output)
    assert (found["output"], found["guess"], found["sure"]) == ("I don't know.", "1872", False)
    assert [fact["value"] for fact in found["store_says"]] == ["1871"]


def test_files_and_stdin_are_answered_a_row_a_line(opened: CliRunner, tmp_path: Path) -> None:
    questions = list(ANSWERS)[:3]
    (tmp_path / "questions.txt").write_text("\n".join([*questions, "", "x?"]), encoding="utf-8")
    done = opened.invoke(cli.app, ["run", "history", "-f", str(tmp_path / "questions.txt")])
    rows = [row.split("\t") for row in done.output.splitlines()]
    assert [row[0] for row in rows] == ["1066", "1803", *["I don't know."] * 3]
    assert {len(row) for row in rows} == {4}


@pytest.mark.parametrize("named", [True, False])
def test_the_mark_that_editors_begin_a_text_with_is_no_part_of_the_question(
    opened: CliRunner, tmp_path: Path, named: bool
) -> None:
    text = "\ufeffWhen was the battle of Wick?\n"
    (tmp_path / "questions.txt").write_text(text, encoding="utf-8")
    files = ["-f", str(tmp_path / "questions.txt")] if named else []
    found = json.loads(opened.invoke(cli.app, ["run", "history", "--json", *files], input=text).output)
    assert (found["input"], found["output"]) == ("When was the battle of Wick?", "1066")


def test_a_question_that_is_too_long_is_named_by_its_line_and_those_after_it_are_answered(export: Path) -> None:
    lines = ["Wick?", "", "when " * 5000, "Wick?"]
    code, out, err = run(str(export), stdin="\n".join(lines))
    rows = out.split("\n")
    assert (code, len(rows)) == (5, 5)
    assert rows[2] == "" and rows[0] == rows[3] != ""
    assert err.startswith("error: stdin, line 3: has ") and err.count("\n") == 1
    code, out, _ = run(str(export), "--json", stdin="\n".join(lines))
    values = [json.loads(line) for line in out.splitlines()]
    assert (code, [value["output"] is None for value in values]) == (5, [False, False, True, False])
    assert values[2]["error"].startswith("has ")


def test_letters_that_a_terminal_lacks_do_not_end_a_run(export: Path) -> None:
    code, out, err = run(str(export), "--json", "\u5df4 \u00e9", PYTHONIOENCODING="latin-1")
    assert (code, err, json.loads(out)["input"]) == (0, "", "\u5df4 \u00e9")
