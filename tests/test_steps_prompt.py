"""The step prompt: every format is tried on the same rows, and those are short enough to be trained on."""

import pytest
from doubles import counted_animals
from test_steps_train import job

from metier.data.records import Record, write_records
from metier.errors import DataError
from metier.steps import prompt
from metier.train.batches import encode


@pytest.fixture
def rows(tmp_path):
    """Validation rows of which every second one is long."""
    found = [Record(asked, answer) for asked, answer in counted_animals(60)]
    found[1::2] = [Record(f"{row.input} " * 30, row.output) for row in found[1::2]]
    write_records(tmp_path / "train.jsonl", found)
    write_records(tmp_path / "validation.jsonl", found[:20])
    return found


def test_formats_with_and_without_examples_are_measured_on_the_same_rows(trained, rows, tmp_path, monkeypatch):
    right, tried = prompt.measure, []

    def measure(model, tokenizer, prompts, these):
        tried.append(list(these))
        return right(model, tokenizer, prompts, these)

    monkeypatch.setattr(prompt, "measure", measure)
    found = prompt.choose_prompt(job(), tmp_path, trained.folder)
    assert tried == [rows[:20:2]] * 2
    names = [candidate["prompt"]["name"] for candidate in found["candidates"]]
    assert sum("examples" in name for name in names) == 2
    shortest = min(found["candidates"], key=lambda candidate: candidate["tokens"])
    assert shortest["longest"] <= 64


def test_rows_of_which_none_can_be_trained_on_are_refused_with_the_key(trained, rows, tmp_path):
    tokens = min(example.tokens for example in encode(trained.tokenizer, trained.prompt, rows, 10**9))
    tight = job(train={"budget": "1 steps", "max_tokens": 8})
    assert tokens > 8
    with pytest.raises(DataError, match=r"train\.max_tokens: none of the first 20 validation rows is within 8 tokens"):
        prompt.choose_prompt(tight, tmp_path, trained.folder)
