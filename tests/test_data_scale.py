"""The data step on disk: what it leaves is what the plain way leaves, however small the pieces it works in."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from doubles import jaccard, made_up_pairs

from metier.artifact import read_json
from metier.data import compared, duplicates, similarity
from metier.data.clean import clean
from metier.data.columns import Column
from metier.data.prepare import prepare
from metier.data.records import Record
from metier.data.rows import rows_beside
from metier.data.similarity import comparable
from metier.data.split import position
from metier.spec.data import Cleaning, Data, Source, Split

SHARES = Split(test_share=0.1, validation_share=0.1)
PIECES = {
    "as it is": {},
    "in pieces": {"BATCH": 7, "_AT_ONCE": 11, "_WORK": 50, "_KEYS": 100, "_RARE": 2},
    "all grams rare": {"_RARE": 10**9},
    "no gram rare": {"_RARE": 0},
}


def plainly(pairs, source, seed=0):
    """Prepare pairs as one would write it down, every row held in memory and compared with every other."""

    def near(one, two, threshold, join):
        return join(jaccard(a, b) >= threshold for a, b in zip(one, two, strict=True))

    rows, _ = clean(pairs, Cleaning())
    seen, kept = set(), []
    for row in rows:
        key = tuple(map(comparable, row))
        if key not in seen and not any(near(row, other, 0.8, all) for other in kept):
            kept.append(row)
        seen.add(key)
    train, validation, test = [], {}, {}
    for row in sorted(kept, key=lambda row: (position(row[0]), row)):
        at = position(row[0])
        if at < 0.1:
            test.setdefault(comparable(row[0]), row)
        elif at < 0.1 + 0.1:
            validation.setdefault(comparable(row[0]), row)
        else:
            train.append(row)

    def without_leaks(rows, exam):
        def equal(one, two):
            return any(comparable(a) == comparable(b) for a, b in zip(one, two, strict=True))

        return [row for row in rows if not any(equal(row, q) or near(row, q, 0.5, any) for q in exam)]

    test = list(test.values())
    validation = without_leaks(list(validation.values()), test)
    train = without_leaks(train, test + validation)
    train.sort(key=lambda row: sha256(f"{seed}\n{row[0]}\n{row[1]}".encode()).digest())
    return {
        part: "".join(
            json.dumps({"input": a, "output": b, "source": source}, ensure_ascii=False) + "\n" for a, b in rows
        ).encode()
        for part, rows in (("train", train), ("validation", validation), ("test", test))
    }


@pytest.fixture(scope="module")
def pairs():
    return made_up_pairs(350)


@pytest.fixture(scope="module")
def plain(pairs):
    return plainly(pairs, "pairs.tsv")


@pytest.mark.parametrize("pieces", PIECES)
def test_the_files_are_byte_for_byte_those_of_the_plain_way(pairs, plain, pieces, tmp_path, monkeypatch):
    for module in (compared, duplicates, similarity):
        for name, value in PIECES[pieces].items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    file = tmp_path / "pairs.tsv"
    file.write_text("".join(f"{one}\t{two}\n" for one, two in pairs), encoding="utf-8")
    facts = prepare(Data(train=[Source(source=f"file:{file}", licence="own")], split=SHARES), tmp_path / "out")
    for part, content in plain.items():
        assert (tmp_path / "out" / f"{part}.jsonl").read_bytes() == content
    assert facts["removed"]["exact duplicate"] > 5 and facts["removed"]["near duplicate"] > 5
    assert sum(facts["leaks"]["train"].values()) > 5
    assert facts["rows"]["read"] == 350 == sum(facts["removed"].values()) + sum(c.count(b"\n") for c in plain.values())


def test_what_lies_beside_the_step_goes_with_it_and_what_a_killed_one_left_goes_with_the_next(tmp_path):
    left_over = tmp_path / ".data-rows-killed"
    left_over.mkdir()
    (left_over / "lines").write_text("half")
    with rows_beside(tmp_path / "data", 0):
        (beside,) = (path for path in tmp_path.iterdir() if path.is_dir())
        assert beside != left_over
    assert list(tmp_path.iterdir()) == []


def test_rows_in_use_stay_when_the_same_step_is_done_a_second_time(tmp_path):
    with rows_beside(tmp_path / "data", 0) as rows:
        rows.append([Record("one", "two", "own")])
        with rows_beside(tmp_path / "data", 0):
            assert rows.records(np.arange(1)) == [Record("one", "two", "own")]
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_a_full_disk_does_not_take_are_an_error_and_no_gap():
    column = Column(Path("/dev/full"), np.uint64, 2)
    column.append(np.ones((50, 2)))
    with pytest.raises(OSError, match="No space left on device"):
        column.read()
    with pytest.raises(OSError, match="No space left on device"):
        column.append(np.ones((50_000, 2)))
    with pytest.raises(OSError, match="No space left on device"):
        column.close()


def test_a_source_that_is_no_fair_question_is_learned_from_alone(pairs, tmp_path):
    fair, words = tmp_path / "pairs.tsv", tmp_path / "words.tsv"
    fair.write_text("".join(f"{one}\t{two}\n" for one, two in pairs), encoding="utf-8")
    words.write_text("".join(f"{one}\t{two}\n" for one, two in made_up_pairs(200, seed=9)), encoding="utf-8")
    sources = [Source(source=f"file:{file}", licence="own", exam=file == fair) for file in (fair, words)]
    prepare(Data(train=sources, split=SHARES), tmp_path / "out")
    first, second = read_json(tmp_path / "out" / "ledger.json")["sources"]
    assert first["rows"]["test"] >= 20 and first["rows"]["validation"] >= 20
    assert second["rows"]["test"] == second["rows"]["validation"] == 0
    assert second["rows"]["train"] > 100
    alone = Data(train=sources[:1], split=SHARES)
    prepare(alone, tmp_path / "alone")
    assert (tmp_path / "alone" / "test.jsonl").read_bytes() == (tmp_path / "out" / "test.jsonl").read_bytes()
