"""The split: a property of the row alone."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from metier.data.records import Record
from metier.data.rows import rows_beside
from metier.data.split import first_of_each_input, position, split
from metier.spec.data import Split

SHARES = Split(test_share=0.2, validation_share=0.2)
RECORDS = st.lists(st.builds(Record, st.text(max_size=8), st.text(max_size=8)), max_size=40)


def part_of(parts):
    return {record: part for part, rows in enumerate(parts) for record in rows}


@given(RECORDS, RECORDS, st.randoms())
def test_a_row_never_changes_sides_when_rows_are_added_or_mixed(rows, more, shuffle):
    before = part_of(split(rows, SHARES))
    mixed = rows + more
    shuffle.shuffle(mixed)
    after = part_of(split(mixed, SHARES))
    assert all(after[record] == part for record, part in before.items())


@given(RECORDS)
def test_no_row_is_lost_and_one_input_is_in_one_part(rows):
    parts = split(rows, SHARES)
    assert sorted(itertools.chain(*parts)) == sorted(rows)
    places = {}
    for part, records in enumerate(parts):
        for record in records:
            assert places.setdefault(record.input, part) == part


@given(RECORDS, st.randoms())
def test_exams_come_in_one_order_however_the_rows_arrive(rows, shuffle):
    mixed = list(rows)
    shuffle.shuffle(mixed)
    assert split(rows, SHARES)[1:] == split(mixed, SHARES)[1:]


def test_the_shares_are_met_and_a_known_row_stays_where_it_was():
    rows = [Record(f"sentence number {n}", "x") for n in range(20_000)]
    train, validation, test = split(rows, Split(test_share=0.1, validation_share=0.05))
    assert abs(len(test) - 2000) < 150
    assert abs(len(validation) - 1000) < 110
    assert len(train) + len(validation) + len(test) == 20_000
    assert round(position("sentence number 1"), 6) == 0.057891


def test_an_exam_has_at_most_so_many_questions_and_the_rest_of_its_share_is_learned_from():
    rows = [Record(f"sentence number {n}", answer) for n in range(3000) for answer in "xy"]
    wide = split(rows, Split(test_share=0.1, validation_share=0.1))
    train, validation, test = split(rows, Split(test_share=0.1, validation_share=0.1, exam_rows=50))
    assert len(test) == len(validation) == 100  # both answers of every question
    assert test == wide[2][:100]
    assert validation == wide[1][:100]
    assert sorted(train + validation + test) == sorted(rows)


def test_beyond_the_most_questions_of_an_exam_its_highest_are_learned_from_when_lower_ones_come():
    shares = Split(test_share=0.1, validation_share=0.1, exam_rows=50)
    rows = sorted((Record(f"sentence number {n}", "x") for n in range(3000)), key=lambda row: position(row.input))
    fewer = [row for place, row in enumerate(rows) if place % 2]
    train, _, test = split(rows, shares)
    before = split(fewer, shares)[2]
    assert test == rows[:50] and before == fewer[:50]
    assert set(before[25:]) <= set(train)


def test_case_and_punctuation_do_not_move_a_row():
    assert position("The cat sleeps.") == position("the cat sleeps")


def mixed(rows, seed, folder):
    """The rows as the data step mixes them."""
    with rows_beside(folder / "data", seed) as kept:
        return kept.records(kept.in_seeded_order(kept.append(rows)))


def test_another_seed_is_another_order_of_the_same_rows(tmp_path):
    rows = [Record(f"row {n}", "x") for n in range(50)]
    assert mixed(rows, 0, tmp_path) != mixed(rows, 1, tmp_path)
    assert sorted(mixed(rows, 0, tmp_path)) == sorted(rows)


def test_rows_are_mixed_to_one_order_however_they_arrive(tmp_path):
    rows = [Record(f"row {n}", "x") for n in range(50)]
    assert mixed(rows, 1, tmp_path) == mixed(rows[::-1], 1, tmp_path)


def test_an_exam_asks_each_question_once():
    rows = [Record("Cat", "1"), Record("cat.", "2"), Record("dog", "3")]
    assert first_of_each_input(rows) == ([rows[0], rows[2]], [rows[1]])
