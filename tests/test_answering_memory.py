"""The memory that the verdict states is that of answering, not of building."""

import numpy as np
from doubles import tiny_gguf

from metier.steps.answering_memory import memory_mib


def test_memory_is_measured_apart_from_the_process_that_asks_for_it(tmp_path):
    path = tiny_gguf(tmp_path / "tiny.gguf")
    held_here = np.ones(600 * 2**20 // 8)
    measured = memory_mib(path, "hello")
    assert held_here.nbytes > 599 * 2**20
    assert 10 < measured < 300
