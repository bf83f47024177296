"""The data step from files to parts and ledger."""

import itertools
import json
import random

import pytest

from metier.artifact import read_json
from metier.data.leaks import leaks
from metier.data.prepare import prepare
from metier.data.records import read_records
from metier.errors import DataError
from metier.spec.data import Data, Source, Split

LETTERS = "bcdfghklmnprstvw"
SPLIT = Split(test_share=0.15, validation_share=0.15)


def sentences(count, seed):
    """Make rows that have nothing in common but a few syllables."""
    draw = random.Random(seed)

    def word():
        return "".join(draw.choice(LETTERS) + draw.choice("aeiou") for _ in range(3))

    return [(" ".join(word() for _ in range(5)), " ".join(word() for _ in range(5))) for _ in range(count)]


def source(path, pairs, **rest):
    path.write_text("".join(f"{a}\t{b}\n" for a, b in pairs), encoding="utf-8")
    return Source(source=f"file:{path}", **{"licence": "own", **rest})


def parts(folder):
    return [read_records(folder / f"{name}.jsonl") for name in ("train", "validation", "test")]


@pytest.fixture
def data(tmp_path):
    rows = sentences(400, 1)
    rows += [("", "no input"), ("nul\0", "x"), rows[0], (rows[1][0] + "!", rows[1][1]), ("-", "gap")]
    rows.append((rows[2][0] + " ba", rows[2][1] + " ba"))
    more = sentences(100, 2)
    return Data(
        train=[
            source(tmp_path / "a.tsv", rows, missing="-"),
            source(tmp_path / "b.tsv", more, licence="CC-BY-4.0", attribution="the makers of b"),
        ],
        split=SPLIT,
    )


def test_every_row_read_is_kept_or_counted_as_removed(data, tmp_path):
    facts = prepare(data, tmp_path / "out")
    train, validation, test = parts(tmp_path / "out")
    assert json.loads(json.dumps(facts)) == facts
    assert facts["rows"]["read"] == 506
    assert facts["rows"]["read"] == len(train) + len(validation) + len(test) + sum(facts["removed"].values())
    for name, count in (("value missing", 1), ("too short", 1), ("control character", 1), ("exact duplicate", 2)):
        assert facts["removed"][name] == count
    assert facts["removed"]["near duplicate"] == 1
    assert (facts["rows"]["clean"], facts["rows"]["distinct"]) == (503, 500)


def test_the_ledger_says_for_each_source_what_became_of_its_rows(data, tmp_path):
    prepare(data, tmp_path / "out")
    train, validation, test = parts(tmp_path / "out")
    first, second = read_json(tmp_path / "out" / "ledger.json")["sources"]
    for entry in (first, second):
        kept = [entry["rows"][part] for part in ("train", "validation", "test")]
        assert entry["rows"]["read"] == sum(kept) + sum(entry["removed"].values())
        assert kept == [sum(row.source == entry["name"] for row in rows) for rows in (train, validation, test)]
        assert len(entry["sha256"]) == 64
        assert str(tmp_path) not in json.dumps(entry)
    assert (second["name"], second["licence"], second["attribution"]) == ("b.tsv", "CC-BY-4.0", "the makers of b")
    assert first["removed"]["near duplicate"] == 1


def test_no_part_leaks_another(data, tmp_path):
    folder = tmp_path / "out"
    source_file = tmp_path / "a.tsv"
    prepare(data, folder)
    _, validation, test = parts(folder)
    # A relative of every exam row: those that fall into training must go, and be counted.
    relatives = [(row.input + " ko", "un" + str(n)) for n, row in enumerate(test + validation)]
    with source_file.open("a", encoding="utf-8") as file:
        file.writelines(f"{a}\tzz {b} yy\n" for a, b in relatives)
    facts = prepare(data, folder)
    train, validation, test = parts(folder)
    assert sum(facts["leaks"]["train"].values()) > 10
    assert not leaks(train, test + validation, 0.5)
    assert not leaks(validation, test, 0.5)
    for one, two in itertools.combinations((train, validation, test), 2):
        assert not {row.input for row in one} & {row.input for row in two}


def test_the_same_data_gives_the_same_files_and_a_seed_only_mixes_training(data, tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        prepare(data, tmp_path / name, seed=seed)
    for file in ("train.jsonl", "validation.jsonl", "test.jsonl", "ledger.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    one, three = parts(tmp_path / "one"), parts(tmp_path / "three")
    assert one[0] != three[0] and sorted(one[0]) == sorted(three[0])
    assert one[1:] == three[1:]


def test_more_data_moves_no_exam_row_into_training(data, tmp_path):
    prepare(data, tmp_path / "one")
    more = Data(train=[*data.train, source(tmp_path / "c.tsv", sentences(100, 3))], split=SPLIT)
    prepare(more, tmp_path / "two")
    before, after = parts(tmp_path / "one"), parts(tmp_path / "two")
    for part in (0, 1, 2):
        assert set(before[part]) <= set(after[part])


def test_a_given_test_set_is_examined_whole_and_takes_nothing_from_training(tmp_path):
    exam = sentences(30, 9)
    train = source(tmp_path / "train.tsv", sentences(300, 8) + exam[:4])
    data = Data(train=[train], test=[source(tmp_path / "exam.tsv", [*exam, exam[0]])], split=SPLIT)
    facts = prepare(data, tmp_path / "out")
    assert facts["rows"]["test"] == 30
    found = facts["leaks"]["train"].get("equal input", 0) + facts["leaks"]["validation"].get("equal input", 0)
    assert found == 4
    assert {row.source for row in parts(tmp_path / "out")[2]} == {"exam.tsv"}


def test_two_sources_of_one_name_stay_apart_in_the_ledger(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    first = source(tmp_path / "x" / "a.tsv", sentences(300, 5))
    second = source(tmp_path / "y" / "a.tsv", sentences(50, 6))
    prepare(Data(train=[first, second], split=SPLIT), tmp_path / "out")
    names = [entry["name"] for entry in read_json(tmp_path / "out" / "ledger.json")["sources"]]
    assert names == ["a.tsv", "a.tsv (2)"]


def test_a_test_set_equal_to_training_is_an_error_that_says_so(tmp_path):
    rows = sentences(300, 7)
    data = Data(train=[source(tmp_path / "a.tsv", rows)], test=[source(tmp_path / "b.tsv", rows)], split=SPLIT)
    with pytest.raises(DataError, match=r"leak.*test set|leaks? with the test set|equal input") as caught:
        prepare(data, tmp_path / "out")
    assert "equal input" in caught.value.found
    assert not (tmp_path / "out").exists()


def test_too_few_rows_for_an_exam_is_an_error_that_says_what_to_set(tmp_path):
    with pytest.raises(DataError, match=r"test set: \d+ rows are left of the 20.*test_share to 0\.\d+"):
        prepare(Data(train=[source(tmp_path / "a.tsv", sentences(300, 4))]), tmp_path / "out")
    with pytest.raises(DataError, match="Add rows"):
        prepare(Data(train=[source(tmp_path / "a.tsv", sentences(30, 4))]), tmp_path / "out")


def test_a_source_without_a_usable_row_is_an_error(tmp_path):
    with pytest.raises(DataError, match="0 usable, distinct rows"):
        prepare(Data(train=[source(tmp_path / "a.tsv", [("nul\0", "x")] * 50)]), tmp_path / "out")


def test_questions_of_a_test_set_are_asked_once(tmp_path):
    exam = [(asked, f"{answer}{more}") for asked, answer in sentences(30, 9) for more in ("", "!", " indeed")]
    data = Data(
        train=[source(tmp_path / "a.tsv", sentences(300, 5))], test=[source(tmp_path / "b.tsv", exam)], split=SPLIT
    )
    prepare(data, tmp_path / "out")
    asked = [row.input for row in parts(tmp_path / "out")[2]]
    assert len(asked) == len(set(asked)) == 30


def test_an_exam_that_is_too_small_is_told_of_the_rows_that_it_may_be_drawn_from(tmp_path):
    words = source(tmp_path / "words.tsv", sentences(2000, 5)).model_copy(update={"exam": False})
    few = source(tmp_path / "few.tsv", sentences(300, 6))
    split = Split(validation_share=0.2, test_share=0.02)
    with pytest.raises(DataError, match=r"hold 300 usable, distinct rows that may be.*test_share to 0\.1\d? or more"):
        prepare(Data(train=[words, few], split=split), tmp_path / "out")
    with pytest.raises(DataError, match=r"every source has exam = false. Remove that"):
        prepare(Data(train=[words], split=split), tmp_path / "out")
