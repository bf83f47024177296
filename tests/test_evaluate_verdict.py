"""The verdict: every gate can say no, and only all of them together say yes."""

import json
from dataclasses import replace
from typing import Any

import pytest
from fabricated import asked_exam

from metier.errors import ArtifactError
from metier.evaluate.calibration import Rate
from metier.evaluate.confidence import knowledge_of
from metier.evaluate.metrics import Score
from metier.evaluate.significance import Comparison
from metier.evaluate.verdict import Contestant, Licences, Limit, Parity, Verdict, decide, rate_text

WON = Comparison("chrf2", 2.9, 1.8, 4.0, 0.000999, 500, 1000)
LOST = Comparison("chrf2", 0.4, -0.9, 1.7, 0.51, 500, 1000)
PARITY = Parity(True, "low above -0.5 chrF2", {"difference": -0.1, "low": -0.3})
NOT_LIKE = Parity(False, "low above -0.5 chrF2", {"low": -0.7})
LICENCES = Licences(True, "CC-BY-4.0")
SHIPPED = Contestant("jobname-Q8_0.gguf", (Score("chrf2", 34.1, 32.9, 35.2, 500, "v"),), 124.0, 87.0)
BASE = Contestant("base", (Score("chrf2", 31.3, 30.1, 32.4, 500, "v"),), 241.0, 18.6)
GOOD: dict[str, Any] = {
    "must_beat": ["base"],
    "comparisons": {"base": WON},
    "file_mib": Limit(124.0, 130.0),
    "ram_mib": Limit(300.0, 400.0),
    "parity": PARITY,
    "licences": LICENCES,
    "scores": [SHIPPED, BASE],
}


def test_a_build_that_passes_every_gate_is_released() -> None:
    verdict = decide(**GOOD)
    assert verdict.released
    assert verdict.reasons == []
    assert [gate.name for gate in verdict.gates] == [
        "beats base",
        "file size",
        "memory",
        "parity",
        "licences",
    ]


BROKEN = [
    ("beats base", {"comparisons": {"base": LOST}}),
    ("beats base", {"comparisons": {}}),
    ("beats base", {"comparisons": {"another": WON}}),
    ("beats base", {"comparisons": {"base": Comparison("chrf2", -2.9, -4.0, -1.8, 0.001, 500, 1000)}}),
    ("file size", {"file_mib": Limit(130.01, 130.0)}),
    ("file size", {"file_mib": Limit(None, 130.0)}),
    ("file size", {"file_mib": Limit(0.0, 130.0)}),
    ("file size", {"file_mib": Limit(float("nan"), 130.0)}),
    ("memory", {"ram_mib": Limit(401.0, 400.0)}),
    ("memory", {"ram_mib": Limit(None, 400.0)}),
    ("parity", {"parity": NOT_LIKE}),
    ("parity", {"parity": Parity(True, "low above -0.5 chrF2", {})}),
    ("parity", {"parity": Parity(True, "low above -0.5 chrF2", {"low": float("nan")})}),
    ("licences", {"licences": Licences(False, "unknown", ("own.tsv: licence unknown",))}),
    ("licences", {"licences": Licences(True, " ")}),
]


@pytest.mark.parametrize(("name", "change"), BROKEN)
def test_breaking_one_gate_stops_the_release_and_names_that_gate(name: str, change: dict[str, Any]) -> None:
    verdict = decide(**{**GOOD, **change})
    assert not verdict.released
    assert [gate.name for gate in verdict.gates if not gate.passed] == [name]
    assert len(verdict.reasons) == 1
    assert verdict.reasons[0].startswith(f"{name}: wanted ")


def test_every_broken_gate_is_a_reason() -> None:
    verdict = decide(**{**GOOD, "parity": NOT_LIKE, "licences": Licences(False, "unknown"), "comparisons": {}})
    assert [reason.split(":")[0] for reason in verdict.reasons] == ["beats base", "parity", "licences"]


def test_each_contestant_that_must_be_beaten_has_a_gate_of_its_own() -> None:
    verdict = decide(**{**GOOD, "must_beat": ["base", "rival"], "comparisons": {"base": WON, "rival": LOST}})
    assert [(gate.name, gate.passed) for gate in verdict.gates[:2]] == [
        ("beats base", True),
        ("beats rival", False),
    ]


def test_a_reason_says_what_was_wanted_and_what_was_found() -> None:
    (reason,) = decide(**{**GOOD, "comparisons": {"base": LOST}}).reasons
    assert reason == (
        "beats base: wanted better than base with p < 0.05, found chrf2 +0.40 [-0.90, +1.70], p = 0.51, n = 500"
    )
    (reason,) = decide(**{**GOOD, "licences": Licences(False, "unknown", ("notes.tsv has none",))}).reasons
    assert "unknown (notes.tsv has none)" in reason


def test_what_nobody_asked_for_is_not_asked_and_still_reported() -> None:
    verdict = decide(**{**GOOD, "file_mib": Limit(124.0, None), "ram_mib": Limit(None, None)})
    size, memory = verdict.gates[1:3]
    assert (size.passed, size.wanted, size.found) == (True, "not asked", "124.00 MiB")
    assert (memory.passed, memory.wanted, memory.found) == (True, "not asked", "not measured")
    assert verdict.released


def test_with_nobody_to_beat_the_verdict_still_states_the_scores() -> None:
    verdict = decide(**{**GOOD, "must_beat": [], "comparisons": {}, "scores": [SHIPPED]})
    assert verdict.released
    assert verdict.gates[0].wanted == "not asked"
    assert verdict.gates[0].found == "jobname-Q8_0.gguf chrf2 34.10 [32.90, 35.20], n = 500"
    assert verdict.to_json()["scores"][0]["scores"][0]["value"] == 34.1


def test_a_verdict_without_gates_releases_nothing() -> None:
    assert not Verdict((), (), {}).released


@pytest.mark.parametrize("change", [{}, *(change for _, change in BROKEN)])
def test_a_verdict_comes_back_from_its_json(change: dict[str, Any]) -> None:
    verdict = decide(**{**GOOD, **change})
    text = json.dumps(verdict.to_json(), allow_nan=False)
    assert Verdict.from_json(json.loads(text)) == verdict
    assert json.loads(text)["released"] is verdict.released


@pytest.mark.parametrize("value", [None, [], {}, {"gates": [], "scores": [], "comparisons": []}, {"gates": [7]}])
def test_something_else_is_not_read_as_a_verdict(value: Any) -> None:
    with pytest.raises(ArtifactError, match="verdict"):
        Verdict.from_json(value)


def test_a_verdict_edited_to_released_is_refused() -> None:
    value = {**decide(**{**GOOD, "parity": NOT_LIKE}).to_json(), "released": True}
    with pytest.raises(ArtifactError, match="contradicts"):
        Verdict.from_json(value)


def test_a_number_above_a_limit_is_never_shown_as_the_limit():
    assert rate_text(Rate.of([True] * 50 + [False] * 942), 0.05).startswith("5.04%")
    assert rate_text(Rate.of([True] * 50 + [False] * 950), 0.05).startswith("5.0%")
    verdict = decide(**(GOOD | {"file_mib": Limit(130.001, 130.0)}))
    assert [gate.found for gate in verdict.gates if not gate.passed] == ["130.001 MiB"]


def test_gates_on_risk_look_at_the_share_and_not_at_its_bound() -> None:
    found = knowledge_of("file", asked_exam(seed=1), asked_exam(seed=2), 0.05)

    def passed(wrong: int) -> dict[str, bool]:
        rate = Rate.of([True] * wrong + [False] * (1000 - wrong))
        assert rate.low < 0.05 < rate.high
        known = replace(found, sure=replace(found.sure, wrong=rate, unknown=rate))
        gates = decide(**GOOD, risk=0.05, knowledge=known).gates
        return {gate.name: gate.passed for gate in gates if gate.name in ("wrong answers", "unknown questions")}

    assert passed(49) == passed(50) == {"wrong answers": True, "unknown questions": True}
    assert passed(51) == {"wrong answers": False, "unknown questions": False}
