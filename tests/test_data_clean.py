"""Cleaning: one Unicode form, and a reason for every row that goes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metier.data.clean import clean, fault, normalise
from metier.spec.data import Cleaning

ANY_TEXT = st.text(st.characters(exclude_categories=[]))


@given(ANY_TEXT)
def test_normalising_twice_changes_nothing(text):
    assert normalise(normalise(text)) == normalise(text)


@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT)))
def test_cleaning_is_idempotent_and_loses_no_row_uncounted(pairs):
    kept, removed = clean(pairs, Cleaning())
    assert len(kept) + removed.total() == len(pairs)
    assert clean(kept, Cleaning()) == (kept, {})


@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT)))
def test_what_is_kept_can_be_written_as_utf8(pairs):
    for row in clean(pairs, Cleaning())[0]:
        "".join(row).encode("utf-8")


def test_width_and_whitespace_become_uniform_and_line_breaks_stay():
    assert normalise("  Ａ１\u3000\t ｶﾞ \r\n\r\n b ") == "A1 ガ\n\nb"


@pytest.mark.parametrize(
    ("asked", "wanted", "reason"),
    [
        ("a\0b", "c", "control character"),
        ("a", "b\x1b[0m", "control character"),
        ("\ud800", "b", "damaged Unicode"),
        ("a", "caf\ufffd", "damaged Unicode"),
        ("", "b", "too short"),
        ("x" * 1001, "y" * 900, "too long"),
        ("x", "y" * 30, "length ratio"),
        ("x", "y" * 29, None),
        ("x" * 1000, "y" * 1000, None),
        ("two\nlines", "one", None),
    ],
)
def test_every_reason_for_leaving_a_row_out(asked, wanted, reason):
    assert fault(asked, wanted, Cleaning()) == reason


def test_a_ten_megabyte_sentence_is_counted_as_too_long():
    kept, removed = clean([("x" * 10_000_000, "short"), ("a", "b")], Cleaning())
    assert kept == [("a", "b")]
    assert removed == {"too long": 1}
