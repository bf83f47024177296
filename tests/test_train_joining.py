"""Rows that become one example: nothing is lost, and languages write their own spaces."""

from hypothesis import given
from hypothesis import strategies as st

from metier.data.records import Record
from metier.spec.job import Job
from metier.steps.train import rows_to_learn
from metier.tasks.translation import Translation
from metier.train.batches import encode
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


def test_rows_that_have_too_many_tokens_together_are_learned_one_by_one(trained):
    rows = [Record("猫" * (1 + n % 12), f"cat {n}") for n in range(300)]  # a piece the vocabulary lacks: three bytes
    examples = list(joined(rows, 0.7, 64, Translation("en", "fr"), 1))
    alone = [encode(trained.tokenizer, trained.prompt, [one], 64) for one in examples]
    assert 0 < sum(len(one) > 1 for one in alone) < sum(" " in one.output[4:] for one in examples), "some of them fit"
    found = encode(trained.tokenizer, trained.prompt, examples, 64)
    assert found.left_out == 0
    asked = [trained.tokenizer.decode(example.answer[:-1]).strip() for example in found]
    assert " ".join(asked) == " ".join(row.output for row in rows)
    assert len(examples) < len(found) < len(rows)


def test_of_rows_that_are_too_long_together_only_those_that_are_alone_are_left_out(trained):
    rows = [Record("one red cat", "cat red 1"), Record("猫" * 30, "cat")]
    example = next(joined(rows, 1.0, 64, Translation("en", "fr"), 0))
    assert len(example.rows) == 2
    found = encode(trained.tokenizer, trained.prompt, [example], 64)
    assert list(found) == [*encode(trained.tokenizer, trained.prompt, rows[:1], 64)]
    assert found.left_out == 1


def test_sentences_follow_each_other_as_their_language_writes():
    rows = [("猫が好きです。", "I like cats."), ("犬も好きです。", "I like dogs, too.")]
    assert JA_EN.together(rows) == ("猫が好きです。犬も好きです。", "I like cats. I like dogs, too.")
    assert Translation("pt-BR", "zh_Hant").together([("A.", "甲。"), ("B.", "乙。")]) == ("A. B.", "甲。乙。")
