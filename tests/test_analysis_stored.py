"""Bits that a model has stored: never more than there are, none of one that guesses, and costs that add up."""

import importlib.util
import sys
from math import log, log2
from pathlib import Path

import pytest
import torch
from facts_of_our_own import write_facts_job
from hypothesis import given
from hypothesis import strategies as st

from metier.analysis.stored import cost_bits, stored
from metier.artifact import read_json
from metier.data.records import Record

KNOWLEDGE = Path(__file__).parent.parent / "benchmarks" / "knowledge.py"
TAUGHT = {"born": {"facts": 8, "bits": 24.0}}
costs = st.lists(st.floats(0, 60), max_size=5)


@given(costs, costs)
def test_a_model_is_never_credited_with_more_than_its_facts_hold(known, withheld):
    found = stored({"born": known}, {"born": withheld}, TAUGHT)
    assert 0 <= found.bits <= 24


def test_a_model_that_knows_all_holds_all_and_one_that_guesses_as_well_as_of_strangers_holds_nothing():
    assert stored({"born": [0.0, 0.0]}, {"born": [7.0]}, TAUGHT).bits == 24
    assert stored({"born": [2.5, 3.5]}, {"born": [3.0]}, TAUGHT).bits == 0
    assert stored({}, {}, TAUGHT).bits == 0


def test_what_a_name_gives_away_is_not_counted_as_stored():
    # withheld values cost 1 bit of 3: two are told by the names
    assert stored({"born": [0.0]}, {"born": [1.0]}, TAUGHT).bits == 8


def test_being_sure_of_wrong_answers_about_strangers_is_no_knowledge():
    assert stored({"born": [1.0]}, {"born": [40.0]}, TAUGHT).bits == 8 * (3 - 1)


@torch.no_grad()
def test_an_answer_costs_its_tokens_given_that_there_is_one(trained):
    asked, gives_up = [Record(row.input, row.output) for row in trained.held_out[:5]], "nothing"

    def nats(question, answer):
        start = trained.tokenizer(trained.prompt.render(question)).input_ids
        end = [*trained.tokenizer(answer, add_special_tokens=False).input_ids, trained.tokenizer.eos_token_id]
        logs = trained.model(input_ids=torch.tensor([start + end])).logits[0].double().log_softmax(-1)
        return sum(float(logs[len(start) - 1 + at, token]) for at, token in enumerate(end))

    found = cost_bits(trained.model, trained.tokenizer, trained.prompt, asked, gives_up)
    for row, cost in zip(asked, found, strict=True):
        left = 1 - 2 ** (nats(row.input, gives_up) / log(2))
        assert cost == pytest.approx(log2(left) - nats(row.input, row.output) / log(2), abs=1e-3)
    # a model that says it does not know is asked what it would say else
    sure = asked[0].output
    other = cost_bits(trained.model, trained.tokenizer, trained.prompt, [Record(asked[0].input, "zzz")], sure)
    plain = cost_bits(trained.model, trained.tokenizer, trained.prompt, [Record(asked[0].input, "zzz")], gives_up)
    assert other[0] < plain[0]


@pytest.mark.timeout(900)
def test_the_measurement_trains_measures_and_does_nothing_twice(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("knowledge_benchmark", KNOWLEDGE)
    benchmark = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, benchmark)
    spec.loader.exec_module(benchmark)
    monkeypatch.setenv("METIER_HOME", str(tmp_path / "home"))
    job = write_facts_job(tmp_path / "job")
    asked = ["--sizes", "32x1", "--experts", "2", "--vocabulary", "400", "--quantisations", "F16,Q4_0"]
    line = ["knowledge.py", str(job), *asked, "--budget", "20 steps", "--option", "variants=1"]
    monkeypatch.setattr(sys, "argv", [*line, "--out", str(tmp_path / "out")])
    benchmark.main()
    found = read_json(tmp_path / "out" / "knowledge.json")
    assert set(found["runs"]) == {"dense-32x1", "moe-32x1", "dense-32x1-variants=1"}
    for one in found["runs"].values():
        assert one["steps"] == 20 and 0 <= one["stored_bits"] <= one["facts_bits"]
        assert set(one["files"]) == {"F16", "Q4_0"} and one["parameters"] - one["embedding"] > 10_000
        assert one["relations"]["born"]["asked"] > 5
    assert set(found["effects"]["variants=1"]) == {"F16", "Q4_0"}
    assert "a parameter" in capsys.readouterr().out
    assert (tmp_path / "out" / "knowledge.svg").read_text("utf-8").startswith("<svg")
    monkeypatch.setattr(benchmark, "learn_job", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(benchmark, "Engine", lambda *_: pytest.fail("asked again"))
    benchmark.main()
    assert read_json(tmp_path / "out" / "knowledge.json")["runs"] == found["runs"]
