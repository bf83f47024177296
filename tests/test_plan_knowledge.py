"""What facts are in bits, what a model can hold of them, and that `metier plan` says so."""

import io
import os
from dataclasses import replace
from math import log2
from pathlib import Path

import pytest
from facts_of_our_own import write_facts_job
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from metier.artifact import read_json, run_step, write_json
from metier.data.questions.prepare import prepare_questions
from metier.errors import ArtifactError
from metier.home import run_dir
from metier.spec.advice import load_evidence
from metier.spec.base import Base
from metier.spec.knowledge import Taught, counted, holds, knowledge_of, read_taught
from metier.spec.load import load_job
from metier.spec.machine import Machine
from metier.spec.plan import make_plan
from metier.spec.plan_table import render
from metier.spec.released import known_weights
from metier.spec.weights import of_shape
from metier.steps.data import sources

MACHINE = Machine(cores=2, memory_mib=24_000.0, gflop_per_s=150.0, multiplies_bfloat16=False)
TAUGHT = Taught(facts=1000, bits=9000.0, rows=12_000, text_bytes=480_000, questions_a_fact=10.0)


@pytest.fixture(scope="module")
def planned_job(tmp_path_factory):
    """A job of questions whose data step is done, in a home of its own."""
    folder = tmp_path_factory.mktemp("facts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METIER_HOME", str(folder / "home"))
        job = load_job(write_facts_job(folder / "job"))
        before = read_taught(job)
        run_step(
            run_dir(job.name) / "data", sources(job), lambda at: prepare_questions(job.data, job.qa, at, seed=job.seed)
        )
        assert before is None
        yield job


def test_values_that_all_differ_take_the_logarithm_of_their_number_and_frequent_ones_less():
    facts = [("born", str(year)) for year in range(64)] + [("capital", "Wick")] * 5
    facts += [("died", "1900")] * 2 + [("died", "1901")] * 2
    assert counted(facts) == {
        "born": {"facts": 64, "bits": 64 * 6},
        "capital": {"facts": 5, "bits": 0},
        "died": {"facts": 4, "bits": 4},
    }


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), min_size=1))
def test_bits_are_never_more_than_it_takes_to_number_the_values(facts):
    for relation, found in counted(facts).items():
        values = {value for said, value in facts if said == relation}
        assert 0 <= found["bits"] <= found["facts"] * log2(len(values)) + 0.1


def test_a_mixture_holds_more_than_its_dense_twin_and_less_than_its_parameters_say():
    dense, mixture = (of_shape(Base(model="scratch", architecture=one).shape, 1000) for one in ("dense", "moe"))
    assert holds(dense, 2.0) == 2 * dense.parameters
    assert holds(dense, 2.0) < holds(mixture, 2.0) == pytest.approx(2 * mixture.parameters / 1.3)


@pytest.mark.parametrize("architecture", ["dense", "moe"])
def test_a_model_that_is_too_small_is_told_the_least_width_and_the_fewest_layers(architecture):
    base = Base(model="scratch", hidden_size=64, layers=2, architecture=architecture)
    weights = of_shape(base.shape, 1000)
    enough = knowledge_of(replace(TAUGHT, bits=holds(weights, 2.0)), base, weights, 0)
    assert enough.enough and enough.changes == ()
    bits = 3.3 * holds(weights, 2.0)
    found = knowledge_of(replace(TAUGHT, bits=bits), base, weights, 0)
    assert not found.enough and len(found.changes) == 2
    for change, step in zip(found.changes, (32, 1), strict=True):
        key, number = change.split()[1], int(change.split()[3])
        larger, smaller = (
            of_shape(base.model_copy(update={key: size}).shape, 1000) for size in (number, number - step)
        )
        assert holds(larger, 2.0) >= bits > holds(smaller, 2.0), change


def test_a_fact_is_seen_as_often_as_the_budget_has_passes_times_its_questions():
    base = Base(model="scratch")
    weights = of_shape(base.shape, 1000)
    assert TAUGHT.tokens == 480_000 // 4 + 3 * 12_000
    assert knowledge_of(TAUGHT, base, weights, 3 * TAUGHT.tokens).seen == 30


def test_the_data_step_counts_what_it_teaches(planned_job):
    result = read_json(run_dir(planned_job.name) / "data" / "manifest.json")["result"]
    taught = read_taught(planned_job)
    assert taught.facts == result["facts"]["taught"] == sum(one["facts"] for one in result["knowledge"].values())
    assert 0 < taught.bits <= taught.facts * log2(taught.facts)
    rows = (run_dir(planned_job.name) / "data" / "train.jsonl").read_text("utf-8").splitlines()
    assert taught.rows == len(rows) and 20 * len(rows) < taught.text_bytes < sum(len(row) for row in rows)
    assert 3 < taught.questions_a_fact <= planned_job.qa.variants


def test_the_plan_of_a_job_about_facts_says_what_they_are_and_how_often_each_is_seen(planned_job):
    def plan(job):
        return make_plan(job, known_weights(job), MACHINE, load_evidence(), read_taught(job))

    def shown(job):
        console = Console(width=300, file=io.StringIO())
        console.print(render(plan(job), job))
        return " ".join(console.file.getvalue().split())

    found = plan(planned_job)
    stage = found.stages[-1]
    assert stage.passes == pytest.approx(150 * 600 / read_taught(planned_job).tokens)
    told = found.to_json()["knowledge"]
    assert told["seen"] == pytest.approx(stage.passes * read_taught(planned_job).questions_a_fact)
    assert told["enough"] and told["well_learned_bits"] == 2 * found.parameters == 2 * told["learned_bits"]
    assert f"lets it see each fact about {told['seen']:.0f} times" in shown(planned_job)
    other = planned_job.model_copy(update={"qa": planned_job.qa.model_copy(update={"variants": 3})})
    assert plan(other).knowledge is None and plan(other).stages[-1].passes is None
    assert "counted by 'metier build'" in shown(other)
    riskier = planned_job.model_copy(update={"qa": planned_job.qa.model_copy(update={"risk": 0.2})})
    assert plan(riskier).knowledge == found.knowledge


def test_what_was_counted_of_other_facts_is_not_believed(planned_job):
    (source,) = planned_job.data.facts

    def taught(*sources):
        data = planned_job.data.model_copy(update={"facts": list(sources)})
        return read_taught(planned_job.model_copy(update={"data": data}))

    assert taught(source) is not None
    for change in ({"value": "date"}, {"licence": "CC0-1.0"}, {"format": "tsv"}, {"source": "pypi:facts", "path": "a"}):
        assert taught(source.model_copy(update=change)) is None
    assert taught(source, source) is None and taught() is None
    table = Path(source.source.removeprefix("file:"))
    times = table.stat()
    os.utime(table, (times.st_atime, times.st_mtime + 3600))  # written to since
    assert taught(source) is None
    moved = table.rename(table.with_name("other.csv"))
    assert taught(source) is None
    os.utime(moved, (times.st_atime, times.st_mtime))
    assert taught(source.model_copy(update={"source": f"file:{moved}"})) is None
    moved.rename(table)
    assert taught(source) is not None


def test_a_manifest_that_counts_nothing_is_told_with_what_to_do(planned_job):
    path = run_dir(planned_job.name) / "data" / "manifest.json"
    whole = read_json(path)
    result = {key: value for key, value in whole["result"].items() if key != "knowledge"}
    write_json(path, {**whole, "result": result})
    with pytest.raises(ArtifactError, match="does not count the facts"):
        read_taught(planned_job)
    write_json(path, whole)
