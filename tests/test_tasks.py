"""Tasks: splitting loses nothing, joining restores the layout, languages are known by name."""

import subprocess
import sys
import time
from dataclasses import asdict

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from metier.errors import ArtifactError, SpecError
from metier.tasks.prompt import Turn
from metier.tasks.registry import TASKS, task_from_json
from metier.tasks.segment import MAX_CHARS, Piece, split_sentences
from metier.tasks.text2text import Text2Text
from metier.tasks.translation import Translation, language_name

JA_EN = Translation("ja", "en")
EN_JA = Translation("en", "ja")
ANY_TEXT = st.text(st.characters(codec=None)) | st.text(
    st.sampled_from("aB1 猫。、！「」.!?-•\n\r\t\u2028\u3000\ud800\x00'\"()")
)


def answered(task, text, answer):
    pieces = task.split(text)
    return task.join(pieces, [answer(piece.text) for piece in pieces if piece.translate])


@given(ANY_TEXT, st.sampled_from(["ja", "en", "pt-BR", "xx", ""]))
@example("猫。" * 600, "ja")
@example("\ud800" * 1200, "ja")
@example(("word " * 90 + "end. ") * 5, "en")
def test_pieces_joined_are_the_text(text, language):
    pieces = split_sentences(text, language)
    assert "".join(piece.text for piece in pieces) == text
    for piece in pieces:
        assert piece.text
        if piece.translate:
            assert len(piece.text) <= MAX_CHARS
            assert piece.text == piece.text.strip()
            assert "\n" not in piece.text
        else:
            assert not any(char.isalnum() for char in piece.text if char not in "0123456789")


@given(ANY_TEXT)
def test_a_whole_text_joined_again_is_the_text(text):
    task = Text2Text("Input", "Output")
    assert answered(task, text, lambda piece: piece) == text


def test_sentences_are_cut_and_layout_is_kept_apart():
    text = "  - 猫が好きです。犬も好きです！\n\n\t1. Hello Mr. Smith.  Bye.\r\n・終わり\n***\n"
    assert JA_EN.split(text) == [
        Piece("  - ", False),
        Piece("猫が好きです。", True),
        Piece("犬も好きです！", True),
        Piece("\n\n\t1. ", False),
        Piece("Hello Mr. Smith.", True),
        Piece("  ", False),
        Piece("Bye.", True),
        Piece("\r\n・", False),
        Piece("終わり", True),
        Piece("\n***\n", False),
    ]


def test_sentences_that_stood_without_a_space_get_one_where_the_target_writes_spaces():
    assert answered(JA_EN, "猫。犬。\n 鳥。", lambda piece: f"<{piece[0]}>") == "<猫> <犬>\n <鳥>"


def test_the_space_between_sentences_goes_where_the_target_writes_none():
    assert answered(EN_JA, "A cat. A dog.\n A bird.", lambda piece: f"<{piece[2]}>") == "<c><d>\n <b>"
    assert answered(Translation("en", "zh-Hant"), "A cat. A dog.", lambda piece: "x") == "xx"


def test_white_space_around_an_answer_does_not_disturb_the_layout():
    assert answered(Translation("en", "de"), "A cat. A dog.\n", lambda piece: " x\n") == "x x\n"


@pytest.mark.parametrize("task", [JA_EN, EN_JA, Text2Text("a", "b")])
def test_a_wrong_number_of_answers_is_refused(task):
    pieces = task.split("One.\nTwo.")
    wanted = sum(piece.translate for piece in pieces)
    for number in (wanted - 1, wanted + 1):
        with pytest.raises(ValueError, match="answers than pieces"):
            task.join(pieces, ["x"] * number)


def test_a_sentence_far_too_long_is_cut_after_clauses_then_after_spaces():
    by_clause = split_sentences("この文はとても長い、" * 100, "ja")
    assert all(piece.text.endswith("、") for piece in by_clause)
    by_space = [piece.text for piece in split_sentences("word " * 300, "en") if piece.translate]
    assert all(text.startswith("word") and text.endswith("word") for text in by_space)


@pytest.mark.parametrize("unit", ["あ", "あ。", "a b ", "。「", "- ", "\n", " ", "(a. "])
def test_time_grows_with_the_length_and_not_with_its_square(unit):
    def seconds(size):
        text = unit * (size // len(unit))
        start = time.process_time()
        split_sentences(text, "ja")
        return time.process_time() - start

    short = max(min(seconds(15_000) for _ in range(3)), 0.005)
    assert seconds(150_000) < 10 * 5 * short  # ten times that would be quadratic


@pytest.mark.parametrize("task", [JA_EN, Text2Text("Question", "Answer")])
def test_a_task_survives_json(task):
    assert task_from_json({"task": task.name, **asdict(task)}) == task
    assert TASKS[task.name] is type(task)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "translation",
        {},
        {"task": "summary"},
        {"task": ["translation"]},
        {"task": "translation", "source": "ja"},
        {"task": "translation", "source": "ja", "target": 1},
        {"task": "translation", "source": "ja", "target": "en", "model": "x"},
    ],
)
def test_a_foreign_task_is_refused(value):
    with pytest.raises(ArtifactError, match="none of the tasks"):
        task_from_json(value)


def test_prompts_name_the_languages():
    prompts = {
        prompt.name: prompt
        for prompt in JA_EN.prompts(Turn("<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n"))
    }
    assert prompts["labelled"].render("猫") == "Japanese: 猫\nEnglish:"
    assert prompts["labelled"].answer("cat") == " cat"
    assert prompts["line"].render("猫") + prompts["line"].answer("cat") == "猫\ncat"
    assert prompts["chat"].render("猫").endswith("猫<end_of_turn>\n<start_of_turn>model\n")


def test_prompts_of_text2text_use_the_words_of_the_job():
    texts = [prompt.render("1+1") for prompt in Text2Text("Sum", "Value").prompts()]
    assert "Sum: 1+1\nValue:" in texts


@pytest.mark.parametrize("code", ["ja", "pt-BR", "pt_BR", "zh-Hans", "yue"])
def test_a_language_has_an_english_name(code):
    assert language_name(code)[0].isupper()


@pytest.mark.parametrize(
    ("code", "meant"),
    [
        ("jp", "ja"),
        ("cz", "cs"),
        ("JA", "ja"),
        ("eng", "en"),
        ("Japanese", "ja"),
        ("Japenese", "ja"),
    ],
)
def test_an_unknown_language_gets_a_suggestion(code, meant):
    with pytest.raises(SpecError, match=f"Did you mean '{meant}'"):
        language_name(code)


@pytest.mark.parametrize("code", ["", "und", "xx", "../..", "\0", "日本語", "q" * 10_000])
def test_what_is_no_language_is_refused(code):
    with pytest.raises(SpecError, match="no language code"):
        language_name(code)


def test_tasks_load_without_workshop_tools():
    heavy = ["torch", "pydantic", "numpy", "babel", "transformers"]
    code = f"import sys, metier.tasks.registry; assert not set({heavy}) & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
