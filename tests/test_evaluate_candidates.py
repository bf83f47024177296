"""Which file ships: the best of those that pass and fit, and what the tables say of the others."""

import json

import pytest
from doubles import write_job
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from metier import build
from metier.analysis.frontier import draw_frontier
from metier.cli import app
from metier.evaluate.candidates import Candidate, choose, frontier
from metier.evaluate.metrics import Score
from metier.evaluate.report import candidates_markdown
from metier.evaluate.significance import Comparison
from metier.export.parity import exam_passed


def candidate(name, mib, *, passed=True, value=50.0, speed=100.0, ram=100.0, failed=""):
    if failed:
        return Candidate(name, "whole", mib, failed=failed)
    score = Score("chrf2", value, value - 1, value + 1, 100, "signature")
    comparison = Comparison("chrf2", value - 50, value - 50.3, value - 49.7, 0.5, 100, 1000)
    return Candidate(name, "whole", mib, passed, "", score, comparison, ram, speed)


FOUR = (
    candidate("F16", 8.0, speed=90.0),
    candidate("Q8_0", 4.0, speed=200.0),
    candidate("Q5_1", 3.0, speed=80.0),
    candidate("Q4_0", 2.0, passed=False, value=40.0, speed=300.0),
)
candidates = st.lists(
    st.builds(
        candidate,
        st.just("one"),
        st.floats(0.1, 10),
        passed=st.booleans(),
        value=st.floats(0, 100),
        speed=st.floats(1, 500),
        ram=st.floats(1, 500),
        failed=st.sampled_from(["", "", "", "no memory"]),
    ),
    min_size=1,
    max_size=12,
)
limits = st.none() | st.floats(0.1, 10)


@pytest.mark.parametrize(("low", "wanted"), [(-0.5, False), (-0.4999, True), (-2.0, False), (0.3, True)])
def test_what_is_admissible_is_decided_by_the_lower_bound_and_not_by_the_difference(low, wanted):
    assert exam_passed(Comparison("chrf2", 3.0, low, 5.0, 0.01, 100, 1000), 0.5) is wanted


def test_the_smallest_that_passes_is_chosen_or_the_fastest_if_that_is_preferred():
    assert choose(FOUR).name == "Q5_1"
    assert choose(FOUR, "speed").name == "Q8_0"


@pytest.mark.parametrize(
    ("limit", "wanted"), [({"file_mib": 3.5}, "Q5_1"), ({"file_mib": 2.5}, "Q4_0"), ({"file_mib": 1.0}, "Q4_0")]
)
def test_where_nothing_passes_within_the_limits_the_largest_that_fits_is_the_guess(limit, wanted):
    assert choose(FOUR, **limit).name == wanted


def test_a_file_that_takes_too_much_memory_is_passed_over():
    found = choose((candidate("small", 1.0, ram=900.0), candidate("large", 2.0, ram=300.0)), ram_mib=400.0)
    assert found.name == "large"


def test_a_failed_file_is_never_chosen():
    assert choose((candidate("broken", 1.0, failed="llama.cpp cannot load it"), FOUR[0])).name == "F16"
    assert choose((candidate("broken", 1.0, failed="llama.cpp cannot load it"),)) is None


@given(candidates, st.sampled_from(["size", "speed"]), limits)
def test_whatever_is_chosen_passes_and_fits_if_anything_does(some, prefer, file_mib):
    good = [one for one in some if one.passed and one.fits(file_mib, None)]
    found = choose(some, prefer, file_mib=file_mib)
    assert (found is None) == all(one.failed for one in some)
    if good:
        assert found in good
        if prefer == "size":
            assert found.file_mib == min(one.file_mib for one in good)
        else:
            assert found.tokens_per_s == max(one.tokens_per_s for one in good)


@given(candidates)
def test_nothing_beats_a_candidate_of_the_frontier_in_both_size_and_score(some):
    best = frontier(some)
    measured = [one for one in some if one.score]
    assert bool(best) == bool(measured)
    assert best == sorted(best, key=lambda one: one.file_mib)
    for one in best:
        assert not any(other.file_mib <= one.file_mib and other.score.value > one.score.value for other in measured)
    for one in measured:
        assert any(other.file_mib <= one.file_mib and other.score.value >= one.score.value for other in best)


def test_the_command_ends_with_1_where_nothing_passes_within_the_limits(tmp_path, monkeypatch):
    job = write_job(tmp_path / "job") / "job.toml"
    found = {"candidates": {one.name: one.to_json() for one in FOUR}, "chosen": "Q5_1"}
    monkeypatch.setattr(build, "sweep", lambda *_: found)
    monkeypatch.setenv("COLUMNS", "140")
    shown = CliRunner().invoke(app, ["compress", str(job)])
    assert shown.exit_code == 0 and "ships" in shown.stdout and "Q4_0" in shown.stdout
    assert json.loads(CliRunner().invoke(app, ["compress", str(job), "--json"]).stdout) == found
    job.write_text(job.read_text().replace("file_mib = 5", "file_mib = 2.5"))
    assert CliRunner().invoke(app, ["compress", str(job)]).exit_code == 1
    found["chosen"] = "Q4_0"
    assert CliRunner().invoke(app, ["compress", str(job)]).exit_code == 1


@given(candidates)
def test_a_candidate_is_read_back_as_it_was_written(some):
    assert [Candidate.from_json(one.to_json()) for one in some] == some


def test_the_table_tells_of_every_candidate_what_became_of_it():
    some = (*FOUR, candidate("Q4_1", 2.5, failed="llama.cpp ended the process with SIGABRT"))
    rows = candidates_markdown(some, "Q5_1").splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["F16", "Q8_0", "Q5_1", "Q4_1", "Q4_0"]
    assert [row.rsplit("|", 2)[1].strip() for row in rows] == [
        "passed",
        "passed",
        "ships",
        "failed: llama.cpp ended the process with SIGABRT",
        "not passed",
    ]


def test_the_plot_shows_every_candidate_that_answered_and_is_the_same_every_time():
    some = (*FOUR, candidate("Q4_1", 2.5, failed="no memory"))
    plot = draw_frontier(some, FOUR[2], 50.0, 0.5)
    assert plot.startswith("<svg xmlns") and len(plot) > 2000
    assert all(one.name in plot for one in FOUR) and "Q4_1" not in plot
    assert plot == draw_frontier(some, FOUR[2], 50.0, 0.5)
    draw_frontier(FOUR[:1], FOUR[0], 50.0, 0.5)
