"""Rows that become one example: nothing is lost, and languages write their own spaces."""

from hypothesis import given
from hypothesis import strategies as st

from metier.data.records import Record
from metier.spec.job import Job
from metier.steps.train import rows_to_learn
from metier.tasks.translation import Translation
from metier.train.joining import MOST, joined

JA_EN = Translation("ja", "en")
ROWS = st.lists(st.builds(Record, st.text("あい。", min_size=1, max_size=9), st.text("ab.", min_size=1, max_size=9)))


@given(ROWS, st.floats(0, 1), st.integers(1, 60), st.integers())
def test_every_row_is_learned_once_and_in_its_order(rows, share, longest, seed):
    found = list(joined(rows, share, longest, JA_EN, seed))
    assert "".join(row.input for row in found) == "".join(row.input for row in rows)
    assert " ".join(row.output for row in found) == " ".join(row.output for row in rows)
    alone = {(row.input, row.output) for row in rows}
    for row in found:
        parts = row.output.count(" ") + 1
        assert parts <= MOST
        assert (row.input, row.output) in alone or len(row.input) + len(row.output) - (parts - 1) <= longest


def test_about_so_many_examples_are_joined_and_another_seed_joins_others():
    rows = [Record(f"{n}。", f"{n}.") for n in range(4000)]
    assert list(joined(rows, 0.0, 256, JA_EN, 1)) == rows
    found = list(joined(rows, 0.5, 256, JA_EN, 1))
    share = sum(" " in row.output for row in found) / len(found)
    assert 0.45 < share < 0.55
    assert found != list(joined(rows, 0.5, 256, JA_EN, 2))
    assert all(" " in row.output for row in list(joined(rows, 1.0, 256, JA_EN, 1))[:-1])


def test_a_training_and_its_healing_read_rows_joined_as_the_job_says():
    rows = [Record(f"{n}。", f"{n}.", "own") for n in range(300)]
    table = {"name": "short", "task": "translation", "translation": {"source": "ja", "target": "en"}}
    table |= {"base": {"model": "pypi:base"}, "data": {"train": [{"source": "file:rows.tsv", "licence": "own"}]}}
    assert list(rows_to_learn(Job.model_validate(table), rows)) == rows
    found = list(rows_to_learn(Job.model_validate({**table, "train": {"joined_share": 0.5}}), rows))
    assert len(found) < 230 and " ".join(row.output for row in found) == " ".join(row.output for row in rows)


def test_sentences_follow_each_other_as_their_language_writes():
    rows = [("猫が好きです。", "I like cats."), ("犬も好きです。", "I like dogs, too.")]
    assert JA_EN.together(rows) == ("猫が好きです。犬も好きです。", "I like cats. I like dogs, too.")
    assert Translation("pt-BR", "zh_Hant").together([("A.", "甲。"), ("B.", "乙。")]) == ("A. B.", "甲。乙。")
