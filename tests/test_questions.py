"""Facts become questions: phrasings stay in their part, what is withheld stays out, and what is invented is unknown."""

import json
import random
import re
from collections import defaultdict
from types import SimpleNamespace

import pytest
from facts_of_our_own import made_up_facts, write_facts
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.data.ledger import with_base
from metier.data.questions.about import About, about_path, read_about, write_about
from metier.data.questions.frames import beside, packaged
from metier.data.questions.invent import Inventor
from metier.data.questions.known import Known, alone
from metier.data.questions.naming import Names, within
from metier.data.questions.phrasings import Book
from metier.data.questions.prepare import exam_rows, prepare_questions
from metier.data.questions.rows import training_of
from metier.data.questions.unknown import years_told
from metier.data.questions.withheld import Mentions
from metier.data.records import read_records
from metier.data.similarity import comparable
from metier.data.split import seeded
from metier.errors import DataError
from metier.facts import dates, names
from metier.facts.dates import NotADateError
from metier.facts.fact import RELATIONS, Fact, Origin
from metier.facts.store import Entry, open_store
from metier.spec.data import Data
from metier.spec.facts import FactSource
from metier.spec.job import Job
from metier.spec.task import Phrasings, Qa
from metier.steps.data import sources

EXAMS = ("validation", "test", "validation_unknown", "test_unknown")
UNKNOWN = "I don't know."
QA = Qa(variants=6, withheld_share=0.1)
MISSPELT = Phrasings(relation="wieght", ask=["How heavy is {subject}?"])


def source(path, **keys):
    return FactSource(source=f"file:{path}", format="csv", licence="own", **keys)


def prepared(folder, facts=None, qa=QA, seed=0, **keys):
    """Make the questions of a table; return its folder and the facts of the step."""
    folder.mkdir(parents=True, exist_ok=True)
    table = write_facts(folder / "facts.csv", facts)
    data = Data(facts=[source(table, **keys)])
    return SimpleNamespace(at=folder / "data", told=prepare_questions(data, qa, folder / "data", seed=seed))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("questions"))


def rows_of(made, part):
    return read_records(made.at / f"{part}.jsonl")


def about(made, part):
    return read_about(about_path(made.at / f"{part}.jsonl"))


def test_the_parts_hold_what_they_should(made):
    told = made.told
    assert told["rows"] == {
        "train": len(rows_of(made, "train")),
        **{part: len(rows_of(made, part)) for part in EXAMS},
    }
    for part in EXAMS:
        assert len(about(made, part)) == len(rows_of(made, part)) > 19
    for part in ("validation", "test"):
        assert {one.kind for one in about(made, part)} == {"known"}
        assert {one.kind for one in about(made, f"{part}_unknown")} == {"withheld", "invented"}
        assert {row.output for row in rows_of(made, f"{part}_unknown")} == {UNKNOWN}
        assert {one.relation for one in about(made, part)} == {"born", "died", "occurred", "height"}
        assert {one.form for one in about(made, part)} == {"ask", "reverse", "comparison"}
    assert {row.source for row in rows_of(made, "train")} == {"facts.csv"}


def test_no_exam_question_is_in_the_training_nor_in_the_other_exam(made):
    asked = [{comparable(row.input) for row in rows_of(made, part)} for part in ("train", *EXAMS)]
    assert len(set.union(*asked)) == sum(map(len, asked))


def test_what_is_examined_as_known_is_taught(made):
    taught = defaultdict(set)
    for row in rows_of(made, "train"):
        taught[row.output].add(row.input)
    for part in ("validation", "test"):
        for row, one in zip(rows_of(made, part), about(made, part), strict=True):
            asked_for = one.subject if one.form == "ask" else one.value
            assert one.form == "comparison" or any(asked_for in text for text in taught[row.output]), row


def assert_nothing_withheld_is_taught(at):
    kept_back = [
        (one.subject, row)
        for part in ("validation_unknown", "test_unknown")
        for row, one in zip(read_records(at / f"{part}.jsonl"), read_about(at / f"{part}_about.jsonl"), strict=True)
        if one.kind == "withheld"
    ]
    with open_store(at / "facts.db") as store:
        entries = store.subjects()
    holders = defaultdict(set)
    for entry in entries:
        for name in entry.names:
            holders[names.key(name)].add(entry.subject)
    subjects = {subject for subject, _ in kept_back}
    unique = [key for key, who in holders.items() if len(who) == 1 and who <= subjects]
    for row in read_records(at / "train.jsonl"):
        text = f" {names.key(f'x {row.input} x {row.output}')} "
        assert not any(f" {key} " in text for key in unique), row
    return subjects


def test_no_name_of_a_withheld_subject_is_in_a_training_row(made):
    subjects = assert_nothing_withheld_is_taught(made.at)
    assert len(subjects) >= 4
    with open_store(made.at / "facts.db") as store:
        withheld = {name: store.about(name) for name in subjects}
    assert all(withheld.values()), "the store holds what is withheld, too"


def test_invented_names_are_nobodys_and_differ_between_the_parts(made):
    with open_store(made.at / "facts.db") as store:
        known = {names.key(name) for entry in store.subjects() for name in entry.names}
    invented = [
        {names.key(one.subject) for one in about(made, f"{part}_unknown") if one.kind == "invented"}
        for part in ("validation", "test")
    ]
    assert all(invented) and not invented[0] & invented[1]
    assert not known & set.union(*invented)
    trained = " | ".join(f" {names.key(f'x {row.input}')} " for row in rows_of(made, "train"))
    assert not [name for name in set.union(*invented) if " " in name and f" {name} " in trained]


def store_of(made):
    with open_store(made.at / "facts.db") as store:
        return list(store), store.subjects()


def test_an_invented_name_is_not_somebodys_by_a_letter_or_with_a_word_more(made):
    facts, entries = store_of(made)
    known = Names(entries, {}, {})
    real = next(fact.subject for fact in facts if fact.relation == "born")
    first, last = real.split()
    near = [real, f"{first} the {last}", f"{first}s {last}", f"{first[1:]} {last}", f"{first} {last}x", f"Bo {real}"]
    assert all(known.resembles(name) for name in near)
    assert not known.resembles(f"{first}xy {last}") and not known.resembles("Hroswitha Zorn")


def test_what_nothing_is_said_of_is_mostly_what_a_subject_could_have(made):
    facts, _ = store_of(made)
    said, kinds = defaultdict(set), defaultdict(set)
    for fact in facts:
        said[fact.subject].add(fact.relation)
    kinds["born"] = kinds["died"] = {subject for subject, relations in said.items() if "born" in relations}
    asked = [row.input for row in rows_of(made, "train") if row.output == UNKNOWN]
    mortal = [
        text
        for text in asked
        if any(subject.lower() in text.lower() for subject in kinds["died"]) and " or " not in text
    ]
    of_life = [text for text in mortal if not re.search("height", text, re.IGNORECASE)]
    assert mortal and len(of_life) / len(mortal) > 0.6
    for text in of_life:
        (subject,) = {one for one in kinds["died"] if one.lower() in text.lower()}
        assert "died" not in said[subject], text


def test_a_year_is_asked_for_in_vain_only_where_no_source_has_anything_in_it(made):
    facts, _ = store_of(made)
    died = {fact.date.first[0] for fact in facts if fact.relation == "died"}
    asked = [row for row in rows_of(made, "train") if re.search(r"\bdied in (\d+)", row.input, re.IGNORECASE)]
    in_vain = {int(re.findall(r"\d+", row.input)[0]) for row in asked if row.output == UNKNOWN}
    assert in_vain and not in_vain & died
    assert any(row.output != UNKNOWN for row in asked)


def test_nobody_is_said_to_be_unknown_who_may_be_somebody_else_by_another_name(tmp_path):
    facts = [*made_up_facts(), ("Charles Zorn", "born", "1802"), ("Charlie Zorn", "born", "3 May 1802")]
    facts += [("Charlie Zorn", "died", "1850"), ("Kit Zorn", "born", "1809")]
    made = prepared(tmp_path, facts, Qa(variants=6, withheld_share=0.4, abstain_share=0.5))
    asked = {row.input: row.output for row in rows_of(made, "train")}
    deaths = [text for text in asked if "Charles Zorn" in text and re.search("die|death|until", text)]
    assert not [text for text in deaths if asked[text] == UNKNOWN]
    taught = {name for name in ("Charles Zorn", "Charlie Zorn") if any(name in text for text in asked)}
    assert len(taught) == 2


def test_a_name_that_a_lake_has_too_needs_no_hint_where_a_capital_is_asked_for(tmp_path):
    facts = [(*fact, "") for fact in made_up_facts()]
    facts += [("Zorn", "capital", "Wick", "republic"), ("Zorn", "located in", "Marl", "lake")]
    table = tmp_path / "facts.csv"
    table.write_text("\n".join(["subject,relation,value,hint", *(",".join(fact) for fact in facts)]))
    prepare_questions(Data(facts=[source(table, hint="hint")]), Qa(variants=8, withheld_share=0), tmp_path / "data")
    rows = read_records(tmp_path / "data" / "train.jsonl")
    capital = [row.input for row in rows if row.output == "Wick" and "zorn" in row.input.lower()]
    assert capital and not [text for text in capital if "(" in text]


def count_beside(made):
    return made.told["questions"]["train"].get("nothing said", {}).get("ask", {}).get("", 0)


def test_what_is_no_matter_of_the_job_is_not_known(tmp_path):
    made = prepared(
        tmp_path, [fact for fact in made_up_facts() if fact[1] != "height"], QA.model_copy(update={"variants": 30})
    )
    words = [re.escape(text).replace(r"\{subject\}", "(.+)") for text in packaged()["beside"]["ask"]]
    words = [text.removesuffix(r"\?") for text in words]  # some have no mark
    written = [row for row in rows_of(made, "train") if re.match("|".join(words), row.input, re.IGNORECASE)]
    assert written and {row.output for row in written} == {UNKNOWN}
    assert any(fact.subject in row.input for row in written for fact in store_of(made)[0])
    unknown = sum(row.output == UNKNOWN for row in rows_of(made, "train"))
    assert len(written) < count_beside(made) == pytest.approx(0.1 * unknown, rel=0.3)


def test_ways_to_ask_beside_the_matter_are_many_and_ask_for_no_relation():
    dice = random.Random(0)
    ways = {beside(dice) for _ in range(5000)}
    assert len(ways) > 3000
    assert all(way.count("{") == way.count("{subject}") == 1 for way in ways)
    taught = {comparable(text) for text in Book().texts(RELATIONS)}
    assert not [way for way in ways if comparable(way) in taught]


def test_a_job_with_relations_of_its_own_is_not_told_what_is_no_matter_of_it(made):
    assert count_beside(made) == 0


def test_shares_of_the_training_rows_are_as_asked_for(made):
    rows = rows_of(made, "train")
    unknown = sum(row.output == UNKNOWN for row in rows)
    assert unknown / len(rows) == pytest.approx(0.1, abs=0.02)
    compared = made.told["questions"]["train"]["known"]["comparison"]
    assert sum(compared.values()) / len(rows) == pytest.approx(0.05, abs=0.02)


def test_a_pair_that_an_exam_compares_is_compared_in_no_training_row(tmp_path):
    made = prepared(tmp_path, qa=Qa(variants=6, comparison_share=0.5))

    def pairs(part):
        with open_store(made.at / "facts.db") as store:
            known = {entry.subject for entry in store.subjects()}
        found = set()
        for row in rows_of(made, part):
            named = frozenset(name for name in known if name in row.input)
            if len(named) == 2:
                assert row.output in named
                found.add((named, "born" in row.input, "die" in row.input or "death" in row.input))
        return found

    assert pairs("test") and pairs("validation")
    assert not pairs("train") & (pairs("test") | pairs("validation"))


def test_no_question_has_its_answer_in_it(made):
    for part in ("train", "validation", "test"):
        for row in rows_of(made, part):
            if row.output != UNKNOWN and " or " not in row.input and not row.input.lower().startswith(("of ", "whose")):
                assert not names.says(row.input, row.output), row


def test_the_same_facts_and_seed_give_the_same_bytes_and_another_seed_the_same_exams(made, tmp_path):
    again, other = prepared(tmp_path / "again"), prepared(tmp_path / "other", seed=1)
    for file in sorted(made.at.iterdir()):
        assert file.read_bytes() == (again.at / file.name).read_bytes(), file.name
    for part in ("validation", "test"):
        assert rows_of(made, part) == rows_of(other, part)
    assert rows_of(made, "train") != rows_of(other, "train")


def test_what_a_table_of_ones_own_has_in_vain_is_said_with_its_line(tmp_path, capsys):
    wrong = [("Bo Hale", "born", "31 April 1830"), ("Ada Doubt", "born", "1700"), ("Ada Doubt", "born", "1750")]
    prepared(tmp_path, [*made_up_facts(), *wrong])
    said = capsys.readouterr().err
    assert "facts.csv: 1 left out: impossible date, such as " in said and "Bo Hale" in said
    assert "facts.csv: 2 left out: disputed, such as " in said and "Ada Doubt | born | 1750" in said


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10_000), st.integers(30, 60), st.sampled_from([0.02, 0.1, 0.3]))
def test_whatever_the_facts_nothing_withheld_is_taught(tmp_path_factory, seed, people, share):
    folder = tmp_path_factory.mktemp("any")
    made = prepared(folder, made_up_facts(people, seed), Qa(variants=3, withheld_share=share))
    assert_nothing_withheld_is_taught(made.at)


def test_every_other_question_has_its_sources_name_in_front_where_tags_are_asked_for(tmp_path):
    made = prepared(tmp_path, qa=QA.model_copy(update={"source_tags": True}))
    rows = rows_of(made, "train")
    for chosen in (rows, [row for row in rows if row.output == UNKNOWN]):
        tagged = sum(row.input.startswith("[facts.csv] ") for row in chosen)
        assert tagged / len(chosen) == pytest.approx(0.5, abs=0.1)
    assert not any(row.input.startswith("[") for part in EXAMS for row in rows_of(made, part))


def test_some_questions_are_written_carelessly_whatever_their_answer(made):
    rows = rows_of(made, "train")
    for some in (rows, [row for row in rows if row.output == UNKNOWN], [row for row in rows if " or " in row.input]):
        assert 0.1 < sum(row.input == row.input.lower() for row in some) / len(some) < 0.3
        assert 0.5 < sum(row.input.endswith(("?", ".")) for row in some) / len(some) < 0.9


def test_every_fact_of_a_dozen_questions_is_asked_for_in_small_letters_too(tmp_path):
    made = prepared(tmp_path, qa=Qa(variants=12))
    born = {fact.subject for fact in store_of(made)[0] if fact.relation == "born"}
    texts = [row.input for row in rows_of(made, "train") if row.output != UNKNOWN]
    taught = {name for name in born if any(name in text for text in texts)}
    small = {name for name in taught if any(name.lower() in text for text in texts)}
    assert taught and small == taught


def test_disputed_values_and_several_ones_are_left_out_and_counted(tmp_path):
    facts = made_up_facts()
    facts += [("Ada Doubt", "born", "1700"), ("Ada Doubt", "born", "1750"), ("Ada Doubt", "died", "1790")]
    facts += [("Odo Two", "born in", "Wick"), ("Odo Two", "born in", "Marl")]
    facts += [("Una Nest", "born in", "Wick"), ("Una Nest", "born in", "Wick, Tarn")]
    made = prepared(tmp_path, facts, Qa(variants=6, withheld_share=0))
    assert made.told["skipped"]["disputed"] == 2
    assert made.told["skipped"]["several values"] == 2
    rows = rows_of(made, "train")
    assert {row.output for row in rows if "Una Nest" in row.input} >= {"Wick, Tarn"}
    assert not [row for row in rows if "Odo Two" in row.input and row.output in ("Wick", "Marl")]


def test_of_dates_that_agree_the_most_precise_is_the_answer(tmp_path):
    facts = [*made_up_facts(), ("Ada Exact", "born", "1702"), ("Ada Exact", "born", "3 May 1702")]
    (tmp_path / "more").mkdir()
    more = write_facts(tmp_path / "more" / "more.csv", [("Ada Exact", "born", "1702")])
    table = write_facts(tmp_path / "facts.csv", facts[:-2] + facts[-1:])
    told = prepare_questions(
        Data(facts=[source(more), source(table)]), Qa(variants=6, withheld_share=0), tmp_path / "data"
    )
    rows = read_records(tmp_path / "data" / "train.jsonl")
    assert {row.output for row in rows if "Ada Exact" in row.input and "or" not in row.input.split()} >= {"3 May 1702"}
    assert "1702" not in {row.output for row in rows}
    assert told["facts"]["taught"] > 0


def test_two_of_one_name_are_asked_for_with_what_tells_them_apart(tmp_path):
    facts = [(*fact, "") for fact in made_up_facts()]
    facts += [("Bo Same", "born", "1801", "weaver"), ("Bo Same", "born", "1850", "smith of Wick")]
    facts += [("Bo Hint", "craft", "potter", "potter"), ("Bo Hint", "craft", "miller", "fiddler")]
    table = tmp_path / "facts.csv"
    table.write_text("\n".join(["subject,relation,value,hint", *(",".join(fact) for fact in facts)]))
    told = prepare_questions(
        Data(facts=[source(table, hint="hint")]), Qa(variants=6, withheld_share=0), tmp_path / "data"
    )
    asked = {row.input: row.output for row in read_records(tmp_path / "data" / "train.jsonl")}
    known = {text.lower(): answer for text, answer in asked.items() if answer != UNKNOWN}
    assert all("(" in text for text, answer in known.items() if "bo same" in text and answer in ("1801", "1850"))
    assert any("bo same (weaver)" in text and answer == "1801" for text, answer in known.items())
    assert "potter" not in known.values() and "miller" in known.values()
    assert told["skipped"]["its name gives the answer away"] == 1


def test_relations_of_ones_own_are_asked_in_general_words_or_in_ones_own(tmp_path):
    made = prepared(tmp_path / "general")
    texts = [row.input for part in ("train", "validation", "test") for row in rows_of(made, part)]
    assert any("height of the" in text or "height of" in text for text in texts)
    own = Phrasings(
        relation="height",
        ask=["How high is {subject}?", "How tall is {subject}?", "{subject}: how high?", "How far up goes {subject}?"],
        reverse=["What is {value} high?"],
    )
    made = prepared(tmp_path / "own", qa=QA.model_copy(update={"phrasings": [own]}))
    texts = [row.input for part in ("train", "validation", "test") for row in rows_of(made, part)]
    assert not any("height" in text for text in texts) and any("how" in text.lower() for text in texts)
    shared = made.told["asked in the exams as in training"]
    assert list(shared) == ["height"] and list(shared["height"]) == ["reverse"]


def test_the_same_words_for_two_relations_are_refused(tmp_path):
    both = [Phrasings(relation="height", ask=["How much is {subject}?"])]
    both.append(Phrasings(relation="weight", ask=["How much is {subject}?"]))
    facts = [*made_up_facts(), ("Oldwick Keep", "weight", "9 tons")]
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, facts, QA.model_copy(update={"phrasings": both}))
    assert "asks for both 'height' and 'weight'" in str(caught.value)


@pytest.mark.parametrize(
    ("facts", "qa", "found"),
    [
        ([("Ada Brook", "born", "1802")], QA, "an exam needs"),
        ([("Ada Brook", "born", "1802"), ("Ada Brook", "born", "1750")], QA, "can be asked for"),
        (made_up_facts(), QA.model_copy(update={"relations": ["weight"]}), "no source says anything of 'weight'"),
        (
            made_up_facts(),
            QA.model_copy(update={"phrasings": [MISSPELT]}),
            "qa.phrasings: no source says anything of 'wieght'",
        ),
        ([*made_up_facts(9), *((f"Bo {n}", "born", f"31 April {1800 + n}") for n in range(9))], QA, "dates are none"),
    ],
)
def test_facts_that_are_no_exam_are_refused(tmp_path, facts, qa, found):
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, facts, qa)
    assert found in str(caught.value)


def test_impossible_dates_are_counted(tmp_path):
    made = prepared(tmp_path, [*made_up_facts(), ("Bo Never", "born", "31 April 1802")])
    assert made.told["skipped"]["impossible date"] == 1


def test_the_ledger_counts_every_fact_once(made):
    (entry,) = json.loads((made.at / "ledger.json").read_text())["sources"]
    counts = entry["rows"]
    assert entry["role"] == "facts" and entry["licence"] == "own"
    kept = counts["train"] + counts["validation"] + counts["test"]
    assert counts["read"] == kept + sum(entry["removed"].values()) == len(made_up_facts())
    assert counts["validation"] and counts["test"]


def test_a_model_may_be_shipped_if_the_licences_of_its_facts_allow_it(made):
    ledger = json.loads((made.at / "ledger.json").read_text())
    assert with_base(ledger, None)["shipping"]["allowed"]
    ledger["sources"][0]["licence"] = "proprietary"
    assert not with_base(ledger, None)["shipping"]["allowed"]


def test_a_step_depends_on_the_table_and_not_on_where_it_lies_nor_on_the_risk(tmp_path):
    (tmp_path / "other").mkdir()
    one, two = write_facts(tmp_path / "facts.csv"), write_facts(tmp_path / "other" / "facts.csv")

    def keyed(path, **qa):
        data, base = {"facts": [source(path)]}, {"model": "scratch"}
        return sources(Job(name="x", task="qa", base=base, data=data, qa=qa, release={"must_beat": []}))

    first = keyed(one)
    assert first == keyed(two, risk=0.2)
    assert first != keyed(two, variants=3)
    two.write_text(two.read_text() + "Bo More,born,1900\n")
    assert first != keyed(two)
    json.dumps(first)


def test_exams_have_at_least_five_hundred_rows_where_there_are_facts():
    assert exam_rows(8000, 0.005, 2000) == 500 and exam_rows(8000, 0.1, 2000) == 800
    assert exam_rows(90_000, 0.05, 2000) == 1000 and exam_rows(90_000, 0.05, 200) == 200
    assert exam_rows(80, 0.05, 2000) == 160


def test_what_questions_are_about_comes_back(tmp_path):
    written = [About("known", "ask", "born", "\u00c9l\u2028a", "44 BC", -44, "Europe")]
    written.append(About("invented", "ask", "born", "Bo", "", None, ""))
    write_about(tmp_path / "a.jsonl", written)
    assert read_about(tmp_path / "a.jsonl") == written
    (tmp_path / "a.jsonl").write_text('{"kind": "known"}\n')
    for path in (tmp_path / "a.jsonl", tmp_path / "b.jsonl"):
        with pytest.raises(DataError):
            read_about(path)


@given(st.text("abc ", max_size=12), st.text("abc ", max_size=30))
def test_a_name_is_found_as_words(name, text):
    found = Mentions([(name, "owner")]).owners(text)
    words, wanted = text.split(), name.split()
    inside = any(words[at : at + len(wanted)] == wanted for at in range(len(words)))
    assert bool(found) == bool(wanted and inside)


def test_what_was_left_out_about_a_place_says_nothing_of_a_person_of_its_name(tmp_path):
    rows = [("Wickland", "capital", "Tam", "country"), ("Wickland", "independence", "unclear, 1801 or 1804", "country")]
    person = [("Wickland", "born", "1802", "weaver")]
    facts = [(*fact, "") for fact in made_up_facts()]
    rows_of_table = [*facts, *rows, *person]
    text = "subject,relation,value,hint\n" + "".join(f'"{a}",{b},"{c}",{d}\n' for a, b, c, d in rows_of_table)
    (tmp_path / "facts.csv").write_text(text, encoding="utf-8")
    source = FactSource(source=f"file:{tmp_path / 'facts.csv'}", format="csv", licence="own", hint="hint")
    prepare_questions(Data(facts=[source]), QA, tmp_path / "data")
    asked = [row.input for row in read_records(tmp_path / "data" / "train.jsonl") if row.output == "Tam"]
    assert asked and not any("(country)" in text for text in asked)


def test_relations_are_asked_for_in_whatever_capitals(tmp_path):
    rows = [(f"Hill {number}", "Height" if number else "height", f"{100 + number} m") for number in range(60)]
    made = prepared(tmp_path, rows[::-1], Qa(variants=3, relations=["HEIGHT"], comparison_share=0.0))
    taught = {row.output for row in rows_of(made, "train")}
    assert len(taught & {value for *_, value in rows}) > 50


def test_of_two_of_one_name_the_one_whose_capital_was_left_out_keeps_the_name_from_the_other(tmp_path):
    facts = [(*fact, "") for fact in made_up_facts()]
    facts += [("Georgland", "capital", "Tiblis", "country"), ("Georgland", "capital", "unknown", "state")]
    facts += [("Georgland", "population", "11 million", "state")]
    text = "subject,relation,value,hint\n" + "".join(f'"{a}",{b},"{c}",{d}\n' for a, b, c, d in facts)
    (tmp_path / "facts.csv").write_text(text, encoding="utf-8")
    source = FactSource(source=f"file:{tmp_path / 'facts.csv'}", format="csv", licence="own", hint="hint")
    prepare_questions(Data(facts=[source]), QA, tmp_path / "data")
    asked = [row.input for row in read_records(tmp_path / "data" / "train.jsonl") if row.output == "Tiblis"]
    assert asked and all("(country)" in text for text in asked)


def test_short_names_are_made_up_where_known_ones_are_short():
    codes = ["AMS", "BER", "CDG", "DUB", "EZE", "FRA", "GVA", "HEL"]
    inventor = Inventor({"": codes}, lambda name: name in codes)
    made = [inventor.name("", random.Random(number)) for number in range(5)]
    assert all(made) and max(len(name) for name in made) <= 6


def test_facts_at_the_beginning_of_all_years_are_asked_for(tmp_path):
    early = [("Jerich", "founded", "10000 BC"), ("Tamich", "founded", "9990 BC")]
    assert prepared(tmp_path, [*made_up_facts(), *early])


@given(st.lists(st.text("abcdefg ", min_size=2, max_size=9), min_size=2, max_size=30), st.integers(0, 99))
def test_what_is_invented_is_new_every_time(known, seed):
    keys = {names.key(name) for name in known}
    inventor, dice = Inventor({"person": known}, lambda name: names.key(name) in keys), random.Random(seed)
    made = [name for _ in range(20) if (name := inventor.name("person", dice))]
    assert len({names.key(name) for name in made}) == len(made)
    assert not keys & {names.key(name) for name in made}
    assert inventor.name("place", dice) is None


WHEN = (
    "1203",
    "circa 1066",
    "12th century",
    "5 May 1210",
    "44 BC",
    "circa 3 BC",
    "1198 to 1204",
    "AD 9",
    "circa 490s BC",
)


@given(st.lists(st.sampled_from(WHEN), max_size=3), st.integers(-520, 1240))
def test_a_year_is_told_of_if_a_date_of_the_sources_agrees_with_it(texts, year):
    there = [dates.parse(text) for text in texts]
    try:
        whole = dates.year(year)
    except NotADateError:
        return
    assert (year in years_told(there)) is any(whole.agrees(date) for date in there)


FEW_WORDS = st.lists(st.sampled_from(["ada", "brook", "of", "wick"]), min_size=1, max_size=4).map(" ".join)


@given(st.lists(FEW_WORDS, max_size=6), FEW_WORDS)
def test_a_text_names_those_whose_words_it_has_one_after_the_other(called, text):
    owners = Mentions((name, f"{name} {at}") for at, name in enumerate(called)).owners(text)
    assert owners == {f"{name} {at}" for at, name in enumerate(called) if f" {name} " in f" {text} "}


@given(st.lists(FEW_WORDS, min_size=1, max_size=6), FEW_WORDS)
def test_words_of_a_name_resemble_it_as_if_all_names_were_searched(called, text):
    known = Names([Entry("one", "", tuple(dict.fromkeys(called)))], {}, {})
    wanted = any(f" {text} " in f" {name} " for name in called)
    parts = {part for part in within(text) if part in called}
    assert known.resembles(text) is (wanted or bool(parts))


@given(st.lists(FEW_WORDS, min_size=1, max_size=8))
def test_a_value_is_one_subjects_alone_if_no_others_value_has_all_its_words(values):
    origin = Origin("own", "file:own.csv", "own", "")
    facts = [Fact(f"Bo {at}", "born in", value, None, value, "line", origin) for at, value in enumerate(values)]
    wanted = {
        (fact.subject, "born in")
        for fact in facts
        if not any(set(fact.value.split()) <= set(other.value.split()) for other in facts if other is not fact)
    }
    assert alone([fact] for fact in facts) == wanted


def test_training_rows_are_in_seeded_order(made, tmp_path):
    rows = rows_of(made, "train")
    assert rows == sorted(rows, key=lambda row: seeded(0, row.input, row.output))
    other = prepared(tmp_path, seed=7)
    assert (again := rows_of(other, "train")) == sorted(again, key=lambda row: seeded(7, row.input, row.output))
    assert again != rows


def test_questions_about_a_fact_share_what_they_are_about():
    one = Known(
        *("Ada Brook", "person", "born", "born", "1802", dates.year(1802), 1802, "own", ("own",), "Ada Brook", ()),
        *("Europe", True),
    )
    questions = training_of(one, Book(), 12, 0)
    assert {question.about.form for question in questions} == {"ask", "reverse"}
    assert len(questions) == 12 and len({id(question.about) for question in questions}) == 2
