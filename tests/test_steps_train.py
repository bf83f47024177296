"""The step train: done once, what is too long is told, and no more is loaded than is used."""

from types import SimpleNamespace

import pytest
from doubles import counted_animals
from vocabularies import KINDS, tokenizer_like

from metier.artifact import read_json
from metier.data.records import Record, read_records, write_records
from metier.errors import DataError
from metier.model.loading import load, load_model
from metier.model.scratch import scratch
from metier.spec.job import Job
from metier.steps import launch, pretrain, train


def job(**changes):
    return Job.model_validate(
        {
            "name": "animals",
            "task": "text2text",
            "base": {"model": "some/folder"},
            "data": {"train": [{"source": "file:none.tsv", "licence": "own"}]},
            "train": {"budget": "2 steps", "batch_tokens": 400, "max_tokens": 64, "peak_lr": 1e-4},
            **changes,
        }
    )


def data(folder, long_rows):
    """Write 100 rows, so many of them longer than 64 tokens."""
    folder.mkdir()
    rows = [Record(asked, answer) for asked, answer in counted_animals(120)]
    rows[:long_rows] = [Record(f"{row.input} " * 30, row.output) for row in rows[:long_rows]]
    write_records(folder / "train.jsonl", rows[:100])
    write_records(folder / "validation.jsonl", rows[100:])
    return folder


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "train"
    folder.mkdir()
    return SimpleNamespace(folder=folder, data=lambda long_rows: data(tmp_path / "data", long_rows))


@pytest.mark.parametrize(
    ("long_rows", "told"),
    [
        (1, ""),
        (2, "  2 of 100 rows (2%) are left out: they have more than train.max_tokens = 64 tokens\n"),
        (60, "  MOST OF THE TEXT IS NOT LEARNED: 60 of 100 rows (60%) are left out: they have more than"),
    ],
)
def test_rows_that_are_too_long_are_counted_and_told(trained, place, capsys, long_rows, told):
    facts = train.learn_job(job(), place.data(long_rows), trained.folder, trained.prompt, place.folder)
    assert (facts["examples"], facts["left_out"]) == (100 - long_rows, long_rows)
    said = capsys.readouterr().err
    assert told in said and ("left out" in said) == bool(told)


def test_rows_with_the_name_of_a_special_piece_are_not_learned_and_are_told(trained, place, capsys):
    folder = place.data(0)
    rows = read_records(folder / "train.jsonl")
    rows[3] = Record("mark it up", "<s>old</s>: these are no pieces here")
    rows[5:7] = [Record("which mark ends a text?", "it is <eos> here"), Record("what is <pad> for?", "to fill up")]
    write_records(folder / "train.jsonl", rows)
    assert [*train.TextRows(folder, trained.tokenizer)] == [*rows[:5], *rows[7:]]
    facts = train.learn_job(job(), folder, trained.folder, trained.prompt, place.folder)
    assert (facts["examples"], facts["left_out"], facts["left_out_special"]) == (98, 0, 2)
    assert "  2 rows are left out: they hold the name of a special piece" in capsys.readouterr().err
    write_records(folder / "train.jsonl", [Record(f"which {n}?", "it is <eos>") for n in range(9)])
    (again := place.folder / "again").mkdir()
    with pytest.raises(DataError, match="all of the 9 rows hold the name of a special piece"):
        train.learn_job(job(), folder, trained.folder, trained.prompt, again)


@pytest.mark.parametrize("kind", KINDS)
def test_no_row_that_is_learned_is_read_with_a_special_piece_in_it(kind, place):
    tokenizer = tokenizer_like(kind)
    folder = place.data(0)
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    plain = [Record("<", "|im_end|"), Record("< / s >", "<extra"), Record("a<tool_call>b", "c")]
    write_records(folder / "train.jsonl", [*plain, *(Record("which?", f"this{name}, or another") for name in special)])
    found = list(train.TextRows(folder, tokenizer))
    assert found == plain
    ids = {i for row in found for text in row[:2] for i in tokenizer.encode(text, add_special_tokens=False)}
    assert special and not ids & set(tokenizer.convert_tokens_to_ids(special))


def test_rows_of_which_none_is_short_enough_are_refused(trained, place):
    with pytest.raises(DataError, match=r"no example is short enough.*train\.max_tokens"):
        train.learn_job(job(), place.data(100), trained.folder, trained.prompt, place.folder)


def test_a_training_loads_its_model_once_and_its_tokenizer_apart(trained, place, monkeypatch):
    asked = []
    monkeypatch.setattr(train, "load_model", lambda where: (asked.append(where), load_model(where))[1])
    train.learn_job(job(), place.data(0), trained.folder, trained.prompt, place.folder)
    assert asked == [trained.folder]
    assert load(place.folder / "model").tokenizer.chat_template == trained.prompt.chat_template()


@pytest.mark.parametrize(
    ("mode", "changes", "counted"),
    [
        ("jax", {}, True),  # as a pretraining, or the base, left it
        ("jax", {"capacity_factor": "none"}, False),
        ("dropless", {}, False),
        ("dropless", {"capacity_factor": 1.25}, True),
    ],
)
def test_what_is_computed_at_once_counts_where_experts_have_room_by_it(tmp_path, mode, changes, counted):
    config = scratch(64, 32, 2, 64, seed=0, architecture="openmoe", experts=4).config
    config.router_mode_train = mode
    config.save_pretrained(tmp_path)

    def key(tokens):
        asked = job(train={"micro_batch_tokens": tokens, **changes})
        return train.learned(asked, asked.train, tmp_path)

    assert (key(256) != key(512)) is (key(256) != key(None)) is counted
    if not changes:  # as before models were looked at
        assert "micro_batch_tokens" not in key(None)


def test_a_training_that_is_done_is_not_done_again_when_its_step_was_not_told(trained, place, monkeypatch):
    rows = place.data(0)
    asked = ("train", job(), rows, trained.folder, place.folder, trained.prompt)
    facts = launch.by_processes(1, *asked)
    assert read_json(place.folder / "facts.json")["steps"] == facts["steps"] == 2
    monkeypatch.setattr(train, "train", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(launch, "_launch", lambda *_: pytest.fail("started processes again"))
    assert launch.by_processes(1, *asked) == launch.by_processes(2, *asked) == facts
    assert {path.name for path in place.folder.iterdir()} == {"facts.json", "model", "plan.json", "steps.jsonl"}


def test_a_pretraining_that_is_done_is_not_done_again(trained, place, monkeypatch):
    place.folder.joinpath("model").mkdir()
    place.folder.joinpath("facts.json").write_text('{"steps": 7}')
    monkeypatch.setattr(pretrain, "pretrain", lambda *_, **__: pytest.fail("trained again"))
    assert pretrain.pretrain_job(job(), None, trained.folder, place.folder) == {"steps": 7}
