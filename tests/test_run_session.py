"""Whatever a user names is found; whatever a user writes is answered with its layout."""

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from doubles import tiny_gguf
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.errors import ArtifactError, RunError
from metier.run.engine import Engine, Reply
from metier.run.locate import Located, locate
from metier.run.session import Session, clean, open_session
from metier.tasks.registry import Task
from metier.tasks.text2text import Text2Text
from metier.tasks.translation import Translation

JA_EN = Translation("ja", "en")
TASK = {"task": "translation", "source": "ja", "target": "en"}


class Shouting:
    """An engine that answers with the question in capitals; a character is a token."""

    def __init__(self, slots: int = 2, context_tokens: int = 1024, seconds: float = 0.0) -> None:
        self.slots, self.context_tokens, self.seconds = slots, context_tokens, seconds
        self.asked: list[tuple[str, int]] = []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def tokenize(self, text: str, special: bool = True) -> list[int]:
        return [0] * len(text)

    def chat(self, text: str, *, max_tokens: int) -> Reply:
        with self._lock:
            self.asked.append((text, max_tokens))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(self.seconds)
        with self._lock:
            self.at_once -= 1
        if "boom" in text:
            raise RunError("the input", "went wrong", "Try again")
        return Reply(f" {text.upper()} ", 1, 1, True)


def session(task: Task | None = JA_EN, **engine: float) -> tuple[Session, Shouting]:
    shouting = Shouting(**engine)  # type: ignore[arg-type]
    return Session(shouting, task), shouting  # type: ignore[arg-type]


def test_text_is_answered_sentence_by_sentence_with_its_layout() -> None:
    opened, engine = session()
    assert opened.answer("  - 猫abc。犬def。\n\n\tghi!\r\n") == "  - 猫ABC。 犬DEF。\n\n\tGHI!\r\n"
    assert sorted(text for text, _ in engine.asked) == ["ghi!", "犬def。", "猫abc。"]


def test_a_file_of_unknown_task_gets_the_text_as_a_whole() -> None:
    opened, engine = session(task=None)
    assert opened.answer(" abc。def。\nghi\n") == " ABC。DEF。\nGHI\n"
    assert len(engine.asked) == 1


@pytest.mark.parametrize("text", ["", "\n", "  \n\n", "...", "\0"])
def test_nothing_to_answer_asks_nothing(text: str) -> None:
    opened, engine = session()
    assert opened.answer(text) == text.replace("\0", "")
    assert engine.asked == []


def test_equal_sentences_are_asked_once() -> None:
    opened, engine = session()
    assert opened.answer("abc。\ndef。\nabc。\nabc。") == "ABC。\nDEF。\nABC。\nABC。"
    assert sorted(text for text, _ in engine.asked) == ["abc。", "def。"]


def test_sentences_are_worked_on_as_many_at_a_time_as_there_are_slots() -> None:
    opened, engine = session(slots=3, seconds=0.02)
    opened.answer("".join(f"猫{number}。" for number in range(12)))
    assert engine.most_at_once == 3


def test_an_answer_may_be_a_few_times_as_long_as_its_question_and_no_longer() -> None:
    opened, engine = session()
    opened.answer("abcd。")
    assert engine.asked == [("abcd。", 3 * 5 + 32)]
    opened, engine = session(Text2Text("Question", "Answer"))
    opened.answer("abcd。")
    assert engine.asked == [("abcd。", 1024)]


def test_a_sentence_of_many_tokens_is_cut_until_it_fits() -> None:
    opened, engine = session(context_tokens=100)
    answer = opened.answer("a" * 399)
    assert answer.replace(" ", "") == "A" * 399
    assert all(len(text) <= 50 and limit <= 50 for text, limit in engine.asked)


def test_lines_come_back_in_order_without_their_ends() -> None:
    opened, _ = session(slots=4, seconds=0.001)
    lines = [f"line {number}。" for number in range(100)] + ["", "  ", "last"]
    found = list(opened.answer_lines([f"{line}\r\n" for line in lines[:50]] + [f"{line}\n" for line in lines[50:]]))
    assert found == [(line, line.upper()) for line in lines]


def test_lines_are_read_only_a_little_ahead() -> None:
    opened, _ = session(slots=2)
    read = []

    def endless() -> Iterator[str]:
        while True:
            read.append(None)
            yield "\n" if len(read) % 3 else f"line {len(read)}。\n"

    found = opened.answer_lines(endless())
    for _ in range(1000):
        next(found)
    found.close()
    assert len(read) <= 1000 + 4 * 2


def test_with_one_slot_each_line_is_answered_before_the_next_is_read() -> None:
    opened, engine = session(slots=1)

    def dialogue() -> Iterator[str]:
        yield "one。\n"
        assert [text for text, _ in engine.asked] == ["one。"]
        yield "two。\n"

    answers = opened.answer_lines(dialogue())
    assert next(answers) == ("one。", "ONE。")
    assert list(answers) == [("two。", "TWO。")]


def test_an_answer_does_not_wait_for_the_next_line() -> None:
    opened, _ = session(slots=4, seconds=0.01)
    answered = threading.Event()

    def dialogue() -> Iterator[str]:
        yield "one。\n"
        assert answered.wait(10), "who asked by a pipe waits for ever"
        yield "two。\n"

    answers = opened.answer_lines(dialogue())
    assert next(answers) == ("one。", "ONE。")
    answered.set()
    assert list(answers) == [("two。", "TWO。")]


def test_what_was_read_before_the_lines_broke_off_is_answered() -> None:
    opened, _ = session(slots=4, seconds=0.01)

    def broken() -> Iterator[str]:
        yield "one。\n"
        raise RunError("the disk", "is gone", "Put it back")

    answers = opened.answer_lines(broken())
    assert next(answers) == ("one。", "ONE。")
    with pytest.raises(RunError, match="is gone"):
        next(answers)


def test_an_error_in_one_sentence_ends_the_run_and_not_the_session() -> None:
    opened, _ = session()
    with pytest.raises(RunError, match="went wrong"):
        opened.answer("abc。boom。def。")
    assert opened.answer("abc。") == "ABC。"


def test_a_megabyte_in_one_line_is_answered_whole() -> None:
    opened, engine = session()
    text = "".join(f"abc {number}。" for number in range(100_000))
    answer = opened.answer(text)
    assert answer.replace(" ", "") == text.upper().replace(" ", "")
    assert max(len(asked) for asked, _ in engine.asked) <= 400


@settings(max_examples=200)
@given(st.text(st.characters(codec=None), max_size=60))
def test_no_text_at_all_can_stop_a_session(text: str) -> None:
    opened, engine = session()
    opened.answer(text).encode()
    for asked, _ in engine.asked:
        assert "\0" not in asked
        assert asked.encode()


def test_nul_and_lone_surrogates_are_cleaned_away() -> None:
    assert clean("a\0b\ud800c\udfffd") == "ab\ufffdc\ufffdd"
    assert clean("猫😀") == "猫😀"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return tiny_gguf(path, metadata={"metier.task": json.dumps(TASK)})


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METIER_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "runs"


def exported(folder: Path, model: Path, **changes: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.gguf").write_bytes(model.read_bytes())
    described = {"format": 1, "file": "model.gguf", "task": TASK, **changes}
    (folder / "metier.json").write_text(json.dumps(described))
    return folder


def test_a_model_is_found_by_file_export_folder_run_folder_and_name(runs: Path, tiny: Path) -> None:
    folder = exported(runs / "ja-en" / "export", tiny)
    found = Located(folder / "model.gguf", TASK)
    assert [locate(str(name)) for name in (folder, folder.parent, "ja-en")] == [found] * 3
    assert locate(str(folder / "model.gguf")) == Located(folder / "model.gguf")
    assert locate(str(tiny.parent)) == Located(tiny)


def test_a_folder_without_a_model_does_not_hide_the_run_of_its_name(
    runs: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(runs / "ja-en" / "export", tiny)
    (tmp_path / "ja-en").mkdir()
    monkeypatch.chdir(tmp_path)
    assert locate("ja-en").file == runs / "ja-en" / "export" / "model.gguf"
    (tmp_path / "ja-en" / "base.gguf").write_bytes(tiny.read_bytes())
    (tmp_path / "ja-en" / "job.toml").write_text('base.model = "base.gguf"')
    assert locate("ja-en").file == runs / "ja-en" / "export" / "model.gguf"


def test_a_wrong_name_is_answered_with_the_right_ones(runs: Path, tiny: Path) -> None:
    with pytest.raises(ArtifactError, match="no finished runs"):
        locate("ja-en")
    for name in ("ja-en", "history"):
        exported(runs / name / "export", tiny)
    with pytest.raises(ArtifactError, match=r"Did you mean 'ja-en'\? Known runs: history, ja-en"):
        locate("ja_en")
    for wrong in ("zzzz", "none/of/this.gguf", "../../etc", "", "a\0b", "x" * 5000, "~nobody-of-that-name/x"):
        with pytest.raises(ArtifactError, match=r"no such file, folder or run\. Known runs: history, ja-en"):
            locate(wrong)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"file": "../model.gguf"}, "does not name"),
        ({"file": "/etc/passwd"}, "does not name"),
        ({"file": ""}, "does not name|not there"),
        ({"file": ".."}, "does not name|not there"),
        ({"file": 3}, "does not name"),
        ({"file": "other.gguf"}, "not there"),
        ({"task": "translation"}, "does not name"),
        ({"format": 99}, "format 99"),
    ],
)
def test_a_description_that_points_elsewhere_is_refused(
    runs: Path, tiny: Path, changes: dict[str, object], found: str
) -> None:
    exported(runs / "ja-en" / "export", tiny, **changes)
    with pytest.raises(ArtifactError, match=found):
        locate("ja-en")


def test_an_unfinished_export_is_not_trusted(runs: Path, tiny: Path) -> None:
    folder = exported(runs / "ja-en" / "export", tiny)
    (folder / "begun.json").write_text("{}")
    for name in (folder, folder.parent, "ja-en"):
        with pytest.raises(ArtifactError, match="not come to its end"):
            locate(str(name))


def test_a_build_that_has_no_export_yet_is_told_from_none_at_all(runs: Path, tiny: Path) -> None:
    exported(runs / "ja-en" / "export", tiny)
    (runs / "ja-en-long" / "data").mkdir(parents=True)
    with pytest.raises(ArtifactError, match=r"ja-en-long: the build has not come to its end. Run 'metier build' again"):
        locate("ja-en-long")


def test_nobody_is_told_to_delete_the_folder_that_was_passed_on(tiny: Path, tmp_path: Path) -> None:
    (exported(tmp_path / "copied", tiny) / "metier.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"cannot be read .* Copy the whole export folder again"):
        locate(str(tmp_path / "copied"))


def test_a_folder_of_several_models_asks_which(tiny: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(tiny.read_bytes())
    with pytest.raises(ArtifactError, match=r"holds 2 models \(a.gguf, b.gguf\)"):
        locate(str(tmp_path))


def test_a_file_knows_its_task_and_answers(tiny: Path) -> None:
    with open_session(str(tiny), slots=2) as opened:
        assert opened.task == JA_EN
        assert opened.engine.slots == 2
        answer = opened.answer("猫が好きです。\n\n犬が好きです。")
    assert "\n\n" in answer and answer.strip()


def test_a_session_answers_what_its_engine_answers(tmp_path: Path) -> None:
    with Session(Engine(tiny_gguf(tmp_path / "foreign.gguf"), context_tokens=256), None) as opened:
        expected = opened.engine.chat("the cat", max_tokens=256).text.strip()
        assert opened.answer("\tthe cat\n") == f"\t{expected}\n"
        with pytest.raises(RunError, match="context holds 256 tokens"):
            opened.answer("the cat " * 500)


@pytest.mark.parametrize("written", ["no json", '{"task": "dance"}', "[]"])
def test_a_task_of_another_version_is_refused(tmp_path: Path, written: str) -> None:
    with pytest.raises(ArtifactError):
        open_session(str(tiny_gguf(tmp_path / "x.gguf", metadata={"metier.task": written})))


ALONE = """
import socket, sys
def guard(name, args):
    if name == "socket.connect" and args[1][0] != "127.0.0.1": raise SystemExit(f"connected to {args[1]}")
    if name in ("socket.getaddrinfo", "socket.gethostbyname") and args[0] not in ("127.0.0.1", None):
        raise SystemExit(f"looked up {args[0]}")
sys.addaudithook(guard)
from metier.run.session import open_session
with open_session(sys.argv[1]) as session:
    print(session.answer(sys.argv[2]))
heavy = {"torch", "numpy", "transformers", "tokenizers", "gguf", "pydantic", "babel"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""


def test_a_fresh_process_answers_offline_silently_and_without_the_workshop(tiny: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tiny), "猫が好きです。"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


def test_a_long_text_shows_its_progress_on_stderr_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    from metier import progress

    talk = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=talk, force_terminal=True, width=120))
    opened, _ = session(seconds=0.002)
    opened.answer("abc。")
    assert talk.getvalue() == ""
    text = "".join(f"abc {number}。" for number in range(200))
    opened.answer(text)
    assert "answering" in talk.getvalue() and f"{len(text)}/{len(text)}" in talk.getvalue()
    assert capsys.readouterr().out == ""
    told = talk.getvalue()
    assert len(list(opened.answer_lines([text], quiet=True))) == 1
    assert talk.getvalue() == told
    assert len(list(opened.answer_lines([text]))) == 1
    assert talk.getvalue() != told


RUN = [sys.executable, "-c", "from metier.cli import main; main()", "run"]


@pytest.mark.parametrize("arguments", [[], ["-f", "-"]])
def test_who_has_to_type_is_told_how(tiny: Path, arguments: list[str]) -> None:
    ours, theirs = os.openpty()
    os.write(ours, b"hello\n\x04")
    done = subprocess.run([*RUN, tiny, *arguments], stdin=theirs, capture_output=True, check=False, timeout=120)
    for side in (ours, theirs):
        os.close(side)
    assert (done.returncode, done.stderr) == (0, b"Type a text and Enter; Ctrl-D ends\n")
    assert done.stdout.count(b"\n") == 1


def test_a_dash_is_stdin_and_a_text_may_begin_with_one_behind_two(tiny: Path) -> None:
    def run(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run([*RUN, tiny, *arguments], input=b"one\ntwo\n", capture_output=True, check=False)

    done = run("-f", "-")
    assert (done.returncode, done.stderr, done.stdout.count(b"\n")) == (0, b"", 2)
    refused = run("-5 degrees")
    assert refused.returncode == 2 and refused.stdout == b""
    assert refused.stderr.endswith(b'begins with "-" after "--": metier run MODEL -- "-5 degrees"\n')
    assert run("--", "-5 degrees").returncode == 0
    assert b"behind" not in run("--jsno").stderr


def test_an_answer_of_any_length_that_the_context_holds_is_given_and_a_cut_one_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = json.dumps({"task": "text2text", "input": "Q", "output": "A"})
    path = tiny_gguf(tmp_path / "tiny.gguf", metadata={"metier.task": task})
    with open_session(str(path), context_tokens=256) as session:
        session.answer("hello")
    assert "cut where the context of 256 tokens ends: the answer to 'hello'" in capsys.readouterr().err
