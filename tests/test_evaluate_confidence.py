"""What is measured of knowledge is what the answers say."""

import json
from dataclasses import fields, replace

import pytest
from fabricated import UNKNOWN, asked_exam, exam

from metier.data.questions.about import About
from metier.data.records import Record
from metier.errors import ArtifactError, DataError
from metier.evaluate.answers import Answer
from metier.evaluate.confidence import Asked, Knowledge, Way, asked, century, knowledge_of


def row(kind: str, said: str, logprob: float = -0.1, wanted: str = "1066", year: int | None = 1066) -> tuple:
    about = About(kind, "ask", "battle", "Hastings", wanted, year, "Europe")  # type: ignore[arg-type]
    return Record("When?", wanted if kind == "known" else UNKNOWN), Answer(said, logprob), about


def rows(*made: tuple) -> list:
    return asked(*map(list, zip(*made, strict=True)), UNKNOWN)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "said", "answered", "right"),
    [
        ("known", "14 October 1066", True, True),
        ("known", "1067", True, False),
        ("known", "i don't know", False, False),
        ("known", " ... ", False, False),
        ("withheld", "1066", True, True),
        ("withheld", "1067", True, False),
        ("invented", "1066", True, False),
        ("withheld", "I don't know.", False, False),
        ("invented", "", False, False),
        ("invented", "Unknown", False, False),
        ("known", "I'm sorry, the exact date is not known.", False, False),
        ("known", "the Unknown Soldier", True, False),
    ],
)
def test_an_answer_is_what_says_more_than_not_knowing(kind: str, said: str, answered: bool, right: bool) -> None:
    (found,) = rows(row(kind, said))
    assert (found.answered, found.right) == (answered, right)


def test_a_withheld_subject_that_is_asked_for_is_a_right_answer_by_its_name() -> None:
    record, answer, about = row("withheld", "Ada Brook", wanted="1802")
    back = replace(about, form="reverse", subject="Ada Brook (weaver)")
    assert [one.right for one in asked([record] * 2, [answer] * 2, [about, back], UNKNOWN)] == [False, True]


def test_an_answer_without_a_log_probability_is_refused() -> None:
    record, answer, about = row("known", "1066")
    with pytest.raises(ValueError, match="no log-probability"):
        asked([record], [answer._replace(logprob=None)], [about], UNKNOWN)


def test_a_right_answer_is_one_even_in_words_for_not_knowing() -> None:
    (one,) = rows(row("known", "Unknown", wanted="unknown"))
    assert one.answered and one.right


def test_both_ways_of_not_answering_are_counted_apart() -> None:
    validation = asked_exam(known=1500, unknown=600, seed=1)
    test = rows(
        *[row("known", "1066", -0.001)] * 6,
        row("known", "1067", -9.0),
        row("known", "I don't know", -0.001),
        row("withheld", "1070", -9.0),
        row("withheld", "I don't know", -0.001),
        row("invented", "1071", -9.0),
        row("invented", "1071", -0.001),
    )
    found = knowledge_of("file", validation, test, 0.1)
    assert 0.5 < found.calibration.threshold <= 1
    assert found.exact.value == pytest.approx(75) and found.exact.n == 8
    own, sure = found.own, found.sure
    assert (own.coverage.count, own.coverage.n) == (7, 8) and (sure.coverage.count, sure.coverage.n) == (6, 8)
    assert (own.right.count, own.right.n) == (6, 7) and (sure.right.count, sure.right.n) == (6, 6)
    assert (own.wrong.count, own.wrong.n) == (4, 10) and (sure.wrong.count, sure.wrong.n) == (1, 7)
    assert (own.withheld.count, own.withheld.n) == (1, 2) and (sure.withheld.count, sure.withheld.n) == (0, 2)
    assert (own.invented.count, own.invented.n) == (2, 2) and (sure.invented.count, sure.invented.n) == (1, 2)
    assert (own.unknown.count, own.unknown.n) == (3, 4) and (sure.unknown.count, sure.unknown.n) == (1, 4)
    assert [one.said for one in found.wrong] == ["1067"] and not found.wrong[0].given
    assert (found.answered[0].kind, found.answered[0].given) == ("invented", True) and len(found.answered) == 3


def test_words_for_not_knowing_are_the_least_sure_of_all() -> None:
    test = rows(row("known", "1066", -5.0), row("withheld", "I don't know", -0.001))
    found = knowledge_of("file", asked_exam(), test, 0.05)
    assert found.known_or_not.value == 1
    assert (found.right_or_wrong.value, found.right_or_wrong.positive) == (None, 1)


def test_calibration_brings_confidence_nearer_to_what_is_right() -> None:
    found = knowledge_of("file", asked_exam(known=1500, seed=1), asked_exam(known=1500, seed=2), 0.05)
    assert found.before.error is not None and found.after.error is not None
    assert found.after.error < 0.05 < found.before.error
    assert found.right_or_wrong.value is not None and found.right_or_wrong.value > 0.8


def test_another_risk_gives_another_threshold_and_the_same_curve() -> None:
    validation, test = asked_exam(known=1500, seed=1), asked_exam(seed=2)
    strict, lax = (knowledge_of("file", validation, test, risk) for risk in (0.04, 0.2))
    assert strict.calibration.slope == lax.calibration.slope
    assert strict.calibration.threshold > lax.calibration.threshold
    assert strict.sure.coverage.count < lax.sure.coverage.count
    assert replace(strict.own) == lax.own


def test_what_cannot_be_promised_is_not_answered() -> None:
    found = knowledge_of("file", asked_exam(known=40, unknown=10), asked_exam(), 0.01)
    assert found.calibration.threshold > 1
    assert found.sure.coverage.count == 0 and found.sure.wrong.share is None


def test_errors_are_counted_by_century_region_relation_and_form() -> None:
    test = rows(
        row("known", "1066"),
        row("known", "1067"),
        row("known", "490 BC", wanted="490 BC", year=-490),
        row("withheld", "1"),
    )
    found = knowledge_of("file", asked_exam(), test, 0.05).errors
    assert list(found) == ["century", "region", "relation", "form"]
    assert [(one.name, one.right.count, one.right.n) for one in found["century"]] == [
        ("5th century BC", 1, 1),
        ("11th century", 1, 2),
    ]
    assert [(one.name, one.right.n) for one in found["relation"]] == [("battle", 3)]


@pytest.mark.parametrize(
    ("year", "name"),
    [
        (1, "1st century"),
        (100, "1st century"),
        (101, "2nd century"),
        (1066, "11th century"),
        (2001, "21st century"),
        (-1, "1st century BC"),
        (-100, "1st century BC"),
        (-101, "2nd century BC"),
        (None, "no date"),
    ],
)
def test_a_year_is_in_its_century(year: int | None, name: str) -> None:
    assert century(year)[1] == name


def test_centuries_are_in_their_order() -> None:
    years = [-490, -44, 1, 1066, 2001, None]
    assert sorted(years, key=lambda year: century(year)[0]) == years


@pytest.mark.parametrize("how", [{}, {"known": 30, "unknown": 0}, {"knows": 0.0, "shy": 1.0}, {"knows": 1.0}])
def test_knowledge_comes_back_from_its_json(how: dict[str, float]) -> None:
    found = knowledge_of("file", asked_exam(seed=1), asked_exam(**{"seed": 2, **how}), 0.05)
    text = json.dumps(found.to_json(), allow_nan=False)
    assert Knowledge.from_json(json.loads(text)) == found


def test_what_is_no_knowledge_is_refused() -> None:
    with pytest.raises(ArtifactError, match="what was measured of knowledge"):
        Knowledge.from_json({"name": "file"})


def test_an_exam_without_a_known_question_is_refused() -> None:
    with pytest.raises(DataError):
        knowledge_of("file", asked_exam(), asked_exam(known=0), 0.05)


def test_rows_that_do_not_belong_together_are_refused() -> None:
    records, answers, abouts = exam()
    with pytest.raises(ValueError, match="argument 2"):
        asked(records, answers[1:], abouts, UNKNOWN)


def two_about_each(exam: list[Asked]) -> list[Asked]:
    """Return an exam with two questions about each subject."""
    return [replace(one, about=replace(one.about, subject=f"subject {at // 2}")) for at, one in enumerate(exam)]


def test_an_exam_asked_twice_over_says_no_more_than_once() -> None:
    validation, test = (two_about_each(asked_exam(known=900, unknown=400, seed=seed)) for seed in (1, 2))
    once, twice = (knowledge_of("file", validation * times, test * times, 0.2) for times in (1, 2))
    assert (twice.exact.low, twice.exact.high) == pytest.approx((once.exact.low, once.exact.high))
    for name in (field.name for field in fields(Way)):
        one, two = getattr(once.sure, name), getattr(twice.sure, name)
        assert (two.n, two.count) == (2 * one.n, 2 * one.count) and one.n
        assert (two.low, two.high) == pytest.approx((one.low, one.high)), name
    assert twice.chosen.given == 2 * once.chosen.given
    assert twice.calibration.threshold == pytest.approx(once.calibration.threshold, abs=0.01)
