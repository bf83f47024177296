"""The report on what a file knows opens anywhere and shows what was measured."""

import io
from html.parser import HTMLParser

import pytest
from fabricated import asked_exam
from rich.console import Console

from metier.analysis.knowledge_page import page
from metier.analysis.knowledge_plots import MOST_BARS, shown_groups
from metier.evaluate.calibration import Rate
from metier.evaluate.confidence import Group, Knowledge, knowledge_of
from metier.evaluate.report import knowledge_markdown, render
from metier.evaluate.verdict import Licences, Limit, Parity, Verdict, decide, rate_text

VOID = {"meta", "br", "link", "img", "use", "path"}


class Seen(HTMLParser):
    """Collects text and attributes, and checks that elements are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def ours() -> Knowledge:
    return knowledge_of(
        "history-Q4_0",
        asked_exam(known=1500, unknown=500, seed=1, knows=0.97, shy=0.8),
        asked_exam(known=400, unknown=250, seed=2, knows=0.9, shy=0.8),
        0.05,
    )


@pytest.fixture(scope="module")
def base() -> Knowledge:
    return knowledge_of("base", asked_exam(seed=3, knows=0.2, shy=0.0), asked_exam(seed=4, knows=0.2, shy=0.0), 0.05)


@pytest.fixture(scope="module")
def seen(ours: Knowledge, base: Knowledge) -> Seen:
    found = Seen()
    found.feed(page("history", [ours, base]))
    found.close()
    return found


def test_the_page_is_whole_and_needs_nothing_from_outside(seen: Seen) -> None:
    assert seen.open == [] and "script" not in seen.tags and "link" not in seen.tags
    addresses = [value for name, value in seen.attributes if name in ("src", "href", "xlink:href", "action")]
    assert all(address and address.startswith("#") for address in addresses)
    assert not any("http" in (value or "") for _, value in seen.attributes)
    assert seen.tags.count("svg") == 2 + 4


def test_the_page_shows_plots_tables_and_answers_to_read(ours: Knowledge, seen: Seen) -> None:
    text = " ".join(seen.text)
    for title in ("Risk and coverage", "Is confidence what it says?", "Errors by century", "Errors by region"):
        assert title in text
    assert "11th century" in text and "not told" in text and "comparison" in text and "treaty" in text
    assert "When was <event> " in text, "a question's < is text"
    assert len(ours.wrong) > 5 and len(ours.answered) == 20
    assert all(one.question in text for one in (*ours.wrong, *ours.answered))
    assert f"{ours.calibration.threshold:.3f}" in text


def test_where_no_threshold_keeps_the_risk_the_page_says_so(base: Knowledge) -> None:
    assert base.calibration.threshold > 1
    assert "nothing is answered" in page("history", [base])


@pytest.mark.parametrize("how", [{"unknown": 0}, {"knows": 0.0, "shy": 1.0}, {"known": 1, "unknown": 1}])
def test_a_page_is_made_of_any_exam(how: dict[str, float]) -> None:
    found = knowledge_of("file", asked_exam(), asked_exam(**{"seed": 5, **how}), 0.05)
    assert page("history", [found]).rstrip().endswith("</html>")
    assert knowledge_markdown([found])


def test_of_too_many_groups_the_largest_have_bars_in_their_order() -> None:
    rate = Rate.of([])
    groups = [Group(str(n), Rate.of([True] * (n % 50 + 1)), rate, rate) for n in range(100)]
    shown = shown_groups(groups)
    assert len(shown) == MOST_BARS and [int(one.name) for one in shown] == sorted(int(one.name) for one in shown)
    assert min(one.right.n for one in shown) > 30


def test_the_tables_show_both_ways_beside_each_other(ours: Knowledge, base: Knowledge) -> None:
    lines = knowledge_markdown([ours, base]).splitlines()
    rows = [line for line in lines if line.startswith("| history-Q4_0")]
    assert "in its own words" in rows[0] and "by the threshold" in rows[1]
    assert rate_text(ours.own.coverage) in rows[0] and rate_text(ours.sure.coverage) in rows[1]
    assert rate_text(ours.own.coverage) != rate_text(ours.sure.coverage)
    assert any("none keeps the risk" in line for line in lines if line.startswith("| base"))


def judged(knowledge: Knowledge | None, risk: float | None = 0.05) -> Verdict:
    return decide(
        must_beat=[],
        comparisons={},
        file_mib=Limit(1.0, 2.0),
        ram_mib=Limit(None, None),
        parity=Parity(True, "like it", {"low": 0.0}),
        licences=Licences(True, "own"),
        scores=[],
        risk=risk,
        knowledge=knowledge,
    )


def test_risks_that_are_kept_are_gates_that_pass(ours: Knowledge) -> None:
    verdict = judged(ours)
    wrong, unknown = verdict.gates[-2:]
    assert verdict.released
    assert wrong.name == "wrong answers" and wrong.wanted == "at most 5% of the answers given"
    assert f"n = {ours.sure.wrong.n}" in wrong.found and "[" in wrong.found
    assert unknown.name == "unknown questions" and unknown.wanted == "at most 5% answered"
    assert f"n = {ours.sure.unknown.n}" in unknown.found


def test_risks_that_are_not_kept_are_reasons(ours: Knowledge) -> None:
    assert [reason.partition(":")[0] for reason in judged(ours, 0.0001).reasons] == [
        "wrong answers",
        "unknown questions",
    ]


def test_a_file_that_answers_nothing_is_not_released(base: Knowledge) -> None:
    (reason,) = judged(base).reasons
    assert reason == "wrong answers: wanted at most 5% of the answers given, found none: no answer is given"


def test_what_was_not_measured_passes_no_gate_and_other_jobs_have_none() -> None:
    assert [reason.rpartition(" found ")[2] for reason in judged(None).reasons] == ["not measured"] * 2
    assert len(judged(None, risk=None).gates) == len(judged(None).gates) - 2


def test_an_exam_without_unknown_questions_shows_nothing_of_them() -> None:
    found = knowledge_of("file", asked_exam(known=1500, seed=1), asked_exam(unknown=0, seed=2), 0.05)
    assert [gate.found for gate in judged(found).gates if gate.name == "unknown questions"] == ["no such question"]
    assert not judged(found).released


def test_the_terminal_shows_the_gates(ours: Knowledge) -> None:
    file = io.StringIO()
    Console(file=file, width=200).print(render(judged(ours)))
    assert "pass  unknown questions: wanted at most 5% answered; found " in file.getvalue()
