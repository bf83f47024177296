"""Confidence is put right by what was right, and what is promised of a threshold holds."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from metier.evaluate.calibration import (
    NEVER,
    Auroc,
    Rate,
    auroc,
    effective,
    fit,
    reliability,
    risk_coverage,
    threshold,
    upper_bound,
)
from metier.facts.confidence import Calibration, logit

probabilities = st.floats(0.001, 0.999)
graded = st.lists(st.tuples(st.floats(-40, 0), st.booleans()), max_size=60)


def sigmoid(score: float) -> float:
    return 1 / (1 + math.exp(-score))


def test_the_curve_that_made_the_answers_is_found_again() -> None:
    draw = random.Random(3)
    logprobs = [-draw.expovariate(1) for _ in range(20_000)]
    right = [draw.random() < sigmoid(0.6 * logit(one) - 0.8) for one in logprobs]
    slope, intercept = fit(logprobs, right)
    assert slope == pytest.approx(0.6, abs=0.04) and intercept == pytest.approx(-0.8, abs=0.06)


@settings(max_examples=60)
@given(graded)
def test_the_fit_is_the_least_cross_entropy_with_platts_targets(rows: list[tuple[float, bool]]) -> None:
    logprobs, right = [one for one, _ in rows], [flag for _, flag in rows]
    slope, intercept = fit(logprobs, right)
    assert math.isfinite(slope) and math.isfinite(intercept) and slope >= 0
    if not rows:
        return
    many, others = sum(right), len(right) - sum(right)
    x = np.array([logit(one) for one in logprobs])
    target = np.where(right, (many + 1) / (many + 2), 1 / (others + 2))

    def loss(at: np.ndarray) -> float:
        return float(np.sum(np.logaddexp(0, at[0] * x + at[1]) - target * (at[0] * x + at[1])))

    best = minimize(loss, np.zeros(2), bounds=[(0, None), (None, None)], method="L-BFGS-B").fun
    assert loss(np.array([slope, intercept])) <= best + 1e-3 * len(rows)


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("number", [1, 5, 200])
def test_answers_that_are_all_alike_make_nothing_certain(right: bool, number: int) -> None:
    logprobs = [-0.1 * n for n in range(number)]
    sure = Calibration(*fit(logprobs, [right] * number), 0.5, 0.05).confidence(-0.05)
    assert sure == pytest.approx((number + 1) / (number + 2) if right else 1 / (number + 2), abs=1e-6)


def test_without_an_answer_confidence_is_a_half() -> None:
    assert Calibration(*fit([], []), 0.5, 0.05).confidence(-3.0) == 0.5


def test_where_likelier_answers_are_less_often_right_confidence_is_the_same_for_all() -> None:
    slope, _ = fit([-0.1] * 50 + [-3.0] * 50, [False] * 50 + [True] * 50)
    assert slope == 0


@settings(max_examples=60)
@given(graded, st.floats(-40, 0), st.floats(-40, 0))
def test_a_likelier_answer_is_never_less_sure(rows: list[tuple[float, bool]], one: float, other: float) -> None:
    curve = Calibration(*fit([logprob for logprob, _ in rows], [right for _, right in rows]), 0.5, 0.05)
    low, high = sorted((one, other))
    assert 0 <= curve.confidence(low) <= curve.confidence(high) <= 1


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=40))
def test_auroc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[int, bool]]) -> None:
    ours, theirs = [one for one, flag in rows if flag], [one for one, flag in rows if not flag]
    found = auroc([one for one, _ in rows], [flag for _, flag in rows])
    if not ours or not theirs:
        assert found == Auroc(None, len(ours), len(theirs))
        return
    pairs = [(a > b) + (a == b) / 2 for a in ours for b in theirs]
    assert found.value == pytest.approx(sum(pairs) / len(pairs))


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=40, unique_by=lambda row: row[0]))
def test_the_risk_coverage_curve_counts_the_wrong_among_the_surest(rows: list[tuple[int, bool]]) -> None:
    curve = risk_coverage([one for one, _ in rows], [flag for _, flag in rows])
    surest = [flag for _, flag in sorted(rows, reverse=True)]
    risks = [1 - sum(surest[:n]) / n for n in range(1, len(rows) + 1)]
    assert curve.risk == pytest.approx(risks)
    assert curve.coverage == pytest.approx([n / len(rows) for n in range(1, len(rows) + 1)])
    assert curve.area == pytest.approx(sum(risks) / len(risks))


def test_equally_sure_answers_have_one_risk_whatever_their_order() -> None:
    assert risk_coverage([1, 1, 1, 1], [True, True, False, False]).risk == (0.5,) * 4
    assert risk_coverage([], []).area is None


def test_the_calibration_error_is_the_mean_distance_over_bins_of_equal_numbers() -> None:
    sure = [(n + 0.5) / 30 for n in range(30)]
    found = reliability(sure, [True] * 30)
    assert [one.right.n for one in found.bins] == [2] * 15
    assert found.error == pytest.approx(sum(1 - one for one in sure) / 30)
    assert found.bins[0].mean == pytest.approx(1 / 30)


def test_equal_confidences_share_a_bin() -> None:
    found = reliability([0.5] * 100, [True] * 50 + [False] * 50)
    assert len(found.bins) == 1 and found.error == 0
    assert reliability([], []).error is None


@given(st.integers(0, 40), st.integers(0, 40))
def test_an_interval_holds_its_share_and_narrows_with_numbers(count: int, more: int) -> None:
    few, many = Rate.of([True] * count + [False] * more), Rate.of(([True] * count + [False] * more) * 3)
    assert 0 <= few.low <= (few.share if few.share is not None else 0.5) <= few.high <= 1
    assert many.high - many.low <= few.high - few.low


def test_a_bound_is_what_clopper_and_pearson_give() -> None:
    assert upper_bound(0, 100, 0.05) == pytest.approx(1 - 0.05 ** (1 / 100))  # the "rule of three", exactly
    assert upper_bound(5, 5, 0.05) == 1


def drawn(draw: random.Random, known: int, unknown: int) -> tuple[list[float], list[bool], list[bool], list[bool]]:
    """Answers whose confidence is exactly right for known questions, and lower for unknown ones."""
    sure = [draw.random() ** 0.1 for _ in range(known)] + [draw.random() ** 3 for _ in range(unknown)]
    right = [draw.random() < one for one in sure[:known]] + [False] * unknown
    return sure, right, [False] * known + [True] * unknown, [True] * (known + unknown)


def test_a_threshold_keeps_both_risks_on_questions_it_never_saw() -> None:
    """More often than promised, as the bounds are those of the worst case."""
    draw = random.Random(1)
    sure, right, unknown, _ = drawn(draw, 30_000, 10_000)
    whole = np.array(sure), np.array(right), np.array(unknown)
    broken, found = 0, 0
    for _ in range(150):
        chosen = threshold(*drawn(draw, 600, 200), risk=0.1)
        given_N = whole[0] >= chosen.value
        if not given_N.any():
            continue
        found += 1
        wrong = (given_N & ~whole[1]).sum() / given_N.sum()
        broken += wrong > 0.1 or (given_N & whole[2]).sum() / whole[2].sum() > 0.1
    assert found > 120, "mostly there is such a threshold"
    assert broken <= 0.1 * found


def test_a_threshold_is_not_far_from_the_best_one() -> None:
    draw = random.Random(2)
    chosen = threshold(*drawn(draw, 6000, 2000), risk=0.1)
    assert chosen.wrong / chosen.given > 0.06 or chosen.unknown_answered > 120
    assert chosen.wrong_bound <= 0.1 and chosen.unknown_bound <= 0.1


def overlapping(draw: np.random.Generator, known: int, unknown: int) -> tuple[list, list, list, list]:
    """Answers of a good file whose wrong ones are not much less sure: 97% right, 5% of the unknown answered."""
    right = draw.random(known) < 0.97
    sure = np.where(right, draw.normal(3, 1, known), draw.normal(1.5, 1, known))
    both = np.concatenate([sure, draw.normal(1.5, 1, unknown)])
    said = np.concatenate([np.ones(known, bool), draw.random(unknown) < 0.05])
    of_unknown = np.arange(known + unknown) >= known
    return (1 / (1 + np.exp(-both))).tolist(), [*right.tolist(), *[False] * unknown], of_unknown.tolist(), said.tolist()


def test_a_good_file_is_not_held_back_by_the_search_for_its_threshold() -> None:
    """Where each of eleven thresholds had its share of the 5%, in 120 of 200 files."""
    draw = np.random.default_rng(4)
    rows = [overlapping(draw, 1000, 500) for _ in range(40)]
    kept = [sum(np.array(sure)[:1000] >= threshold(sure, *rest, 0.05).value) for sure, *rest in rows]
    assert sum(number > 900 for number in kept) > 30 and min(kept) > 500


@pytest.mark.parametrize("said", [0.2, 1.0])
def test_unknown_questions_are_answered_more_often_than_the_risk_by_one_file_in_twenty_at_most(said: float) -> None:
    """Though no bound is corrected for the search: the true share is the confidence at which it is cut."""
    draw, broken = np.random.default_rng(5), 0
    for _ in range(200):
        speaks = (draw.random(500) < said).tolist()
        sure = [*(1 - 1e-6 * draw.random(1000)).tolist(), *draw.random(500).tolist()]
        right, unknown = [True] * 1000 + [False] * 500, [False] * 1000 + [True] * 500
        chosen = threshold(sure, right, unknown, [True] * 1000 + speaks, 0.05).value
        broken += said * (1 - chosen) > 0.05
    assert broken <= 16, "5% of 200, and two standard deviations"


def test_a_wrong_answer_among_the_surest_does_not_end_the_search() -> None:
    """One in eighty at the first start is too many to go on; at the other it is not."""
    sure = [1 - n / 10_000 for n in range(640)]
    right = [n not in (0, 1) for n in range(640)]
    assert threshold(sure, right, [False] * 640, [True] * 640, 0.05).given == 640


def test_a_file_that_knows_a_little_gives_the_little_it_knows() -> None:
    sure = [1 - n / 10_000 for n in range(1000)]
    right = [n < 250 or n % 2 == 0 for n in range(1000)]
    chosen = threshold(sure, right, [False] * 1000, [True] * 1000, 0.05)
    assert 240 < chosen.given < 270 and chosen.wrong_bound <= 0.05


def test_words_for_not_knowing_are_never_given() -> None:
    """However likely they are: else the unknown ones among them would be answers."""
    sure = [0.9] * 400 + [0.99] * 200
    right, unknown = [True] * 400 + [False] * 200, [False] * 400 + [True] * 200
    said = [True] * 400 + [False] * 200
    chosen = threshold(sure, right, unknown, said, 0.05)
    assert (chosen.value, chosen.given, chosen.unknown_answered) == (0.9, 400, 0)
    assert threshold(sure, right, unknown, [True] * 600, 0.05).value == NEVER


@pytest.mark.parametrize("number", [0, 1, 50])
def test_too_few_answers_promise_nothing(number: int) -> None:
    chosen = threshold([0.99] * number, [True] * number, [False] * number, [True] * number, 0.05)
    assert chosen.value > 1 and chosen.given == 0


def test_many_right_answers_are_all_given() -> None:
    sure = [0.5 + n / 1000 for n in range(400)]
    assert threshold(sure, [True] * 400, [False] * 400, [True] * 400, 0.05).value == 0.5


def test_answers_to_what_has_none_are_held_back_although_few_answers_are_wrong() -> None:
    """Five wrong ones among a thousand are no risk, but they are half of the questions without an answer."""
    sure = [0.8] * 1000 + [0.9] * 5 + [0.1] * 5
    right, unknown = [True] * 1000 + [False] * 10, [False] * 1000 + [True] * 10
    assert threshold(sure, right, unknown, [True] * 1010, 0.05).value == NEVER


def test_rows_about_one_subject_count_as_one_where_they_are_alike_and_in_full_where_they_are_not() -> None:
    dice = np.random.default_rng(5)
    flag_N = dice.random(900) < 0.2
    alone, in_threes = np.arange(900), np.arange(900) // 3
    assert effective(flag_N, alone) == pytest.approx(900, rel=0.01)
    assert effective(np.repeat(flag_N, 3), np.repeat(alone, 3)) == pytest.approx(900, rel=0.01)
    assert effective(flag_N, in_threes) == 300
    assert effective(np.zeros(900, bool), in_threes) == 300
    assert effective(np.ones(0, bool), np.arange(0)) == 0


def test_one_wrong_answer_more_makes_no_bound_lower() -> None:
    subjects = [str(number // 2) for number in range(200)]
    bounds = [
        Rate.of([number < 2 * wrong and number % 2 == 0 for number in range(200)], subjects).high for wrong in range(30)
    ]
    assert bounds == sorted(bounds) and bounds[0] < bounds[1]


def test_intervals_hold_the_share_though_several_rows_are_about_one_subject() -> None:
    dice = np.random.default_rng(6)
    subjects = [f"subject {at // 5}" for at in range(500)]
    drawn = [np.repeat(dice.random(100) < 0.1, 5) for _ in range(400)]
    held = [one.low <= 0.1 <= one.high for one in (Rate.of(flags, subjects) for flags in drawn)]
    as_if_alone = [one.low <= 0.1 <= one.high for one in map(Rate.of, drawn)]
    assert np.mean(held) > 0.93 and np.mean(as_if_alone) < 0.7


def test_a_threshold_trusts_unknown_questions_less_where_they_are_about_few_subjects() -> None:
    dice = np.random.default_rng(7)
    sure = [*(0.5 + 0.5 * dice.random(1000)), *np.repeat(0.6 * dice.random(100), 5)]
    right, unknown = [True] * 1000 + [False] * 500, [False] * 1000 + [True] * 500
    said, subjects = [True] * 1500, [str(at) if at < 1000 else f"subject {at // 5}" for at in range(1500)]
    alone = threshold(sure, right, unknown, said, 0.05)
    together = threshold(sure, right, unknown, said, 0.05, subjects)
    assert together.value > alone.value and together.unknown_bound <= 0.05
    assert together.unknown_answered < alone.unknown_answered


def test_a_fact_asked_twice_speaks_for_a_threshold_once() -> None:
    """Files just at the risk, alike within a fact: 16.7% of them were given a threshold when each row counted."""
    draw, given_one, files = np.random.default_rng(0), 0, 300
    subjects = [str(at) for at in range(250)] * 2
    for _ in range(files):
        sure, right = draw.random(250), draw.random(250) >= 0.05
        found = threshold([*sure, *sure], [*right, *right], [False] * 500, [True] * 500, 0.05, subjects)
        given_one += found.value < NEVER
    assert given_one / files < 0.08
