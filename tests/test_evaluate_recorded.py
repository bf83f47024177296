"""Recorded systems: a line is the answer to a row."""

import pytest

from metier.errors import DataError
from metier.evaluate.recorded import recorded


def test_a_system_is_called_as_its_file_and_keeps_its_empty_answers(tmp_path):
    one, two = tmp_path / "one.en", tmp_path / "two.en"
    one.write_text("A cat.\n\nA dog.\u2028Two dogs.\n", encoding="utf-8")
    two.write_text("\ufeffCat\n dog \n\n", encoding="utf-8")
    assert recorded([one, two], 3) == {"one": ["A cat.", "", "A dog.\u2028Two dogs."], "two": ["Cat", "dog", ""]}


def test_answers_that_do_not_belong_to_the_rows_are_refused(tmp_path):
    file = tmp_path / "one.en"
    file.write_text("A\nB\n")
    with pytest.raises(DataError, match="2 answers to 3 rows"):
        recorded([file], 3)
    file.write_bytes(b"\xff\n")
    with pytest.raises(DataError, match="cannot be read"):
        recorded([file], 1)
    with pytest.raises(DataError, match="cannot be read"):
        recorded([tmp_path / "none.en"], 1)


@pytest.mark.parametrize("names", [("a/x.en", "b/x.en"), ("base.txt",)])
def test_two_contestants_do_not_have_one_name(tmp_path, names):
    files = [tmp_path / name for name in names]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("A\n")
    with pytest.raises(DataError, match="another contestant"):
        recorded(files, 1)
