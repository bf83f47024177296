"""The fact store: found by any way to write a name, asked in any words, and clear about what is wrong with a file."""

import shutil
import sqlite3
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metier.data.facts.build import build_store
from metier.errors import ArtifactError, MetierError, RunError
from metier.facts import names
from metier.facts.store import FORMAT, open_store
from metier.spec.facts import FactSource

TABLE = (
    "subject,relation,value,hint,also\n"
    "Ada Brook,born,12 May 1802,weaver,A. Brook|Mother Brook\n"
    "Ada Brook,died,1871,weaver,\n"
    "Saint Odo of Wick,died,44 BC,,\n"
    "Fall of Wick,occurred,circa 570 BC,,\n"
    "Wick,capital,Old Wick,,\n"
    "Ada Brook,born,1750,botanist,\n"
    '"O\'Neil ""the \u00c9l\u00e9phant""",described as,"fiddler; ""the best"" (1850)",,\n'
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("facts")
    (folder / "facts.csv").write_text(TABLE, encoding="utf-8")
    source = FactSource(source=f"file:{folder / 'facts.csv'}", format="csv", licence="own", hint="hint", also="also")
    build_store([source], folder / "facts.db", "of this build")
    return folder / "facts.db"


@pytest.fixture
def store(path):
    with open_store(path, "of this build") as opened:
        yield opened


@pytest.mark.parametrize(
    ("word", "spelt"), [("\u00c9l\u00e9phant", True), ("\u00e9l\u00e9phant", True), ("\u00c9l\u00e9", False)]
)
def test_a_word_is_spelt_with_its_accents_where_it_is_a_word_of_a_name_and_no_part_of_one(store, word, spelt):
    assert store.spells(word) is spelt


@pytest.mark.parametrize("name", ["Saint Odo of Wick", "st. odo of wick", "ST ODO OF WICK", "Saint  \u00d3do of Wick"])
def test_a_subject_is_found_however_its_name_is_written(store, name):
    (fact,) = (fact for fact in store.about(name) if fact.relation == "died")
    assert (fact.value, str(fact.date)) == ("44 BC", "44 BC")


def test_a_fact_names_its_source_line_licence_and_place(store):
    (fact,) = store.about("Fall of Wick")
    assert fact.line == "Fall of Wick | occurred | circa 570 BC"
    assert fact.place == "facts.csv, line 5"
    assert (fact.origin.name, fact.origin.licence, fact.origin.reference) == ("facts.csv", "own", "file:facts.csv")


def test_a_name_of_two_gives_both_and_with_the_words_that_tell_them_apart_gives_one(store):
    assert {fact.subject for fact in store.about("Ada Brook")} == {"Ada Brook (weaver)", "Ada Brook (botanist)"}
    assert [fact.value for fact in store.about("Ada Brook (botanist)")] == ["1750"]
    assert [fact.value for fact in store.about("Mother Brook") if fact.relation == "born"] == ["12 May 1802"]
    [entry] = [entry for entry in store.subjects() if entry.subject == "Ada Brook (weaver)"]
    assert set(entry.names) == {"A. Brook", "Ada Brook", "Mother Brook"}
    assert store.names("Ada Brook (weaver)") == ["A. Brook", "Ada Brook", "Mother Brook"]
    assert store.names("Nobody") == []


def test_names_of_many_subjects_are_read_once(store):
    asked = []
    store._connection.set_trace_callback(asked.append)
    assert [store.names(entry.subject) for entry in store.subjects()] == [sorted(e.names) for e in store.subjects()]
    assert len([query for query in asked if "names" in query]) == 3


def test_facts_are_found_by_words(store):
    assert store.search("when did Wick fall?")[0].subject == "Fall of Wick"
    assert [fact.subject for fact in store.search("Who is the elephant?")] == ['O\'Neil "the \u00c9l\u00e9phant"']
    assert store.search("o'neil's") and store.search("Odo's")
    assert store.search("of")[0].subject in ("Saint Odo of Wick", "Fall of Wick")
    assert store.counts()["facts.csv", "died"] == 2 and len(store) == 7 == len(list(store))


@pytest.mark.parametrize(
    "odd",
    [
        '"',
        "'",
        "*",
        "-",
        "NOT",
        "a AND",
        "NEAR(",
        "subject:x",
        "^",
        "{}",
        "\x00",
        "\u0130",
        "(",
        ")",
        "%_",
        "",
        " ",
        "\ud800",
    ],
)
def test_marks_of_the_search_language_are_only_text(store, odd):
    assert isinstance(store.search(f"{odd}Wick{odd}"), list)
    assert isinstance(store.search(odd), list)
    assert isinstance(store.about(odd), list)


def test_any_text_can_be_searched_for(path):
    with open_store(path) as store:

        @given(st.text(max_size=60))
        def any_text(text):
            store.search(text)
            store.about(text)

        any_text()


@pytest.mark.parametrize(
    ("one", "two"),
    [("C", "C++"), ("C++", "C#"), ("1.5 m", "15 m"), ("-5", "5"), ("バリ", "パリ"), ("राम", "रोम"), ("3.14", "314")],
)
def test_what_marks_tell_apart_stays_apart(one, two):
    assert names.key(one) != names.key(two)


def test_accents_and_points_of_initials_tell_nothing_apart():
    for one, two in (("Müller", "Muller"), ("U.S.A.", "USA"), ("Ελλάδα", "Ελλαδα"), ("O'Neill", "O’Neill")):
        assert names.key(one) == names.key(two)
    assert names.words("1914-18, x-5 and 44 B.C.") == ["1914", "18", "x", "5", "and", "44", "bc"]


def test_initials_are_one_name_with_and_without_spaces():
    assert names.key("T. S. Brook") == names.key("T.S. Brook") == "ts brook"
    assert names.key("W. E. B. du Brook") == "web du brook" and names.key("George V. Brook") == "george v brook"


@given(st.text(max_size=40))
def test_a_key_is_its_own_key(text):
    assert names.key(names.key(text)) == names.key(text)


def test_a_missing_store_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"facts\.db: there is no fact store\. Build the job again"):
        open_store(tmp_path / "facts.db")


def test_a_store_of_another_build_is_refused(path):
    with pytest.raises(ArtifactError, match=r"from another build \(of this build, the model's is mine\)"):
        open_store(path, "mine")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.95, 0.9999])
def test_a_store_that_was_cut_short_is_refused_wherever_it_was_cut(path, tmp_path, share):
    cut = tmp_path / "cut.db"
    whole = path.read_bytes()
    cut.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ArtifactError, match=r"is empty|is no fact store|is cut short"):
        open_store(cut)


def test_a_store_with_a_page_of_something_else_is_refused_whichever_page_it_is(path, tmp_path):
    damaged, whole = tmp_path / "damaged.db", path.read_bytes()
    for page in range(1, len(whole) // 4096):
        damaged.write_bytes(whole[: page * 4096] + b"\x55" * 4096 + whole[(page + 1) * 4096 :])
        with pytest.raises(ArtifactError, match="is damaged"):
            open_store(damaged)
    assert page > 5


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "text.db").write_text("subject,relation,value\n" * 50)
    with pytest.raises(ArtifactError, match="is no fact store"):
        open_store(tmp_path / "text.db")
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE facts (subject)")
    other.commit()
    other.close()
    with pytest.raises(ArtifactError, match="is an SQLite file, but no fact store"):
        open_store(tmp_path / "other.db")


def test_a_store_of_another_format_says_which(path, tmp_path):
    newer = tmp_path / "newer.db"
    shutil.copy(path, newer)
    connection = sqlite3.connect(newer)
    connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
    connection.commit()
    connection.close()
    with pytest.raises(ArtifactError, match=f"format {FORMAT + 1}, this metier reads format {FORMAT}"):
        open_store(newer)


def test_a_store_that_another_program_writes_to_is_said_to_be_locked(path, tmp_path, monkeypatch):
    monkeypatch.setattr("metier.facts.store._WAIT_SECONDS", 0.05)
    shared = tmp_path / "shared.db"
    shutil.copy(path, shared)
    writer = sqlite3.connect(shared, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    with pytest.raises(RunError, match="is locked by another program"):
        open_store(shared)
    writer.execute("ROLLBACK")
    with open_store(shared) as store:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(RunError, match="is locked by another program"):
            store.search("Wick")
        writer.execute("ROLLBACK")
        assert store.search("Wick")
    writer.close()


def test_a_store_is_never_written_to(path, store):
    before = path.read_bytes()
    store.search("Wick")
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir() if file.name.startswith("facts.db")] == ["facts.db"]


def test_a_folder_in_the_place_of_a_store_is_an_error_of_ours(tmp_path):
    with pytest.raises(MetierError):
        open_store(tmp_path)


def test_facts_are_looked_up_without_anything_but_the_standard_library():
    code = (
        "import sys; before = set(sys.modules); import metier.facts.store; "
        "new = [sys.modules[name] for name in set(sys.modules) - before if not name.startswith('metier')]; "
        "print([one for one in new if 'site-packages' in (getattr(one, '__file__', None) or '')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
