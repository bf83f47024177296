"""A question and its answer find the lines that say so; a contradiction is claimed only where nothing is open."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metier.data.facts.build import build_store
from metier.facts.asked import order_asked, plain, relations_asked
from metier.facts.fact import RELATIONS
from metier.facts.lookup import Found, look_up
from metier.facts.store import open_store
from metier.spec.facts import FactSource

TABLE = """\
subject,relation,value,hint,also
Ada Brook,born,12 May 1802,,A. Brook|Brook
Ada Brook,born in,Tam,,
Ada Brook,died,1871,,
Otto Lund,born,1750,weaver,
Otto Lund,born,1811,botanist,
Hadrian's Dyke,built,140,,
Battle of Wick,occurred,1066,,Wick
Wick,described as,port in Norland,,
Fall of Tam,occurred,circa 570 BC,,
Mill Brook crosses the Sound in a balloon,occurred,3 July 1921,,
Norland,capital,Old Wick,,
Norland,independence,4 May 1830,,
Norland,independent of,Sudland,,
Sudland,independent of,Westland,,
Sudland,capital,Lunt,,
Helium,discovered,1868,,
Helium,discovered by,P. Lock,,
Robin Vale,born,1901,,
The Loom,inventor,Ada Brook,,
Hugo IV,born,1491,son of Hugo III,
Pet,born,1820,"dog of Ada Brook and Robin Vale, the first",
Pet,born,1890,cat,
Born,described as,village in Norland,,
Eve Moor,born,1 May 1900,,
Kin,founded,circa 1025 BC,ancient kingdom,
Kin,described as,modern republic,republic,
Boer War,occurred,1880,,
"""
ANOTHER = "subject,relation,value\nRobin Vale,born,1911\nHelium,discovered,1868\n"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("facts")
    (folder / "facts.csv").write_text(TABLE, encoding="utf-8")
    (folder / "other.csv").write_text(ANOTHER, encoding="utf-8")
    more = {"hint": "hint", "also": "also"}
    sources = [
        FactSource(source=f"file:{folder / 'facts.csv'}", format="csv", licence="own", **more),
        FactSource(source=f"file:{folder / 'other.csv'}", format="csv", licence="own"),
    ]
    build_store(sources, folder / "facts.db", "this")
    with open_store(folder / "facts.db", "this") as opened:
        yield opened


ASKED = {
    "born": [
        "When was {} born?",
        "In what year was {} born?",
        "What is {}'s date of birth?",
        "On which day is {}'s birthday?",
        "what year did {} come into the world",
        "Please tell me the exact year of the birth of {}.",
    ],
    "died": [
        "When did {} die?",
        "In which year did {} pass away?",
        "What was the date of {}'s death?",
        "What year was {} killed?",
        "When did the life of {} come to an end?",
    ],
    "born in": ["Where was {} born?", "What is the birthplace of {}?", "Which town does {} come from?"],
    "described as": ["Who was {}?", "What was {}?", "What is {} known for?", "How would you describe {}?"],
    "lived": ["When did {} live?", "In which century was {} alive?"],
    "ruled": ["When did {} rule?", "In which years was {} in power?", "What are the dates of the reign of {}?"],
    "occurred": [
        "When was {}?",
        "When was the {} fought?",
        "In what year did {} take place?",
        "When did this happen: {}?",
        "What is the date of {}?",
        "What year was {}?",
    ],
    "founded": ["When was {} founded?", "What year saw the founding of {}?", "When did {} come into being?"],
    "built": ["When was {} built?", "In what year was the {} completed?", "When did they finish building {}?"],
    "published": ["When was {} published?", "In which year was {} written?", "When did {} come out?"],
    "adopted": ["When was {} adopted?", "On what date was {} signed?", "When did {} come into force?"],
    "located in": ["Where is {}?", "In which country does {} lie?", "Where is {} located?", "What country is {} in?"],
    "capital": ["What is the capital of {}?", "Which city is the capital of {}?", "Name {}'s capital."],
    "independence": ["When did {} become independent?", "What is the date of {}'s independence?"],
    "independent of": ["From whom did {} become independent?", "From which country did {} gain its independence?"],
    "discovered": ["When was {} discovered?", "In what year was {} first isolated?"],
    "discovered by": ["Who discovered {}?", "By whom was {} discovered?", "Who was the discoverer of {}?"],
}


def test_every_relation_has_its_phrasings():
    assert set(ASKED) == set(RELATIONS)


# What one subject can have together: of a table's "built" and "founded" beginnings are asked in the same words.
PERSON = {"born", "died", "born in", "described as", "lived", "ruled"}
PLACE = {"located in", "capital", "independence", "independent of", "described as", "founded"}


@pytest.mark.parametrize(("wanted", "phrasing"), [(key, one) for key, phrasings in ASKED.items() for one in phrasings])
def test_small_words_tell_which_relation_is_asked(wanted, phrasing):
    beside = PERSON if wanted in PERSON else PLACE if wanted in PLACE else {wanted, "described as"}
    if wanted in ("discovered", "discovered by"):
        beside = {"discovered", "discovered by", "described as"}
    assert relations_asked(plain(phrasing.replace("{}", "")), beside) == {wanted}


def test_what_is_not_asked_for_is_not_guessed():
    assert relations_asked("where did die", PERSON) == set()
    assert relations_asked("how tall was", PERSON) is None
    assert relations_asked("when did die", {"born", "described as"}) == set(), "asked for, and not there"
    assert relations_asked("what do you make of", {"born"}) is None
    assert relations_asked("whose birth was it", {"born", "born in"}) == {"born in"}
    assert relations_asked("who was the inventor of", {"inventor", "maker"}) == {"inventor"}
    assert [order_asked(text) for text in ("which came first", "who died later", "who was born")] == [
        "first",
        "last",
        "",
    ]


AGREEING = [
    ("When was Ada Brook born?", "12 May 1802", "12 May 1802"),
    ("When was Ada Brook born?", "1802", "12 May 1802"),
    ("when was brook born", "in 1802", "12 May 1802"),
    ("A. BROOK'S BIRTHDAY?", "May 12, 1802", "12 May 1802"),
    ("When did Brook die?", "1871", "1871"),
    ("Where was Ada Brook born?", "tam.", "Tam"),
    ("When was the battle of Wick?", "1066", "1066"),
    ("When was Hadrian's Dyke built?", "140", "140"),
    ("When was Hadrian\u2019s Dyke's building?", "AD 140", "140"),
    ("When did Mill Brook cross the Sound in his balloon?", "1921", "3 July 1921"),
    ("What is the capital of Norland?", "old wick", "Old Wick"),
    ("Which country did Norland gain its independence from?", "Sudland", "Sudland"),
    ("Who discovered helium?", "P. Lock", "P. Lock"),
    ("Who was the inventor of the loom?", "Ada Brook", "Ada Brook"),
    ("Who created the loom?", "Ada Brook", "Ada Brook"),
    ("What do you make of Ada Brook?", "1871", "1871"),
    ("When was Otto Lund, the botanist, born?", "1811", "1811"),
]


@pytest.mark.parametrize(("question", "answer", "value"), AGREEING)
def test_an_answer_that_the_store_has_is_given_its_line(store, question, answer, value):
    found = look_up(store, question, answer)
    assert {fact.value for fact in found.sources} == {value}
    assert not found.disagrees


def test_a_verb_of_another_relation_tells_nothing_of_ones_own(store):
    assert not look_up(store, "Who created the loom?").values
    assert not look_up(store, "When was the loom created?", "Ada Brook").sources
    assert not look_up(store, "What is the capital of the loom?", "Ada Brook").sources


def test_a_line_with_a_year_does_not_speak_for_a_day_in_it(store):
    question = "When did Ada Brook die?"
    assert look_up(store, question, "1871").sources
    for answer in ("3 March 1871", "She died on 3 March 1871."):
        found = look_up(store, question, answer)
        assert not found.sources and not found.disagrees
    assert [fact.value for fact in found.values] == ["1871"]


def test_the_line_of_another_subject_within_a_longer_name_is_none(store):
    assert {fact.subject for fact in look_up(store, "When was the battle of Wick?").values} == {"Battle of Wick"}


def test_lines_of_several_sources_stand_side_by_side(store):
    found = look_up(store, "When was helium discovered?", "1868")
    assert [fact.place for fact in found.sources] == ["facts.csv, line 17", "other.csv, line 3"]


@pytest.mark.parametrize(
    ("question", "answer", "value"),
    [
        ("When was Ada Brook born?", "1803", "12 May 1802"),
        ("When was Ada Brook born?", "13 May 1802", "12 May 1802"),
        ("When was Ada Brook born?", "Tam", "12 May 1802"),
        ("When did Ada Brook die?", "1802", "1871"),
        ("In what year was the battle of Wick fought?", "1067", "1066"),
        ("What is the capital of Norland?", "Lunt", "Old Wick"),
        ("From whom did Norland become independent?", "Westland", "Sudland"),
        ("When was Otto Lund (weaver) born?", "1811", "1750"),
    ],
)
def test_another_value_for_just_this_subject_and_relation_is_a_contradiction(store, question, answer, value):
    found = look_up(store, question, answer)
    assert found.disagrees and found.sources == ()
    assert [fact.value for fact in found.values] == [value]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("When was the wife of Hugo IV born?", "1501"),
        ("When was Hugo IV's father born?", "1466"),
        ("When was Hugo IV's son born?", "1520"),
        ("When did Ada Brook marry?", "1830"),
        ("When was the king before Hugo IV born?", "1460"),
        ("When was the general of Hugo IV born?", "1460"),
        ("How old was Ada Brook when she died?", "69"),
        ("Where did Ada Brook die?", "Wick"),
        ("When was Otto Lund born?", "1700"),
        ("Where was Ada Brook born?", "Norland"),
        ("What is the capital of Norland?", "Wick"),
        ("When was the Fall of Tam?", "575 BC"),
        ("When was the battle of Wick?", "11th century"),
        ("Which country became independent of Sudland?", "Eastland"),
        ("When was Nobody of Nowhere born?", "1700"),
        ("Norland independence", "Sudland"),
        ("Ada Brook born", "Tam"),
        ("When was Robin Vale born?", "1950"),
        ("Who was born in 1802?", "Hugo IV"),
        ("Name a person who was born on 12 May 1802", "Otto Lund"),
        ("When was the First Battle of Wick?", "1040"),
        ("When was the last battle of Wick?", "1099"),
    ],
)
def test_where_anything_is_open_no_contradiction_is_claimed(store, question, answer):
    assert not look_up(store, question, answer).disagrees


def test_disputed_values_come_together_and_contradict_nobody(store):
    for answer in ("1901", "1911"):
        found = look_up(store, "When was Robin Vale born?", answer)
        assert [fact.value for fact in found.sources] == [answer]
        assert [fact.value for fact in found.values] == ["1901", "1911"] and all(fact.disputed for fact in found.values)
    found = look_up(store, "Tell me of Robin Vale!", "1901")
    assert [fact.value for fact in found.values] == ["1901", "1911"]
    found = look_up(store, "Who was born in 1911?", "Robin Vale")
    assert [fact.value for fact in found.sources] == ["1911"]
    assert {fact.value for fact in found.values} == {"1901", "1911"}


@pytest.mark.parametrize(
    ("question", "answer", "value"),
    [
        ("Who was born on 12 May 1802?", "Ada Brook", "12 May 1802"),
        ("Who was born in 1802?", "A. Brook", "12 May 1802"),
        ("Which battle was fought in 1066?", "the Battle of Wick", "1066"),
        ("What happened around 575 BC?", "Fall of Tam", "circa 570 BC"),
        ("Old Wick is the capital of which country?", "Norland", "Old Wick"),
        ("Which country became independent of Sudland?", "Norland", "Sudland"),
    ],
)
def test_a_question_for_the_subject_finds_the_line_of_the_subject_answered(store, question, answer, value):
    found = look_up(store, question, answer)
    assert [fact.value for fact in found.sources] == [value]
    assert not found.disagrees


def test_a_comparison_gives_the_dates_of_both(store):
    question = "Which came first, the battle of Wick or the fall of Tam?"
    found = look_up(store, question, "the fall of Tam")
    assert {fact.value for fact in found.sources} == {"1066", "circa 570 BC"} == {fact.value for fact in found.values}
    assert not found.disagrees
    found = look_up(store, question, "the battle of Wick")
    assert found.disagrees and found.sources == () and len(found.values) == 2
    assert not look_up(store, question.replace("first", "later"), "battle of Wick").disagrees
    assert not look_up(store, question, "neither").disagrees
    assert len(look_up(store, question).values) == 2


def test_a_comparison_of_lives_needs_to_say_what_of_them(store):
    found = look_up(store, "Who was born first, Ada Brook or Hugo IV?", "Ada Brook")
    assert found.disagrees and {fact.relation for fact in found.values} == {"born"}
    assert not look_up(store, "Who was born first, Ada Brook or Robin Vale?", "Robin Vale").disagrees
    assert not look_up(store, "Who came first, Ada Brook or Hugo IV?", "Ada Brook").disagrees


def test_a_date_answers_no_comparison_whatever_words_of_order_are_there(store):
    found = look_up(store, "When was Ada Brook, the first love of Hugo IV, born?", "1802")
    assert [fact.value for fact in found.sources] == ["12 May 1802"]


def test_a_name_in_what_tells_two_of_one_name_apart_is_not_asked_for(store):
    question = "When was Pet (dog of Ada Brook and Robin Vale, the first) born?"
    assert [fact.value for fact in look_up(store, question).values] == ["1820"]
    assert look_up(store, question, "1802") == Found((), look_up(store, question).values, True)


def test_without_an_answer_the_store_says_what_it_has(store):
    found = look_up(store, "When was Ada Brook born?")
    assert found == Found((), found.values, False) and [fact.value for fact in found.values] == ["12 May 1802"]
    assert {fact.value for fact in look_up(store, "When was Otto Lund born?").values} == {"1750", "1811"}
    assert look_up(store, "When was the wife of Hugo IV born?") == Found()
    assert look_up(store, "") == look_up(store, "\u4eca\u65e5\u306f") == look_up(store, "?!") == Found()


@given(st.text(max_size=80), st.text(max_size=30))
def test_no_text_at_all_stops_a_look_up(store, question, answer):
    look_up(store, question, answer)


def test_a_long_question_is_looked_up_like_another(store):
    found = look_up(store, "When was Ada Brook born? " + "tell me " * 5000, "1802")
    assert [fact.value for fact in found.sources] == ["12 May 1802"]


def test_many_threads_ask_one_store(store):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: look_up(store, "When was Ada Brook born?", "1802"), range(400)))
    assert all(one == found[0] and len(one.sources) == 1 for one in found)


def test_a_line_about_another_relation_supports_nothing(store):
    found = look_up(store, "When did Eve Moor die?", "1 May 1900")
    assert found.sources == () and not found.disagrees
    assert [fact.relation for fact in look_up(store, "When was Eve Moor born?", "1 May 1900").sources] == ["born"]


def test_of_several_of_one_name_nothing_is_contradicted(store):
    assert not look_up(store, "When was Kin founded?", "1948").disagrees
    assert look_up(store, "When was Kin (ancient kingdom) founded?", "1948").disagrees


@pytest.mark.parametrize("name", ["Second Boer War", "Boer War II"])
def test_a_numbered_one_of_several_is_not_contradicted(store, name):
    assert not look_up(store, f"When was the {name}?", "1899").disagrees
    assert look_up(store, "When was the Boer War?", "1899").disagrees


def test_lines_speak_for_one_of_two_only_where_the_order_is_asked_for_and_clear(store):
    asked = "Who was born first, Ada Brook or Eve Moor?"
    assert look_up(store, asked, "Ada Brook").sources and not look_up(store, asked, "Eve Moor").sources
    assert look_up(store, asked, "Eve Moor").disagrees
    for answer in ("Ada Brook", "Hugo IV"):
        assert not look_up(store, "Who was the first miller, Ada Brook or Hugo IV?", answer).sources
