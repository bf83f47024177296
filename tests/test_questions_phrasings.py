"""Ways to ask: each in one part and for one relation, in words as people have them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metier.data.questions import frames, phrasings
from metier.data.questions.phrasings import (
    PARTS,
    Book,
    asks_of,
    asks_which,
    divide,
    in_small_letters,
    is_name,
    way_of,
    when,
)
from metier.data.questions.prepare import rules
from metier.data.questions.regions import region_of
from metier.data.similarity import comparable
from metier.facts.dates import parse
from metier.facts.fact import RELATIONS
from metier.spec.task import Phrasings


def all_ways():
    plain = [one for one in RELATIONS if one not in ("described as", "occurred")]
    return [*plain, "described as:person", "described as:thing", "occurred:name", "occurred:battle", "occurred:clause"]


def test_every_relation_has_many_ways_to_ask_each_with_its_place():
    book = Book()
    for way in all_ways():
        asked = book.asked(way)
        ask = [text for part in PARTS for text in asked.ask.of(part)]
        reverse = [text for part in PARTS for text in asked.reverse.of(part)]
        assert len(ask) >= (16 if way in ("born", "died") or way.startswith("occurred") else 10), way
        assert all(text.count("{subject}") == 1 for text in ask), way
        assert all(text.count("{value}") + text.count("{when}") == 1 for text in reverse), way
        assert not asked.ask.shared and len(asked.ask.validation) == len(asked.ask.test) >= 1


def test_no_phrasing_is_in_two_parts_nor_asks_for_two_relations():
    book = Book()
    book.check(all_ways())
    for way in all_ways():
        for ways in book.asked(way):
            parts = [{comparable(text) for text in ways.of(part)} for part in PARTS]
            assert len(set.union(*parts)) == sum(map(len, parts)), way


@given(st.lists(st.text("abc {}", min_size=1, max_size=5), max_size=20), st.randoms())
def test_the_first_phrasing_is_taught_and_the_others_divided_the_same_in_any_order(texts, shuffle):
    ways = divide(texts)
    first, *mixed = dict.fromkeys(texts) or [""]
    shuffle.shuffle(mixed)
    mixed = [first, *mixed] if texts else []
    assert not texts or comparable(first) in map(comparable, ways.train)
    assert [set(map(comparable, ways.of(part))) for part in PARTS] == [
        set(map(comparable, divide(mixed).of(part))) for part in PARTS
    ]
    if not ways.shared:
        parts = [set(map(comparable, ways.of(part))) for part in PARTS]
        assert all(parts) and not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])


@pytest.mark.parametrize(
    ("name", "kind", "question"),
    [
        ("Battle of Wick", "event", "When was the Battle of Wick?"),
        ("Marlish Revolution", "event", "When was the Marlish Revolution?"),
        ("Wick's Last Stand", "event", "When was Wick's Last Stand?"),
        ("Battle Creek", "place", "When was Battle Creek?"),
        ("Marl Sea", "place", "When was the Marl Sea?"),
        ("Ada Revolution", "person", "When was Ada Revolution?"),
        ("battle of Wick", "event", "When was the battle of Wick?"),
        ("Marlish revolution", "event", "When was the Marlish revolution?"),
        ("Battle of Wick won by the Marls", "event", "When was Battle of Wick won by the Marls?"),
        ("National Mill Front of Wick", "work", "When was the National Mill Front of Wick?"),
        ("Department of Mills", "work", "When was the Department of Mills?"),
        ("Duke of Wick", "person", "When was the Duke of Wick?"),
        ("First Earl Brook", "person", "When was the First Earl Brook?"),
        ("Duke Brook", "person", "When was Duke Brook?"),
    ],
)
def test_the_stands_before_names_that_want_it(name, kind, question):
    assert asks_of("When was {subject}?", name, kind) == question
    assert asks_of("{subject} date", name, kind) == f"{name} date"


def test_the_stands_in_a_comparison_too_but_not_at_its_beginning():
    battle, siege = ("Battle of Wick", "event"), ("Siege of Tarn", "event")
    asked = asks_which("{one} or {two}: which was first?", battle, siege)
    assert asked == "Battle of Wick or the Siege of Tarn: which was first?"
    assert asks_which("Was {one} before {two}?", battle, ("Ada", "person")) == "Was the Battle of Wick before Ada?"


def test_the_common_word_of_an_events_name_may_be_small():
    assert in_small_letters("Battle of Wick", "event") == "battle of Wick"
    assert in_small_letters("Marlish Revolution", "event") == "Marlish revolution"
    assert in_small_letters("Marl joins Tarn", "event") == in_small_letters("Battle Marl", "place") == ""


def test_events_are_told_by_a_name_or_by_a_sentence():
    assert is_name("War of 1812") and is_name("Siege of Wick")
    assert is_name('"Bad Night" of Wick') and not is_name("-12 F at Wick") and not is_name("The Mill -- $7")
    assert not is_name("Marl joins Tarn") and not is_name("First tax in Marl is raised")
    assert way_of("occurred", "event", "Battle of Wick") == "occurred:battle"
    assert way_of("occurred", "event", "Marl joins Tarn") == "occurred:clause"
    assert way_of("described as", "person", "Ada") == "described as:person"


@pytest.mark.parametrize(
    ("date", "shown"),
    [
        ("44 BC", "in 44 BC"),
        ("8 May 1945", "on 8 May 1945"),
        ("May 1945", "in May 1945"),
        ("circa 570 BC", "around 570 BC"),
        ("5th century", "in the 5th century"),
        ("1914-1918", "from 1914 to 1918"),
    ],
)
def test_a_date_comes_with_its_preposition(date, shown):
    assert when(parse(date)) == shown


def test_regions_are_those_of_the_first_country_or_people_named():
    assert region_of("United States painter (born in Italy)") == "North America"
    assert region_of("Ada Brook") == ""


def test_what_a_person_is_called_tells_no_region():
    line = "London, Ada London: an American weaver who lived in London"
    assert region_of(line, ["Ada London", "London"]) == "North America"
    assert region_of("01/25 Virginia Brook born, 1882", ["Virginia Brook"]) == ""


def test_other_phrasings_or_rules_are_another_key(monkeypatch):
    before, keyed = phrasings.fingerprint(), rules()
    with monkeypatch.context() as changed:
        changed.setattr(phrasings, "VERSION", phrasings.VERSION + 1)
        assert phrasings.fingerprint() != before
    texts = phrasings._texts()
    more = {**texts, "born": {**texts["born"], "ask": [*texts["born"]["ask"], "{subject}: born?"]}}
    monkeypatch.setattr(phrasings, "_texts", lambda: more)
    assert phrasings.fingerprint() != before
    assert rules() != keyed


WAYS = [way for way in phrasings._texts() if way not in ("article", "comparison", "other")]


@pytest.mark.parametrize("way", WAYS)
def test_frames_hold_nothing_that_stands_in_an_exams_phrasing(way):
    asked, fitting = Book().asked(way), frames.packaged()[way]
    cores = {"ask": [*fitting["clause"], *fitting["noun"]], "reverse": fitting.get("reverse", [])}
    for form, ways in asked._asdict().items():
        exams = [comparable(text) for text in ways.validation + ways.test]
        learned = [comparable(text) for text in frames.framed(way, form, ways.validation + ways.test)]
        assert set(learned) <= set(map(comparable, ways.train)) and not set(map(comparable, ways.train)) & set(exams)
        for core in (comparable(core) for core in cores[form]):
            assert not (any(core in text for text in exams) and any(core in text for text in learned)), core
        assert learned or not cores[form], "something is left"


def test_training_asks_in_one_written_sentence_and_two_framed_ones_in_turn():
    train, written = Book().asked("born").ask.train, set(phrasings._texts()["born"]["ask"])
    made = [*train[1:150:3], *train[2:150:3]]
    assert set(train[0:150:3]) <= written and not set(made) & written
    assert len(set(train[0:150:3])) < 20 and len(set(map(comparable, made))) > 90


def test_a_key_word_alone_is_taught_and_key_words_of_an_exam_are_not():
    exam = ["Birth date of {subject}", "{subject} born"]
    made = {comparable(text) for text in frames.framed("born", "ask", exam)}
    assert {"birth subject", "subject birth year"} <= made
    assert not [text for text in made if "birth date" in text] and "subject born" not in made


def test_written_sentences_are_all_there_where_frames_make_fewer():
    assert frames.mixed(["a", "b", "c"], ["f", "g", "h"])[:1] == ("a",)
    assert sorted(frames.mixed(["a", "b", "c"], ["f", "g", "h"])) == ["a", "b", "c", "f", "g", "h"]
    assert frames.mixed(["a", "b", "c"], ["f"]) == ("a", "f", "b", "c")
    assert frames.mixed(["a", "b"], []) == ("a", "b")


def test_relations_of_ones_own_are_framed_as_those_of_the_package():
    assert "Do you know which height {subject} has?" in Book().asked("height").ask.train


def own(relation, *ask, reverse=()):
    return Book([Phrasings(relation=relation, ask=list(ask), reverse=list(reverse))])


def test_three_questions_of_ones_own_are_taught_in_many_frames():
    ways = own("height", "How high is {subject}?", "What is the height of {subject}?", "How tall is {subject}?")
    ask = ways.asked("height").ask
    assert len(ask.train) > 15 and {len(ask.validation), len(ask.test)} == {1}
    exams = [comparable(text) for text in ask.validation + ask.test]
    assert not any(exam in comparable(text) for text in ask.train for exam in exams)
    german = own("Flaeche", "Wie gross ist {subject}?", "Was misst {subject}?", "Welche Flaeche hat {subject}?")
    assert len(german.asked("Flaeche").ask.train) == 1, "frames are English"


@pytest.mark.parametrize(
    "mine",
    [
        ("When did {subject}'s life begin?", "What is {subject}'s birthday?", "When was {subject}'s birth?"),
        Book().asked("born").ask.test,
        Book().asked("born").ask.train[:30],
    ],
    ids=["of frames", "of the test", "of the training"],
)
def test_ways_of_ones_own_that_are_there_already_are_not_in_training_and_exams_at_once(mine):
    ask = own("born", *mine).asked("born").ask
    exams = {comparable(text) for text in ask.validation + ask.test}
    assert exams & {comparable(text) for text in mine}
    assert not exams & {comparable(text) for text in ask.train}
    assert not {comparable(text) for text in ask.validation} & {comparable(text) for text in ask.test}
