"""Asking contestants: every answer kept, none asked twice, none made up."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.data.records import Record
from metier.errors import RunError
from metier.evaluate.answers import Answer, collect, read_answers, read_surely

RECORDS = [Record(f"question {number}", f"wanted {number}", "own") for number in range(10)]


class Shouter:
    """Answers in capitals, each with another log-probability if asked; is killed when asked one question too many."""

    name = "shouter"

    def __init__(self, dies_after: int = 10**9) -> None:
        self.asked: list[list[str]] = []
        self.dies_after = dies_after

    def answer(self, questions: Sequence[str], *, likely: bool = False) -> list[Answer]:
        if sum(map(len, self.asked)) + len(questions) > self.dies_after:
            raise KeyboardInterrupt
        self.asked.append(list(questions))
        texts = [question.upper() for question in questions]
        return [Answer(text, -1 / (3 + hash(text) % 7) if likely else None) for text in texts]


class Fixed:
    """Gives the same answers whatever it is asked."""

    name = "fixed"

    def __init__(self, *answers: str) -> None:
        self.answers = [Answer(text) for text in answers]

    def answer(self, questions: Sequence[str], *, likely: bool = False) -> list[Answer]:
        return self.answers


QUESTIONS = [record.input for record in RECORDS]
WANTED, SURE = Shouter().answer(QUESTIONS), Shouter().answer(QUESTIONS, likely=True)


def test_questions_are_asked_in_fixed_chunks_and_answered_in_order(tmp_path: Path) -> None:
    contestant = Shouter()
    assert collect(contestant, RECORDS, tmp_path / "answers.jsonl", chunk_rows=4) == WANTED
    assert [len(chunk) for chunk in contestant.asked] == [4, 4, 2]


def test_a_line_of_the_file_holds_input_reference_and_answer(tmp_path: Path) -> None:
    collect(Shouter(), RECORDS, tmp_path / "answers.jsonl", chunk_rows=4)
    lines = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 10
    assert json.loads(lines[3]) == {"input": "question 3", "output": "wanted 3", "answer": "QUESTION 3"}


def test_a_killed_exam_goes_on_at_the_first_unfinished_chunk(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        collect(Shouter(dies_after=8), RECORDS, path, chunk_rows=4)
    second = Shouter()
    assert collect(second, RECORDS, path, chunk_rows=4) == WANTED
    assert second.asked == [["question 8", "question 9"]]


def test_a_finished_exam_asks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    collect(Shouter(), RECORDS, path, chunk_rows=4)
    before = path.read_bytes()
    assert collect(Shouter(dies_after=0), RECORDS, path, chunk_rows=4) == WANTED
    assert path.read_bytes() == before


def test_answers_given_with_their_likelihood_are_not_asked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    collect(Shouter(), RECORDS, path, chunk_rows=4, likely=True)
    before = path.read_bytes()
    assert collect(Shouter(dies_after=0), RECORDS, path, chunk_rows=4) == SURE
    assert path.read_bytes() == before


@settings(max_examples=60)
@given(st.data())
def test_a_file_torn_at_any_byte_ends_like_an_untorn_one(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("exam") / "answers.jsonl"
    collect(Shouter(), RECORDS, path, chunk_rows=4)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:cut])
    contestant = Shouter()
    assert collect(contestant, RECORDS, path, chunk_rows=4) == WANTED
    assert path.read_bytes() == whole
    unfinished = [["question 0", "question 1", "question 2", "question 3"]] * (whole[:cut].count(b"\n") < 4)
    assert contestant.asked[: len(unfinished)] == unfinished
    assert all(chunk[0] in {"question 0", "question 4", "question 8"} for chunk in contestant.asked)


@pytest.mark.parametrize(
    "wrong",
    [
        b'{"input": "another question", "output": "wanted 0", "answer": "stale"}\n',
        b'{"input": "question 0", "output": "another reference", "answer": "stale"}\n',
        b'{"input": "question 0", "output": "wanted 0", "answer": 7}\n',
        b'{"input": "question 0", "output": "wanted 0"}\n',
        b"[]\n",
        b"\xff\xfe no text\n",
        b"\n",
    ],
)
def test_answers_to_other_questions_are_never_trusted(tmp_path: Path, wrong: bytes) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_bytes(wrong)
    contestant = Shouter()
    assert collect(contestant, RECORDS, path, chunk_rows=1) == WANTED
    assert len(contestant.asked) == 10
    assert b"stale" not in path.read_bytes()


def test_a_longer_file_is_about_another_exam(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    collect(Shouter(), RECORDS, path, chunk_rows=4)
    contestant = Shouter()
    assert collect(contestant, RECORDS[:5], path, chunk_rows=4) == WANTED[:5]
    assert [len(chunk) for chunk in contestant.asked] == [4, 1]
    assert len(path.read_bytes().splitlines()) == 5


@pytest.mark.parametrize("odd", ["", "two\nlines\r\n", "NUL \x00", "lone \ud800", "line\u2028end", "猫です。"])
def test_odd_answers_come_back_unchanged_from_the_file(tmp_path: Path, odd: str) -> None:
    path = tmp_path / "answers.jsonl"
    exam = [Record(odd, odd)]
    assert collect(Fixed(odd), exam, path) == [Answer(odd)]
    assert collect(Shouter(dies_after=0), exam, path) == [Answer(odd)]
    path.read_bytes().decode("utf-8")


@pytest.mark.parametrize("answers", [[], ["one"], ["one", "two", "three"]])
def test_a_wrong_number_of_answers_is_a_bug_and_is_not_written(tmp_path: Path, answers: list[str]) -> None:
    path = tmp_path / "answers.jsonl"
    with pytest.raises(ValueError, match="answers to 2 questions"):
        collect(Fixed(*answers), RECORDS[:2], path)
    assert path.read_bytes() == b""


def test_an_exam_without_rows_has_no_answers(tmp_path: Path) -> None:
    assert collect(Shouter(dies_after=0), [], tmp_path / "answers.jsonl") == []


def test_a_place_that_cannot_be_written_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be kept"):
        collect(Shouter(), RECORDS, tmp_path)


def test_log_probabilities_are_kept_beside_the_answers_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    assert collect(Shouter(), RECORDS, path, chunk_rows=4, likely=True) == SURE
    assert read_surely(path) == SURE and read_answers(path) == [one.text for one in WANTED]
    assert collect(Shouter(dies_after=0), RECORDS, path, chunk_rows=4, likely=True) == SURE


@settings(max_examples=40)
@given(st.data())
def test_a_torn_file_with_log_probabilities_ends_like_an_untorn_one(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("exam") / "answers.jsonl"
    collect(Shouter(), RECORDS, path, chunk_rows=4, likely=True)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert collect(Shouter(), RECORDS, path, chunk_rows=4, likely=True) == SURE
    assert path.read_bytes() == whole


def test_answers_kept_without_log_probabilities_are_asked_again_where_these_are_wanted(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    collect(Shouter(), RECORDS, path, chunk_rows=4)
    assert collect(Shouter(), RECORDS, path, chunk_rows=4, likely=True) == SURE


@pytest.mark.parametrize("logprob", [b"NaN", b"null", b'"-1"', b"-1", b"-Infinity"])
def test_a_log_probability_that_is_no_number_is_never_trusted(tmp_path: Path, logprob: bytes) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b'{"input": "question 0", "output": "wanted 0", "answer": "stale", "logprob": ' + logprob + b"}\n")
    assert collect(Shouter(), RECORDS, path, chunk_rows=1, likely=True) == SURE
