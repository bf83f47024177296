"""Scores are sacrebleu's own, with an interval and a signature."""

import random

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from metier.errors import DataError, SpecError
from metier.evaluate.metrics import METRICS, row_statistics, score

REFERENCES = [
    "The cat sleeps on the warm roof.",
    "We moved to a smaller town last autumn.",
    "Nobody had told her about the letter.",
    "It will rain before the evening train leaves.",
    "He counts the coins twice, every time.",
] * 6
ANSWERS = [
    "The cat is sleeping on the roof.",
    "Last autumn we moved to a small town.",
    "Nobody told her about the letter.",
    "",
    "He counts the coins twice, every time.",
] * 6
TEXTS = st.lists(
    st.tuples(st.text(max_size=30), st.text(max_size=30))
    | st.tuples(st.sampled_from(ANSWERS), st.sampled_from(REFERENCES)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60)
@given(TEXTS)
def test_the_value_is_exactly_what_sacrebleu_says(pairs: list[tuple[str, str]]) -> None:
    answers, references = map(list, zip(*pairs, strict=True))
    chrf2, bleu = (row_statistics(metric, answers, references).value for metric in ("chrf2", "bleu"))
    assert chrf2 == CHRF().corpus_score(answers, [references]).score
    assert bleu == BLEU().corpus_score(answers, [references]).score


def test_a_score_carries_that_value() -> None:
    assert score("chrf2", ANSWERS, REFERENCES).value == CHRF().corpus_score(ANSWERS, [REFERENCES]).score
    assert score("bleu", ANSWERS, REFERENCES).value == BLEU().corpus_score(ANSWERS, [REFERENCES]).score


def test_the_signature_is_sacrebleus_with_its_version() -> None:
    assert score("chrf2", ANSWERS, REFERENCES).signature == (
        f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{sacrebleu.__version__}"
    )
    assert "tok:13a|smooth:exp|version:" in score("bleu", ANSWERS, REFERENCES).signature


@pytest.mark.parametrize(
    ("language", "tokenizer"),
    [
        ("ja", "char"),
        ("ja-JP", "char"),
        ("zh", "zh"),
        ("zh_Hant", "zh"),
        ("ZH", "zh"),
        ("en", "13a"),
        ("", "13a"),
    ],
)
def test_bleu_cuts_words_as_the_answers_language_wants(language: str, tokenizer: str) -> None:
    found = score("bleu", ["猫が寝る。"], ["猫が寝た。"], language=language)
    assert f"|tok:{tokenizer}|" in found.signature


def test_japanese_bleu_gives_credit_for_a_nearly_right_answer() -> None:
    pair = ["彼は毎朝早く起きて走る。"], ["彼は毎朝早く起きて歩く。"]
    assert score("bleu", *pair, language="ja").value > 50 > score("bleu", *pair).value


def test_exact_is_the_share_of_answers_equal_after_nfkc_and_trimming() -> None:
    found = score("exact", [" 12\u3000", "１２", "12.", ""], ["12", "12", "12", "12"])
    assert found.value == 50.0
    assert "norm:nfkc+strip" in found.signature


@pytest.mark.parametrize("metric", METRICS)
def test_the_interval_holds_the_value_and_is_the_same_every_time(metric: str) -> None:
    found = score(metric, ANSWERS, REFERENCES)
    assert 0 <= found.low < found.value < found.high <= 100
    assert found.n == 30
    assert found == score(metric, ANSWERS, REFERENCES)


@pytest.mark.parametrize("metric", METRICS)
def test_right_answers_score_a_hundred_and_empty_ones_nothing(metric: str) -> None:
    right = score(metric, REFERENCES, REFERENCES)
    assert right.value == right.high == pytest.approx(100)
    empty = score(metric, [""] * 30, REFERENCES)
    assert empty.value == empty.low == 0
    if metric in ("chrf2", "bleu"):  # of the others see below
        assert (right.low, empty.high) == (pytest.approx(100), 0)


def test_more_rows_make_a_narrower_interval() -> None:
    few, many = (score("chrf2", ANSWERS * k, REFERENCES * k) for k in (1, 9))
    assert many.high - many.low < (few.high - few.low) / 2


def test_the_interval_covers_the_true_share_about_95_times_in_100() -> None:
    draw = random.Random(5)
    covered = 0
    for _ in range(120):
        answers = ["yes" if draw.random() < 0.4 else "no" for _ in range(100)]
        found = score("exact", answers, ["yes"] * 100, seed=draw.randrange(10**6))
        covered += found.low <= 40 <= found.high
    assert 106 <= covered <= 119


@pytest.mark.parametrize("metric", METRICS)
def test_one_row_claims_nothing_about_other_rows(metric: str) -> None:
    found = score(metric, ["A cat sleeps here."], ["A cat sleeps here."])
    assert (found.low, found.high, found.n) == (0.0, 100.0, 1)


@pytest.mark.parametrize("metric", METRICS)
def test_references_that_are_all_equal_or_empty_can_be_scored(metric: str) -> None:
    assert score(metric, ["a b c d e", "x"], ["a b c d e"] * 2).value > 0
    assert 0 <= score(metric, ["a", ""], ["", ""]).value <= 100


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("language", ["en", "ja", "zh"])
def test_lone_surrogates_newlines_and_nul_do_not_stop_an_exam(metric: str, language: str) -> None:
    odd = ["one lone \ud800 half of two", "two\nlines and\r\nmore\n", "NUL \x00", "\u2028", ""]
    assert score(metric, odd, odd, language=language).value > 0


@pytest.mark.parametrize(
    ("wrong", "meant"), [("chrf", "chrf2"), ("BLEU", "bleu"), ("chrF2", "chrf2"), ("exakt", "exact")]
)
def test_an_unknown_metric_is_an_error_with_a_suggestion(wrong: str, meant: str) -> None:
    with pytest.raises(SpecError, match=f"Did you mean '{meant}'") as caught:
        score(wrong, ANSWERS, REFERENCES)
    assert "chrf2, bleu, exact" in str(caught.value)


def test_an_exam_without_rows_is_the_users_error_and_a_wrong_count_is_ours() -> None:
    with pytest.raises(DataError, match="no rows"):
        score("chrf2", [], [])
    with pytest.raises(ValueError, match="2 answers for 3 references"):
        score("chrf2", ["a", "b"], ["a", "b", "c"])


@pytest.mark.parametrize("metric", ["exact", "answer", "f1"])
def test_where_all_rows_are_right_or_all_wrong_the_interval_is_the_exact_one(metric: str) -> None:
    whole, none = (score(metric, [said] * 100, ["1066"] * 100) for said in ("1066", "banana"))
    assert (whole.value, whole.high, none.value, none.low) == (100, 100, 0, 0)
    assert whole.low == pytest.approx(100 * 0.025 ** (1 / 100)) and none.high == pytest.approx(100 - whole.low)
    grouped = score(metric, ["1066"] * 100, ["1066"] * 100, groups=[str(at // 5) for at in range(100)])
    assert grouped.low == pytest.approx(100 * 0.025 ** (1 / 20)), "twenty subjects"
