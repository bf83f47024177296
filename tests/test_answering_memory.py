"""The memory that the verdict states is that of answering, not of building."""

import numpy as np
import pytest
from doubles import tiny_gguf

from metier.data.facts.build import build_store
from metier.errors import RunError
from metier.export.contestants import tokens_per_s
from metier.run.engine import Engine
from metier.spec.facts import FactSource
from metier.steps.answering_memory import memory_mib


def test_memory_is_measured_apart_from_the_process_that_asks_for_it(tmp_path):
    path = tiny_gguf(tmp_path / "tiny.gguf")
    held_here = np.ones(600 * 2**20 // 8)
    measured = memory_mib(path, ["hello"])
    assert held_here.nbytes > 599 * 2**20
    assert 10 < measured < 300


def test_a_store_that_is_there_is_opened_and_one_that_is_not_is_an_error(tmp_path):
    path = tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "facts.csv").write_text("subject,relation,value\nHastings,battle,1066\n")
    source = FactSource(source=f"file:{tmp_path / 'facts.csv'}", format="csv", licence="own")
    build_store([source], tmp_path / "facts.db")
    assert 10 < memory_mib(path, ["hello"], tmp_path / "facts.db") < 300
    with pytest.raises(RunError, match="there is no fact store"):
        memory_mib(path, ["hello"], tmp_path / "none.db")


def test_the_first_question_that_fits_is_asked(tmp_path):
    path = tiny_gguf(tmp_path / "tiny.gguf")
    assert 10 < memory_mib(path, ["too long " * 20_000, "hello"]) < 300
    with pytest.raises(RunError, match="none of the first questions fits"):
        memory_mib(path, ["too long " * 20_000])
    with Engine(path) as engine:
        assert tokens_per_s(engine, ["too long " * 2000, "hello"]) > 0
