"""Significance: never for luck, never for nothing, always for a real lead."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.errors import DataError, SpecError
from metier.evaluate.metrics import METRICS, score
from metier.evaluate.significance import Comparison, compare

WORDS = ["river", "stone", "lamp", "window", "garden", "letter", "winter", "bread", "road", "music"]


def sentences(n: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(4, 9))) + "." for _ in range(n)]


def damaged(texts: list[str], share: float, seed: int) -> list[str]:
    """Replace a share of the words."""
    draw = random.Random(seed)
    return [" ".join(draw.choice(WORDS) if draw.random() < share else word for word in text.split()) for text in texts]


def flips(n: int, share: float, draw: random.Random) -> list[str]:
    return ["yes" if draw.random() < share else "no" for _ in range(n)]


ROWS = st.lists(st.tuples(*[st.sampled_from([*WORDS[:3], "", "a b c d e"])] * 3), min_size=1, max_size=12)


@settings(max_examples=30)
@given(ROWS, st.sampled_from(METRICS))
def test_changing_places_changes_the_sign_and_nothing_else(rows: list[tuple[str, str, str]], metric: str) -> None:
    a, b, references = map(list, zip(*rows, strict=True))
    there, back = compare(metric, a, b, references), compare(metric, b, a, references)
    assert there.difference == -back.difference
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-9)
    assert there.p == back.p
    assert 0 < there.p <= 1
    assert not (there.beats and back.beats)


@settings(max_examples=20)
@given(ROWS, st.sampled_from(METRICS))
def test_identical_answers_differ_by_nothing(rows: list[tuple[str, str, str]], metric: str) -> None:
    a, _, references = map(list, zip(*rows, strict=True))
    found = compare(metric, a, a, references)
    assert (found.difference, found.p, found.beats) == (0, 1, False)


def test_two_ways_of_being_all_wrong_differ_by_nothing() -> None:
    found = compare("chrf2", ["xx"] * 20, ["yyyy"] * 20, ["zzz"] * 20)
    assert (found.difference, found.p) == (0, 1)


@pytest.mark.parametrize("metric", ["chrf2", "bleu"])
def test_a_clearly_better_contestant_wins_and_a_clearly_worse_one_does_not(metric: str) -> None:
    references = sentences(120, seed=1)
    good, bad = damaged(references, 0.2, seed=2), damaged(references, 0.5, seed=3)
    found = compare(metric, good, bad, references)
    assert found.beats
    assert found.p == pytest.approx(1 / 1001)
    assert 0 < found.low < found.difference < found.high
    assert (found.metric, found.n, found.resamples) == (metric, 120, 1000)
    lost = compare(metric, bad, good, references)
    assert lost.p < 0.05
    assert not lost.beats


@pytest.mark.parametrize("metric", METRICS)
def test_the_difference_is_that_of_the_two_scores(metric: str) -> None:
    references = sentences(40, seed=4)
    a, b = damaged(references, 0.05, seed=5), damaged(references, 0.3, seed=6)
    found = compare(metric, a, b, references)
    assert found.difference == score(metric, a, references).value - score(metric, b, references).value


def test_equally_able_contestants_are_called_different_about_5_times_in_100() -> None:
    draw = random.Random(7)
    p = [
        compare("exact", flips(100, 0.5, draw), flips(100, 0.5, draw), ["yes"] * 100, seed=turn).p
        for turn in range(120)
    ]
    assert 1 <= sum(value < 0.05 for value in p) <= 14
    assert 42 <= sum(value < 0.5 for value in p) <= 78


def test_the_interval_covers_the_true_difference_about_95_times_in_100() -> None:
    draw = random.Random(8)
    covered = 0
    for turn in range(120):
        found = compare("exact", flips(100, 0.6, draw), flips(100, 0.45, draw), ["yes"] * 100, seed=turn)
        covered += found.low <= 15 <= found.high
    assert 106 <= covered <= 119


def test_pairing_finds_a_small_steady_lead_that_single_intervals_hide() -> None:
    references = sentences(150, seed=9)
    worse = damaged(references, 0.5, seed=10)
    better = [
        wanted if row % 12 == 0 else found for row, (wanted, found) in enumerate(zip(references, worse, strict=True))
    ]
    a, b = score("chrf2", better, references), score("chrf2", worse, references)
    assert a.low < b.high
    assert compare("chrf2", better, worse, references).beats


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_handful_of_rows_proves_nothing(rows: int) -> None:
    found = compare("exact", ["yes"] * rows, ["no"] * rows, ["yes"] * rows)
    assert found.difference == 100
    assert found.p >= 2 ** (1 - rows)
    assert not found.beats


def test_a_few_lucky_rows_in_a_long_exam_prove_nothing() -> None:
    references = ["yes"] * 300
    found = compare("exact", ["yes"] * 300, ["yes"] * 295 + ["no"] * 5, references)
    assert found.difference > 0
    assert found.p >= 1 / 16
    assert not found.beats


def test_one_row_leaves_the_difference_open() -> None:
    found = compare("chrf2", ["a cat"], ["a dog"], ["a cat"])
    assert (found.low, found.high) == (-100, 100)


def test_equal_seeds_give_equal_results_and_other_seeds_nearly_so() -> None:
    references = sentences(60, seed=11)
    a, b = damaged(references, 0.3, seed=12), damaged(references, 0.4, seed=13)
    first, again, other = (compare("chrf2", a, b, references, seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert first.low == pytest.approx(other.low, abs=2)


def test_bleu_compares_japanese_by_characters() -> None:
    references = ["猫が屋根で寝ている。", "雨が降りそうだ。"] * 10
    near = ["猫が屋根で寝ていた。", "雨が降りそうだ。"] * 10
    far = ["犬が庭にいた。", "雪になりそうだ。"] * 10
    assert compare("bleu", near, far, references, language="ja").difference > 20


def test_bad_input_is_told_apart() -> None:
    with pytest.raises(DataError):
        compare("chrf2", [], [], [])
    with pytest.raises(SpecError):
        compare("chr2", ["a"], ["a"], ["a"])
    with pytest.raises(ValueError, match="1 answers for 2 references"):
        compare("chrf2", ["a", "b"], ["a"], ["a", "b"])


@pytest.mark.parametrize(
    ("difference", "p", "beats"),
    [
        (1.0, 0.049, True),
        (1.0, 0.05, False),
        (-1.0, 0.001, False),
        (0.0, 0.001, False),
        (float("nan"), 0, False),
    ],
)
def test_beating_takes_a_lead_and_significance(difference: float, p: float, beats: bool) -> None:
    assert Comparison("chrf2", difference, -2, 2, p, 100, 1000).beats is beats


@given(st.integers(2, 30), st.integers(0, 1000))
def test_rows_that_say_a_thing_twice_prove_it_once(n: int, seed: int) -> None:
    references = sentences(n, seed)
    one, two = damaged(references, 0.1, seed), damaged(references, 0.3, seed + 1)
    groups = [str(number) for number in range(n)]
    single = compare("f1", one, two, references)
    twice = compare("f1", one * 2, two * 2, references * 2, groups=groups * 2)
    assert (twice.difference, twice.n) == (pytest.approx(single.difference), 2 * n)
    assert (twice.low, twice.high, twice.p) == (pytest.approx(single.low), pytest.approx(single.high), single.p)
    alone, again = score("f1", one, references), score("f1", one * 2, references * 2, groups=groups * 2)
    assert (again.value, again.low, again.high) == pytest.approx((alone.value, alone.low, alone.high))
    assert compare("f1", one, two, references, groups=groups).p == single.p
