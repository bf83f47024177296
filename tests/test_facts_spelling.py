"""A misspelt name is read as the one that it is surely meant for, and a stranger stays one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metier.data.facts.build import build_store
from metier.facts.spelling import corrected, is_one_error_away
from metier.facts.store import open_store
from metier.spec.facts import FactSource

TABLE = (
    "subject,relation,value\nBattle of Wickham,occurred,1066\nAda Brooks,born,1802\nWalter Stone,died,1871\n"
    "Waller Stone,died,1901\nKarl Walter,born,1790\nO'Neill Vale,born,1901\nWalter Vale,born,1600\n"
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("facts")
    (folder / "facts.csv").write_text(TABLE, encoding="utf-8")
    build_store([FactSource(source=f"file:{folder / 'facts.csv'}", format="csv", licence="own")], folder / "facts.db")
    with open_store(folder / "facts.db") as opened:
        yield opened


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("When was the battle of Wikcham?", "When was the battle of Wickham?"),
        ("When was the Battle of Wickam?", "When was the Battle of Wickham?"),
        ("when was the battle of wikham", "when was the battle of wickham"),
        ("Ada Broocks born", "Ada Brooks born"),
        ("Ada Brroks' birth", "Ada Brooks' birth"),
        ("When did Ada Borooks's life begin?", "When did Ada Brooks's life begin?"),
        ("When was Karl Watler born?", "When was Karl Walter born?"),
        ("Is Walter Stome dead?", "Is Walter Stone dead?"),
        ("Wlater Vale, when did he die?", "Walter Vale, when did he die?"),
        ("When was O'Neil Vale born?", None),
    ],
)
def test_a_word_of_a_name_is_put_right_where_one_way_alone_is_open(store, text, wanted):
    assert corrected(store, text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "When was Ada Brooks born?",  # nothing is wrong
        "When did Watler Stone die?",  # Walter, or Waller
        "When was Karl Watler Stone born?",  # a stranger of three names
        "When was Hans Wickhan born?",
        "When was the battle of Wick?",  # too short
        "Was the wikcham built?",  # written as no name, where others are
        "When was Ada Stnoe born?",  # there is no Ada Stone
        "",
    ],
)
def test_what_may_be_somebody_else_stays_as_it_is(store, text):
    assert corrected(store, text) is None


WORDS = st.text("abcd", min_size=1, max_size=5)


@given(WORDS, WORDS)
def test_one_error_is_a_letter_more_less_or_other_or_two_that_changed_places(one, other):
    cuts = [(one[:at], one[at:]) for at in range(len(one) + 1)]
    near = {a + letter + b for a, b in cuts for letter in "abcd"}
    near |= {a + letter + b[1:] for a, b in cuts if b for letter in ("", *"abcd")}
    near |= {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1}
    assert is_one_error_away(one, other) == (other in near - {one}) == is_one_error_away(other, one)
