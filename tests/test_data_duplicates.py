"""Near duplicates and leaks: the fast search finds what comparing every pair finds."""

import random

import numpy as np
import pytest
from doubles import jaccard
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.data import compared, duplicates, similarity
from metier.data.duplicates import exact_duplicates, near_duplicates
from metier.data.leaks import count_leaks, leaks
from metier.data.records import Record, write_records
from metier.data.similarity import comparable

LETTERS = "abcdefghijklmnopqrstuvwxyz"
# Few letters and words: random rows are then often alike.
TEXT = st.lists(st.sampled_from(["ab", "abc", "b", "cab", "猫が", "好き", "!"]), min_size=1, max_size=6).map("".join)
SENTENCE = st.lists(
    st.sampled_from(["the", "cat", "dog", "sleeps", "eats", "here", "there", "today", "now", "again"]),
    min_size=1,
    max_size=9,
).map(" ".join)
RECORDS = st.lists(st.builds(Record, TEXT | SENTENCE, TEXT | SENTENCE), max_size=25)
THRESHOLD = st.sampled_from([0.1, 0.3, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 1.0]) | st.floats(0.05, 1.0)


def brute_near_duplicates(records, threshold):
    kept, gone = [], []
    for index, row in enumerate(records):
        near = (
            jaccard(row.input, records[other].input) >= threshold
            and jaccard(row.output, records[other].output) >= threshold
            for other in kept
        )
        (gone if any(near) else kept).append(index)
    return gone


def brute_leaks(rows, exam, threshold):
    found = {}
    for index, row in enumerate(rows):
        for reason, leaking in (
            ("equal input", lambda r, e: comparable(r.input) == comparable(e.input)),
            ("equal output", lambda r, e: comparable(r.output) == comparable(e.output)),
            ("near input", lambda r, e: jaccard(r.input, e.input) >= threshold),
            ("near output", lambda r, e: jaccard(r.output, e.output) >= threshold),
        ):
            if any(leaking(row, question) for question in exam):
                found[index] = reason
                break
    return found


@given(RECORDS, THRESHOLD)
def test_near_duplicates_are_those_of_a_comparison_of_all_pairs(records, threshold):
    assert near_duplicates(records, threshold) == brute_near_duplicates(records, threshold)


@given(RECORDS, RECORDS, THRESHOLD)
def test_leaks_are_those_of_a_comparison_of_all_pairs(rows, exam, threshold):
    assert leaks(rows, exam, threshold) == brute_leaks(rows, exam, threshold)


@given(RECORDS)
@settings(max_examples=30)
def test_the_result_does_not_depend_on_how_the_work_is_cut(records):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "_WORK", 1)
        patch.setattr(duplicates, "_KEYS", 3)
        for module in (compared, duplicates):
            patch.setattr(module, "BATCH", 2)
        assert near_duplicates(records, 0.6) == brute_near_duplicates(records, 0.6)


@given(st.lists(st.lists(TEXT | SENTENCE, min_size=1, max_size=5), max_size=12))
def test_grams_are_numbered_in_the_order_in_which_batches_have_them(tmp_path_factory, batches):
    grams = similarity.Grams(tmp_path_factory.mktemp("grams"), "side")
    number, texts = {}, []
    for batch in batches:
        grams.append(batch)
        sets = [{text.ljust(3, "\0")[at : at + 3] for at in range(max(len(text) - 2, 1))} for text in batch]
        for gram in sorted(set().union(*sets), key=lambda gram: [ord(sign) for sign in gram]):
            number.setdefault(gram, len(number))
        texts += [sorted(number[gram] for gram in one) for one in sets]
    found = grams.sets(np.arange(len(texts)))
    assert [found[at].indices.tolist() for at in range(len(texts))] == texts
    assert grams.frequency.tolist() == [sum(at in text for text in texts) for at in range(len(number))]
    grams.close()


def test_twice_the_rows_are_twice_the_work_of_numbering_their_grams(tmp_path, monkeypatch):
    copied, merged = [], similarity._merged

    def counted(one, two):
        copied.append(len(one[0]) + len(two[0]))
        return merged(one, two)

    def work(rows):
        copied.clear()
        grams = similarity.Grams(tmp_path, str(rows))
        draw, signs = random.Random(1), [chr(code) for code in range(0x4E00, 0x9E00)]
        for _ in range(rows // 500):
            grams.append(["".join(draw.choices(signs, k=9)) for _ in range(500)])
        grams.close()
        assert len(grams._met) < 20
        return sum(copied)

    monkeypatch.setattr(similarity, "_merged", counted)
    assert work(40_000) < 2.5 * work(20_000)


@given(RECORDS, st.sampled_from([0.5, 0.8, 1.0]))
def test_no_row_is_removed_that_is_not_a_near_duplicate_of_a_kept_one(records, threshold):
    gone = set(near_duplicates(records, threshold))
    kept = [row for index, row in enumerate(records) if index not in gone]
    for index in gone:
        row = records[index]
        assert any(
            jaccard(row.input, other.input) >= threshold and jaccard(row.output, other.output) >= threshold
            for other in kept
        )


def test_of_a_chain_of_near_rows_only_those_near_a_kept_one_go():
    rows = [Record(text, text) for text in (LETTERS[:20], LETTERS[2:22], LETTERS[4:24])]
    assert near_duplicates(rows, 0.7) == [1]


def test_a_similarity_exactly_at_the_threshold_counts():
    # 14 of 25 grams: in floating point 0.56 * 25 is above 14.
    long, short = LETTERS + "1", LETTERS[:16]
    assert jaccard(long, short) == 0.56
    assert leaks([Record(long, "x")], [Record(short, "y")], 0.56) == {0: "near input"}
    assert near_duplicates([Record(short, short), Record(long, long)], 0.56) == [1]


def test_both_sides_must_be_near():
    one = Record("the cat sleeps in the garden", "die Katze schläft im Garten")
    other_output = Record("the cat sleeps in the garden", "ein ganz anderer Satz")
    near = Record("The cat sleeps in the garden!", "die Katze schläft im Garten .")
    assert near_duplicates([one, other_output, near], 0.8) == [2]


def test_exact_duplicates_ignore_case_width_and_punctuation_and_the_first_stays():
    rows = [Record("Cat.", "猫"), Record("ｃａｔ", "猫。"), Record("cat", "犬")]
    assert exact_duplicates(rows) == [1]


def test_what_is_compared_is_letters_digits_and_symbols():
    assert comparable("  Don't\tSTOP, “now”!\u200b ") == "dont stop now"
    assert comparable("Ｃ＋＋") == "c++"
    assert comparable("?!") == "?!"


def test_a_leak_on_either_side_alone_is_found():
    exam = [Record("where is the old library", "wo ist die alte Bibliothek")]
    rows = [
        Record("Where is the old library?", "etwas völlig anderes"),
        Record("something else entirely", "Wo ist die alte Bibliothek?"),
        Record("where is the old library now", "unähnlich"),
        Record("quite different", "wo ist denn die alte Bibliothek"),
        Record("no relation at all", "gar nichts gemein"),
    ]
    reasons = ["equal input", "equal output", "near input", "near output"]
    assert leaks(rows, exam, 0.5) == dict(enumerate(reasons))


def test_a_side_is_compared_with_the_same_side_of_the_exam_alone():
    exam = [Record("where is the old library", "wo ist die alte Bibliothek")]
    assert leaks([Record("wo ist die alte Bibliothek", "where is the old library")], exam, 0.5) == {}


def test_leaks_of_an_outside_exam_are_counted_against_a_training_file(tmp_path):
    exam = [Record("where is the library", "x y z"), Record("a fresh question", "a fresh answer")]
    train = [Record("where is the library", "q"), Record("where is the library?", "r")]
    write_records(tmp_path / "train.jsonl", train)
    assert count_leaks(exam, tmp_path / "train.jsonl", 0.5) == count_leaks(exam, train, 0.5) == 1
    assert count_leaks([], train, 0.5) == count_leaks(exam, [], 0.5) == 0
