"""Facts read from WordNet, calendars, the Factbook and tables; merged, marked where they contradict, and stored.

All example text is ours; only its layout is the sources'.
"""

import gzip
import json
import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from test_data_archives import zip_bytes

from metier.data.archives import File
from metier.data.facts import build
from metier.data.facts import merge as merge_of_facts
from metier.data.facts.build import build_store
from metier.data.facts.calendar import read_calendar
from metier.data.facts.elements import read_elements
from metier.data.facts.factbook import read_factbook
from metier.data.facts.found import Found, Left
from metier.data.facts.merge import merge
from metier.data.facts.table import read_table
from metier.data.facts.wordnet import describe, read_wordnet
from metier.errors import DataError, RunError
from metier.facts.store import open_store
from metier.spec.facts import FactSource


def noun(offset, file, words, gloss, **pointers):
    """Return a line of data.noun: pointers by kind, ``i`` to what it is an instance of and ``p`` to its whole."""
    spelt = " ".join(f"{word} 0" for word in words)
    signs = {"i": "@i", "p": "#p"}
    to = [f"{signs[kind]} {target} n 0000" for kind, targets in pointers.items() for target in targets]
    return f"{offset} {file} n {len(words):02x} {spelt} {len(to):03} {' '.join(to)} | {gloss}  "


def person(gloss, *words):
    return noun("10000001", "18", words or ("Brook", "Ada_Brook", "Ada_Mary_Brook"), gloss, i=["09999999"])


def said(items):
    """Return facts as (relation, value), and the reasons for what was left out."""
    return [(item.relation, item.value) if isinstance(item, Found) else item.reason for item in items]


def wordnet(*lines):
    return list(read_wordnet("data.noun", ["  1 This is the licence", *lines]))


def values(items, relation):
    return [item.value for item in items if isinstance(item, Found) and item.relation == relation]


@pytest.mark.parametrize(
    ("span", "born", "died"),
    [
        ("(1802-1871)", ["1802"], ["1871"]),
        ("(born in 1934)", ["1934"], []),
        ("(born 1918)", ["1918"], []),
        ("(1928-)", ["1928"], []),
        ("(died in 1040)", [], ["1040"]),
        ("(died 217 BC)", [], ["217 BC"]),
        ("(525-456 BC)", ["525 BC"], ["456 BC"]),
        ("(63 BC - AD 14)", ["63 BC"], ["AD 14"]),
        ("(10 BC to AD 54)", ["10 BC"], ["AD 54"]),
        ("(37-93)", ["AD 37"], ["AD 93"]),
        ("(370-410)", ["370"], ["410"]),
        ("(circa 370-330 BC)", ["circa 370 BC"], ["circa 330 BC"]),
        ("(1626?-1698)", ["circa 1626"], ["1698"]),
        ("(518?-438? BC)", ["circa 518 BC"], ["circa 438 BC"]),
        ("(?-424 BC)", [], ["424 BC"]),
        ("(July 20, 1969) (1930-1999)", ["1930"], ["1999"]),
        ("(1865-1823)", [], []),
        ("(1618-1857)", [], []),
        ("(1925)", [], []),
        ("(1626-1698) (1687-1745)", [], []),
    ],
)
def test_years_of_a_life_are_read_with_bc_circa_and_short_years(span, born, died):
    found = wordnet(person(f"Wessex poet noted for long odes {span}"))
    assert (values(found, "born"), values(found, "died")) == (born, died)


def test_a_life_that_cannot_be_is_left_out_with_the_reason():
    assert "impossible life" in said(wordnet(person("Wessex poet (1865-1823)")))
    assert "several lives in one line" in said(wordnet(person("family of Wessex weavers (1626-1698)")))


def test_a_person_goes_by_the_full_name_and_is_described_in_a_few_words():
    found = wordnet(person('Wessex poet (born in Mercia) who wrote about mills; "a Brook is a Brook" (1802-1871)'))
    assert found[0].subject.names == ("Ada Brook", "Brook", "Ada Mary Brook")
    assert said(found) == [("described as", "Wessex poet"), ("born in", "Mercia"), ("born", "1802"), ("died", "1871")]
    assert found[0].line.place == "data.noun, line 2"
    assert found[0].line.text.startswith("Brook, Ada Brook, Ada Mary Brook: Wessex poet (born in Mercia) who")


def test_a_surname_with_a_small_letter_is_no_full_name():
    assert wordnet(person("painter", "van_Wick", "Odo_van_Wick"))[0].subject.names[0] == "Odo van Wick"


def test_centuries_and_reigns_are_facts_too():
    assert values(wordnet(person("Wessex geometer (3rd century BC)")), "lived") == ["3rd century BC"]
    assert values(wordnet(person("King of Wessex from 1307 to 1327 and a poor one (1284-1327)")), "ruled") == [
        "1307 to 1327"
    ]


@pytest.mark.parametrize(
    ("gloss", "words"),
    [
        ("a Wessex novelist and playwright (1802-1871)", "Wessex novelist and playwright"),
        ("(Wessex legend) the goddess of mills; also of bread", "goddess of mills"),
        ("the most famous miller of all", "most famous miller of all"),
        (
            "a very long description of a person who",
            "very long description of a person",
        ),
        (
            "a mountain on the long and winding border between Wessex and Northumbria",
            "mountain on the long and winding border",
        ),
        ("commander of the fleet of the northern islands in the long war of the seven mills", None),
        ("an", None),
    ],
)
def test_a_description_is_cut_where_it_still_makes_sense(gloss, words):
    found = describe(gloss)
    assert (
        found == words if words else found is None or (len(found) <= 60 and not found.endswith((" of", " the", " in")))
    )


def test_events_have_one_date_or_none():
    def event(gloss, *words):
        return wordnet(noun("01000000", "04", words or ("Wick",), gloss, i=["00900000"]))

    assert values(event("a battle in the War of Mills (1455)"), "occurred") == ["1455"]
    assert event("a battle in the War of Mills (1455)")[0].subject.names == ("Battle of Wick", "Wick")
    assert event("a naval battle", "Wick", "battle_of_Wick")[0].subject.names[1:] == ("Wick", "battle of Wick")
    assert values(event("a war (1455-1471) between mills"), "occurred") == ["1455 to 1471"]
    assert values(event("the flight in 622 from Wick"), "occurred") == ["622"]
    assert values(event("a siege from 1145 to 1147; Wick was lost in 1187"), "occurred") == ["1145 to 1147"]
    assert "several dates" in said(event("a war from 1145 to 1147 and again in 1187"))
    assert "no date" in said(event("from 63 million to 2 million years ago"))


def test_places_are_in_what_their_line_names_and_capitals_are_of_it():
    lines = [
        noun("08000001", "15", ["Mercia", "Kingdom_of_Mercia"], "a kingdom inland", i=["08500000"]),
        noun(
            "08000002",
            "15",
            ["Tamwick", "Tamwicke"],
            "the capital and largest city of Mercia",
            i=["08500001"],
            p=["08000001"],
        ),
        noun("08000003", "15", ["Ludwick"], "a town on the river Tam", i=["08500001"], p=["08000001"]),
        noun("08000004", "15", ["Oldwick"], "a former capital of Mercia", i=["08500001"], p=["08000001"]),
    ]
    found = wordnet(*lines)
    assert values(found, "located in") == ["Mercia", "Mercia"]
    (capital,) = [item for item in found if isinstance(item, Found) and item.relation == "capital"]
    assert (capital.subject.names[0], capital.subject.id, capital.value) == ("Mercia", "08000001", "Tamwick")
    assert {"the whole is not named in the line", "capital of what is not clear"} <= set(said(found))


def test_a_place_goes_by_the_name_that_other_lines_use():
    mine = noun("08000002", "15", ["Tamwicke", "Tamwick"], "a city", i=["08500001"])
    other = noun("08000003", "15", ["Ludwick"], "a town near Tamwick", i=["08500001"])
    assert wordnet(mine, other)[0].subject.names == ("Tamwick", "Tamwicke")


def test_works_and_groups_were_made_in_a_year_but_not_by_somebody_elses_verb():
    def group(gloss):
        return wordnet(noun("08000005", "14", ["Guild_of_Millers"], gloss, i=["08500002"]))

    assert values(group("a guild founded in 1859 by Ada Brook"), "founded") == ["1859"]
    assert values(group("a guild; formed in Wick in the early 12th century"), "founded") == ["12th century"]
    assert values(group("a guild whose master founded in 1859 another"), "founded") == []
    tower = noun("04000000", "06", ["Mill_Tower"], "a tower built 1368 feet tall", i=["04000001"])
    assert values(wordnet(tower), "built") == []


CALENDAR = """/*
 * 01/01	A comment, 1900
 */
#ifndef _calendar_ours_
LANG=UTF-8

01/02	Wessex and Mercia agree on a plan to preserve
	the Great Mill, 1929
01/03	The mill burns down, 1801 3 houses lost
01/04	Ada Brook born in Wick, Wessex, 1802
01/05	Odo "Long" Wick born, 1749, founder of dentistry
01/06	Jazz great Ben Mill dies at 57 in Wick, 1979
01/07	Odo the Elder died, 322BC
01/08	Battle of Wick
01/09	Battle of Tam begins, 1455 2K casualties
Easter+49	Wick fair
02/30	A day that never was, 1900
01/10	King George of Mercia enters Tamwick, 68
01/11	Tom Mill and Ann Mill die on the same day, 1826
01/12	The guild buys ~1,000,000 sacks
01/13	Eve Tam born near Wick, 1757?
"""


def test_a_calendars_entries_are_births_deaths_and_events_with_their_lines():
    found = list(read_calendar("calendar.ours", CALENDAR.splitlines()))
    facts = {item.value: item for item in found if isinstance(item, Found)}
    assert facts["2 January 1929"].line == (
        "calendar.ours, line 7",
        "01/02 Wessex and Mercia agree on a plan to preserve the Great Mill, 1929",
    )
    assert facts["2 January 1929"].subject.names == ("Wessex and Mercia agree on a plan to preserve the Great Mill",)
    assert [(item.relation, item.value, item.subject.names[0]) for item in found if isinstance(item, Found)] == [
        ("occurred", "2 January 1929", "Wessex and Mercia agree on a plan to preserve the Great Mill"),
        ("occurred", "3 January 1801", "The mill burns down"),
        ("born", "4 January 1802", "Ada Brook"),
        ("born in", "Wick, Wessex", "Ada Brook"),
        ("born", "5 January 1749", "Odo Wick"),
        ("died", "6 January 1979", "Ben Mill"),
        ("died", "7 January 322 BC", "Odo the Elder"),
        ("occurred", "9 January 1455", "Battle of Tam"),
        ("occurred", "10 January AD 68", "King George of Mercia enters Tamwick"),
        ("occurred", "11 January 1826", "Tom Mill and Ann Mill die on the same day"),
        ("born", "circa 13 January 1757", "Eve Tam"),
    ]
    assert facts["5 January 1749"].subject.hint == "founder of dentistry"
    assert sorted(item.reason for item in found if isinstance(item, Left)) == [
        *("impossible date", "no fixed day", "no year", "no year")
    ]


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ("The guild buys Wick Mills, 1963 (9 stores)", ["3 May 1963"]),
        ("Massacre of Wick (300 villagers)", []),
        ("Tam New Year (3 days)", []),
        ("Old Wick burns down (64 AD)", ["3 May AD 64"]),
        ("Old Wick is founded, 753BC", ["3 May 753 BC"]),
        ("Old Wick is sacked, 1184 BC", ["3 May 1184 BC"]),
        ("Old Wick is sacked (410)", ["3 May 410"]),
    ],
)
def test_a_number_of_days_or_people_is_no_year(entry, found):
    items = list(read_calendar("calendar.ours", [f"05/03\t{entry}"]))
    assert [item.value for item in items if isinstance(item, Found)] == found


def test_a_gloss_about_something_else_makes_no_fact_about_its_subject():
    assert values(wordnet(person("miller (born in Mercia but of Wessian descent)")), "born in") == ["Mercia"]
    assert values(wordnet(person("miller (born in Mercia where he built a mill)")), "born in") == ["Mercia"]
    assert values(wordnet(person("labor leader, president of the Millers of Wick from 1920 to 1960")), "ruled") == []
    assert values(wordnet(person("president of Mercia from 1920 to 1960")), "ruled") == ["1920 to 1960"]

    def place(gloss):
        return wordnet(noun("08000005", "15", ["Tamwick"], gloss, i=["08500002"]))

    assert values(place("a city; site of a university founded in 1613"), "founded") == []
    assert values(place("a city; founded in 1613"), "founded") == ["1613"]

    def event(gloss):
        return wordnet(noun("01000000", "04", ["Battle_of_Wick"], gloss, i=["01000001"]))

    assert values(event("either of two wars (1861-1862)"), "occurred") == []
    assert values(event("a battle (April to June 1945)"), "occurred") == []
    assert values(event("a battle (June 1945)"), "occurred") == ["June 1945"]


def test_what_a_source_says_and_is_not_taken_is_remembered_by_the_subjects_names():
    country = [
        *read_factbook("x.json", profile("3 May 1910 (united); 4 June 1934 (sovereign)", "Wick; Tam", short="Oz"))
    ]
    assert merged(country, calendar("01/04 Ada Brook born, 1802")).unsure == {
        "oz": {"independence", "independent of", "capital"}
    }


def profile(independence, capital, **names):
    spoken = {f"conventional {form} form": {"text": text} for form, text in names.items()}
    government = {
        "Country name": spoken,
        "Independence": {"text": independence},
        "Capital": {"name": {"text": capital}},
    }
    return json.dumps({"Government": government})


@pytest.mark.parametrize(
    ("independence", "found"),
    [
        ("4 July 1821 (from Mercia)", [("independence", "4 July 1821"), ("independent of", "Mercia")]),
        (
            "24 May 1973 (declared); 10 June 1974 (from the Isles)",
            [("independence", "10 June 1974"), ("independent of", "Isles")],
        ),
        (
            "3 May 1947 (from Wessex); notable earlier dates: 660 B.C. (mythical)",
            [("independence", "3 May 1947"), ("independent of", "Wessex")],
        ),
        ("3 May 1947 (a new order)", ["a date, but not of independence"]),
        ("4 July 1776 (declared independence)", [("independence", "4 July 1776")]),
        ("4 July 1821 (from South Mercian mandate)", [("independence", "4 July 1821")]),
        ("3 May 1910 (united); 4 June 1934 (sovereign)", ["no one date of independence"]),
        ("none (territory of Mercia)", ["not independent"]),
        ("no official date of independence: 976", ["no one date of independence"]),
        ("", ["nothing said"]),
    ],
)  # fmt: skip
def test_a_country_has_one_date_of_independence_or_none(independence, found):
    items = read_factbook("europe/we.json", profile(independence, "Wick", short="Wessex"))
    assert said(items)[:-1] == found


@pytest.mark.parametrize(
    ("capital", "found"),
    [
        ("Wick", ("capital", "Wick")),
        ("Wick (Old Wick); note - cold", ("capital", "Wick")),
        ("W&iacute;ck <em>on Tam</em>", ("capital", "W\u00edck on Tam")),
        ("Wick (constitutional capital); Tam (seat of government)", "several capitals, or none"),
        ("no official capital; offices in Wick", "several capitals, or none"),
        ("", "nothing said"),
    ],
)
def test_a_country_has_one_capital_or_none(capital, found):
    assert said(read_factbook("europe/we.json", profile("", capital, short="Wessex")))[-1] == found


def test_a_country_goes_by_its_short_name_unless_that_is_a_part_of_the_long_one():
    def names(**spoken):
        return next(iter(read_factbook("x.json", profile("4 July 1821 (from Mercia)", "Wick", **spoken)))).subject.names

    assert names(short="Wessex", long="Republic of Wessex") == ("Wessex", "Republic of Wessex")
    assert names(short="The Wessian", long="Wessian Republic") == ("Wessian Republic", "The Wessian")
    assert names(short="none", long="Isles of Tam") == ("Isles of Tam",)


def test_a_profile_that_is_none_is_named():
    with pytest.raises(DataError, match=r"we\.json: is no profile of a country"):
        list(read_factbook("we.json", "[]"))


@pytest.fixture
def table(tmp_path):
    """Read a table of ours with a source of the given settings."""

    def read(text, **settings):
        form = settings.pop("format", "csv")
        (tmp_path / f"facts.{form}").write_text(text, encoding="utf-8")
        source = FactSource(source=f"file:{tmp_path / f'facts.{form}'}", format=form, licence="own", **settings)
        return list(read_table(source, File(tmp_path / f"facts.{form}", f"facts.{form}")))

    return read


def test_a_table_has_facts_of_known_relations_and_of_its_own(table):
    found = table(
        'subject,relation,value\nAda Brook,born,1802-01-04\nWick Cup,won by,"Tam, the team"\nTam,born,\nWick,,x\n\n'
    )
    assert said(found) == [("born", "4 January 1802"), ("won by", "Tam, the team"), "value missing", "value missing"]
    assert found[1].line == ("facts.csv, line 3", "Wick Cup | won by | Tam, the team")


def test_a_table_can_have_one_relation_and_columns_of_any_name(table):
    text = "what,when,more\nFall of Wick,570 BC,Sack of Wick|Wick 570\n"
    found = table(text, subject="what", value="when", always="occurred", also="more")
    assert said(found) == [("occurred", "570 BC")]
    assert found[0].subject.names == ("Fall of Wick", "Sack of Wick", "Wick 570")


def test_lines_of_json_are_a_table_too(table):
    row = {"subject": "Wick", "relation": "located in", "value": "Wessex", "date": "1801", "also": ["Old Wick", "Wyck"]}
    (found,) = table(json.dumps(row) + "\n", format="jsonl", date="date", also="also")
    assert (found.subject.names, found.value, str(found.date)) == (("Wick", "Old Wick", "Wyck"), "Wessex", "1801")
    with pytest.raises(DataError, match="line 1: has no 'value'; its keys are subject, relation"):
        table('{"subject": "Wick", "relation": "born"}\n', format="jsonl")


def test_an_object_may_lack_what_may_be_missing_but_not_all_of_them(table):
    rows = [{"subject": "Wick", "relation": "height", "value": 4810, "also": None}, {"subject": "Tam", "value": "9"}]
    lines = "".join(json.dumps({"relation": "height", **row}) + "\n" for row in rows)
    found = table(lines, format="jsonl", also="also")
    assert said(found) == [("height", "4810"), ("height", "9")]
    with pytest.raises(DataError, match="no object has 'hint'"):
        table(lines, format="jsonl", also="also", hint="hint")


def test_a_value_that_is_not_known_is_no_fact_and_no_bad_date(table):
    found = table("subject,relation,value\nWick,height,N/A\nTam,born,unknown\nMill,symbol,Na\nTam,film,The Unknown\n")
    assert said(found) == ["the value is that it is not known"] * 2 + [("symbol", "Na"), ("film", "The Unknown")]
    assert found[0].about[0].names == ("Wick",) and found[0].about[1] == ("height",)


def test_accents_are_one_letter_each_however_they_were_typed(table):
    (found,) = table("subject,relation,value\nJose\u0301 Wick,lived in,Malmo\u0308\n")
    assert (found.subject.names[0], found.value) == ("Jos\u00e9 Wick", "Malm\u00f6")


def test_what_was_left_out_is_remembered_so_that_nobody_learns_that_it_is_not_known(table):
    good = "".join(f"Man {number},born,18{number:02}\n" for number in range(20))
    *_, left, long = table(f"subject,relation,value\n{good}Ada Zorn,born,05/12/1871\nAda Zorn,motto,{'x' * 99}\n")
    assert [(one.about[0].names, one.about[1]) for one in (left, long)] == [
        (("Ada Zorn",), ("born",)),
        (("Ada Zorn",), ("motto",)),
    ]


@pytest.mark.parametrize(
    ("date", "reason"),
    [
        ("1900-04-31", "impossible date"),
        ("12/05/45", "two-digit year"),
        ("05/12/1945", "day and month could be swapped"),
        ("-44", "not a date"),
        ("soon", "not a date"),
    ],
)
def test_a_date_that_cannot_be_relied_on_is_left_out_with_the_reason(table, date, reason):
    good = "".join(f"Man {number},born,18{number:02}\n" for number in range(20))
    assert said(table(f"subject,relation,value\n{good}Ada Brook,born,{date}\n"))[-1] == reason


def test_a_table_whose_dates_are_mostly_none_is_refused_with_the_first_of_them(table):
    rows = "".join(f"Man {number},born,0{number}/05/1945\n" for number in range(1, 9))
    with pytest.raises(
        DataError, match=r"line 2: 7 of 8 dates are none; the first is '01/05/1945': day and month could"
    ):
        table(f"subject,relation,value\n{rows}")


def test_a_table_with_rows_of_another_length_or_columns_of_other_names_is_refused(table):
    with pytest.raises(DataError, match="line 2: has 4 cells, the first row has 3"):
        table("subject,relation,value\nOdo,born,May 8, 1945\n")
    with pytest.raises(DataError, match="has no column named 'value'"):
        table("subject,relation,values\nOdo,born,1945\n")
    with pytest.raises(DataError, match="is empty"):
        table("")


def merged(*sources):
    return merge((f"source {number}", items) for number, items in enumerate(sources, 1))


def facts_of(result):
    return {
        (subject.shown, kept.source, kept.found.relation, kept.found.value, kept.disputed)
        for subject in result.subjects
        for kept in subject.facts
    }


def calendar(*entries):
    return read_calendar("calendar.ours", entries)


def test_sources_that_agree_meet_in_one_subject_and_none_is_marked():
    result = merged(wordnet(person("poet (1802-1871)")), calendar("01/04 Ada Brook born, 1802"))
    assert facts_of(result) >= {
        ("Ada Brook", "source 1", "born", "1802", False),
        ("Ada Brook", "source 2", "born", "4 January 1802", False),
    }


def test_sources_that_disagree_stand_side_by_side_and_are_marked():
    result = merged(wordnet(person("poet (1802-1871)")), calendar("01/04 Ada Brook born, 1803"))
    assert facts_of(result) >= {
        ("Ada Brook", "source 1", "born", "1802", True),
        ("Ada Brook", "source 2", "born", "4 January 1803", True),
        ("Ada Brook", "source 1", "died", "1871", False),
    }


@pytest.mark.parametrize("year", [1602, 1760])
def test_two_of_one_name_who_lived_at_other_times_are_two(year):
    result = merged(wordnet(person("poet (1802-1871)")), calendar(f"01/04 Ada Brook born, {year}"))
    second = f"Ada Brook (born 4 January {year})"
    assert {subject.shown for subject in result.subjects} == {"Ada Brook (poet)", second}
    # ... or the date is wrong: nobody can tell, and it says so.
    assert (second, "source 2", "born", f"4 January {year}", True) in facts_of(result)


def test_a_surname_alone_is_believed_if_the_date_is_that_persons():
    both = [
        person("poet (1802-1871)"),
        person("miller (1850-1900)", "Brook", "Ben_Brook").replace("10000001", "10000002"),
    ]
    result = merged(wordnet(*both), calendar("01/04 Brook born, 1850", "01/05 Brook born, 1851"))
    assert ("Ben Brook", "source 2", "born", "4 January 1850", False) in facts_of(result)
    assert not any(value == "5 January 1851" for _, _, _, value, _ in facts_of(result))
    assert result.left["source 2"] == {"a surname, and no date to tell whose": 1}


def test_two_rows_of_a_table_with_other_hints_are_about_two():
    rows = "subject,relation,value,hint\nBen Mill,born in,Wick,weaver\nBen Mill,born in,Tam,botanist\n"
    result = merged(table_of(rows, hint="hint"))
    assert {(shown, value) for shown, _, _, value, _ in facts_of(result)} == {
        *(("Ben Mill (weaver)", "Wick"), ("Ben Mill (botanist)", "Tam"))
    }


def test_one_event_in_other_words_and_another_year_is_marked():
    result = merged(
        calendar('01/01 Brook delivers her "Mill Stone" speech in Wick, 1947', "01/02 Wick fair opens, 1947"),
        calendar("03/05 Brook's Mill Stone speech, 1946", "03/06 Mill Stone bridge opens, 1946"),
    )
    disputed = {(value, marked) for _, _, _, value, marked in facts_of(result)}
    assert disputed == {
        *(("1 January 1947", True), ("5 March 1946", True)),
        *(("2 January 1947", False), ("6 March 1946", False)),
    }


def test_whoever_died_before_being_born_is_marked():
    rows = "subject,relation,value\nAda Brook,born,1802\nAda Brook,died,1790\n"
    assert {marked for *_, marked in facts_of(merged(table_of(rows)))} == {True}


def table_of(text, **settings):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "facts.csv"
        path.write_text(text)
        source = FactSource(source=f"file:{path}", format="csv", licence="own", **settings)
        return list(read_table(source, File(path, path.name)))


def test_capitals_in_two_spellings_are_one_and_two_capitals_are_disputed():
    lines = [
        noun("08000001", "15", ["Mercia"], "a kingdom", i=["08500000"]),
        noun("08000002", "15", ["Tamwick", "Tamvik"], "the capital of Mercia", i=["08500001"], p=["08000001"]),
    ]
    same = read_factbook("me.json", profile("", "Tamvik", short="Mercia"))
    other = read_factbook("me.json", profile("", "Ludwick", short="Mercia"))
    assert {m for _, _, r, _, m in facts_of(merged(wordnet(*lines), same)) if r == "capital"} == {False}
    assert {m for _, _, r, _, m in facts_of(merged(wordnet(*lines), other)) if r == "capital"} == {True}


def test_an_event_of_a_table_that_is_located_is_one_subject():
    rows = "Battle of Wick,occurred,14 October 1066\nBattle of Wick,located in,Mercia\n"
    assert {shown for shown, *_ in facts_of(merged(table_of(f"subject,relation,value\n{rows}")))} == {"Battle of Wick"}


def test_a_place_of_a_table_joins_no_person_of_its_name():
    rows = "Ada Wick,Wick,born,1809\nWick,,located in,Mercia\nWick,,capital,Tam\n"
    found = facts_of(merged(table_of(f"subject,also,relation,value\n{rows}", also="also")))
    subjects = {relation: shown.partition(" (")[0] for shown, _, relation, _, _ in found}
    assert subjects == {"born": "Ada Wick", "located in": "Wick", "capital": "Wick"}


def test_a_life_of_nine_hundred_years_is_disputed():
    result = merged(table_of("subject,relation,value\nHarald,born,1022\nHarald,died,1936\n"))
    assert all(disputed for *_, disputed in facts_of(result)) and len(facts_of(result)) == 2


def test_one_table_means_two_by_two_main_names_though_they_share_another():
    rows = (
        "Wick City,Wick,population,8\nWick State,Wick,capital,Tamwick\n"
        "Macduff,,spouse,Lady Macduff\nLady Macduff,,spouse,Macduff\n"
    )
    found = facts_of(merged(table_of(f"subject,also,relation,value\n{rows}", also="also")))
    assert {(shown.partition(" (")[0], value) for shown, _, _, value, _ in found} == {
        ("Wick City", "8"),
        ("Wick State", "Tamwick"),
        ("Macduff", "Lady Macduff"),
        ("Lady Macduff", "Macduff"),
    }


def test_a_table_may_call_its_subject_by_another_of_its_names():
    rows = "Wick City,Wick,population,8\nWick,,mayor,Ada Brook\nSir Ben Mill,,born,1802\nBen Mill,,died,1871\n"
    found = facts_of(merged(table_of(f"subject,also,relation,value\n{rows}", also="also")))
    assert {shown for shown, *_ in found} == {"Wick City", "Sir Ben Mill"}


def test_two_births_of_somebody_with_one_name_contradict_each_other():
    result = merged(table_of("subject,relation,value\nPlaton,born,428 BC\nPlaton,born,300 BC\n"))
    assert facts_of(result) == {("Platon", "source 1", "born", f"{year} BC", True) for year in (428, 300)}


def test_relations_that_differ_in_capitals_and_spaces_are_one():
    result = merged(table_of("subject,relation,value\nWick,Peak  Height,8\nTam,peak height,9\n"))
    assert {relation for _, _, relation, _, _ in facts_of(result)} == {"Peak Height"}


def test_a_value_of_signs_alone_is_a_value():
    assert {value for *_, value, _ in facts_of(merged(table_of("subject,relation,value\nWick,sign,\u2640\n")))} == {
        "\u2640"
    }


def test_what_one_source_says_twice_is_kept_once_with_the_more_exact_date():
    result = merged(table_of("subject,relation,value\nAda Brook,born,1802\nAda Brook,born,4 May 1802\n"))
    assert facts_of(result) == {("Ada Brook", "source 1", "born", "4 May 1802", False)}
    assert result.left["source 1"]["said twice"] == 1


def test_halves_of_characters_are_left_out(table):
    rows = '{"subject": "Wick \\ud83d", "relation": "born", "value": "1802"}\n'
    assert merged(table(rows, format="jsonl")).left["source 1"] == {"broken characters": 1}


def test_a_fact_whose_line_does_not_hold_it_is_left_out():
    (found,) = table_of("subject,relation,value\nAda Brook,born,1802\n")
    result = merged([found._replace(value="1803")])
    assert not result.subjects
    assert result.left["source 1"]["not word for word in its line"] == 1


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Three sources of ours: a package, and two tables that disagree."""
    monkeypatch.setenv("METIER_HOME", str(tmp_path / "home"))
    archives = tmp_path / "home" / "cache" / "archives"
    archives.mkdir(parents=True)
    files = {
        "atlas/europe/we.json": profile("4 July 1821 (from Mercia)", "Wick", short="Wessex").encode(),
        "atlas/readme.txt": b"not a profile",
    }
    (archives / "atlas-1.0-py3-none-any.whl").write_bytes(zip_bytes(files))
    for name, year in (("one", 1946), ("two", 1947)):
        (tmp_path / f"{name}.csv").write_text(f"subject,relation,value\nBrook's Mill Stone speech,occurred,{year}\n")
    return [
        FactSource(
            source="pypi:atlas==1.0", path="atlas", format="factbook", licence="public-domain", attribution="Us"
        ),
        FactSource(source=f"file:{tmp_path / 'one.csv'}", format="csv", licence="own"),
        FactSource(source=f"file:{tmp_path / 'two.csv'}", format="csv", licence="own"),
    ]


def test_a_store_is_built_from_packages_and_tables_with_counts(sources, tmp_path):
    built = build_store(sources, tmp_path / "facts.db")
    assert built.facts == {
        "atlas": {"capital": 1, "independence": 1, "independent of": 1},
        "one.csv": {"occurred": 1},
        "two.csv": {"occurred": 1},
    }
    assert (built.total, built.subjects, built.disputed) == (5, 2, 2)
    assert json.loads(json.dumps(built.to_json()))["total"] == 5
    with open_store(tmp_path / "facts.db", built.key) as store:
        assert [(fact.value, fact.disputed) for fact in store.about("Brook's Mill Stone speech")] == [
            *(("1946", True), ("1947", True))
        ]
        (fact,) = (fact for fact in store.about("Wessex") if fact.relation == "independence")
        assert (fact.origin.attribution, fact.place) == ("Us", "europe/we.json, Government: Independence")


@pytest.mark.parametrize("name", ["facts.csv", "facts (1).csv", "facts (2).csv"])
def test_tables_of_one_name_in_several_folders_are_all_read_and_told_apart(tmp_path, name):
    tables = [tmp_path / folder / name for folder in ("a", "b", "c")]
    for year, table in enumerate(tables, 1946):
        table.parent.mkdir()
        table.write_text(f"subject,relation,value\nBrook's Mill Stone speech,occurred,{year}\n")
    sources = [FactSource(source=f"file:{table}", format="csv", licence="own") for table in tables]
    built = build_store(sources, tmp_path / "facts.db")
    assert list(built.read) == [name, f"{name} (2)", f"{name} (3)"]
    assert list(built.facts.values()) == [{"occurred": 1}] * 3


def test_the_same_sources_give_the_same_bytes_and_others_another_key(sources, tmp_path):
    first = build_store(sources, tmp_path / "first.db")
    second = build_store(sources, tmp_path / "second.db")
    assert first.key == second.key and (tmp_path / "first.db").read_bytes() == (tmp_path / "second.db").read_bytes()
    (tmp_path / "two.csv").write_text("subject,relation,value\nBrook's Mill Stone speech,occurred,1948\n")
    assert build_store(sources, tmp_path / "third.db").key != first.key


def test_a_build_that_fails_leaves_the_store_that_was_there(sources, tmp_path, monkeypatch):
    path = tmp_path / "facts.db"
    build_store(sources, path)
    before = path.read_bytes()

    def full(connection, *_):
        connection.execute("CREATE TABLE half (written)")
        connection.commit()
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(build, "_write", full)
    with pytest.raises(RunError, match=r"facts\.db: cannot be written \(database or disk is full\)"):
        build_store(sources[1:], path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir() if "facts.db" in file.name] == ["facts.db"]


def test_sources_without_facts_and_sources_that_are_not_there_are_errors(tmp_path):
    (tmp_path / "empty.csv").write_text("subject,relation,value\nAda Brook,born,\n")
    source = FactSource(source=f"file:{tmp_path / 'empty.csv'}", format="csv", licence="own")
    with pytest.raises(DataError, match=r"no facts are left \(empty\.csv: \{'value missing': 1\}\)"):
        build_store([source], tmp_path / "facts.db")
    with pytest.raises(DataError, match="there is no such file"):
        build_store([source.model_copy(update={"source": "file:none.csv"})], tmp_path / "facts.db")


@pytest.mark.parametrize(
    ("settings", "mistake"),
    [
        ({"source": "hf:facts", "format": "csv"}, "is no kind of source of facts"),
        ({"source": "deb:calendar", "format": "calendar"}, "needs it"),
        ({"source": "file:a.csv", "format": "csv", "path": "a"}, "does not fit 'file:a.csv'"),
        ({"source": "file:a", "format": "calendar", "subject": "who"}, "does not fit 'calendar'"),
        ({"source": "file:a.csv", "format": "csv", "always": "born", "relation": "what"}, "stands beside 'relation'"),
        ({"source": "file:a.csv", "format": "csv", "columns": 3}, "Extra inputs"),
    ],
)
def test_a_source_described_wrongly_is_a_mistake(settings, mistake):
    with pytest.raises(ValueError, match=mistake):
        FactSource(licence="own", **settings)


ELEMENTS = """<list xmlns="http://www.xml-cml.org/schema">
  <atom id="Mi">
    <label dictRef="bo:name" value="Millium" />
    <scalar dictRef="bo:discoveryDate">1774</scalar>
    <array dictRef="bo:discoverers">A. Brook;B. Tam</array>
  </atom>
  <atom id="Od"><label dictRef="bo:name" value="Odium" /><scalar dictRef="bo:discoveryDate">0</scalar></atom>
</list>
"""
DICTIONARY = """about this file

millium
Symbol: Mi
A grey metal. It was rediscovered in 1801. It was
discovered by A. Brook in 1775.

odium
Symbol: Od
Known since ever.
"""


def test_two_sources_on_the_elements_are_read_and_disagree(tmp_path):
    (tmp_path / "elements.xml").write_text(ELEMENTS)
    (tmp_path / "elements.dict.dz").write_bytes(gzip.compress(DICTIONARY.encode()))
    one, two = (
        list(read_elements(File(tmp_path / name, name), "utf-8")) for name in ("elements.xml", "elements.dict.dz")
    )
    assert said(one) == [("discovered", "1774"), ("discovered by", "A. Brook, B. Tam"), "no date"]
    assert one[0].line.place == "elements.xml, line 2"
    assert said(two) == [("discovered", "1775"), "no date"]
    assert two[0].line.place == "elements.dict.dz, line 3"
    result = facts_of(merged(one, two))
    assert {(value, marked) for _, _, relation, value, marked in result if relation == "discovered"} == {
        *(("1774", True), ("1775", True))
    }


@pytest.mark.parametrize(("name", "found"), [("elements.xml", "is not XML"), ("elements.dict.dz", "is no compressed")])
def test_files_that_are_no_elements_are_named(tmp_path, name, found):
    (tmp_path / name).write_text("nothing of the kind")
    with pytest.raises(DataError, match=found):
        list(read_elements(File(tmp_path / name, name), "utf-8"))


def test_a_known_relation_and_an_era_are_known_however_they_are_written(table):
    found = table("subject,relation,value\nOdo Wick,Born,44 bc\nOdo Wick,Lived,5th Century BC\nOdo Wick,Height,2 m\n")
    assert said(found) == [("born", "44 BC"), ("lived", "5th century BC"), ("Height", "2 m")]
    assert not merged(found).left


@pytest.mark.parametrize(("relation", "value"), [("founded", "{}"), ("capital", "Place{}")])
def test_a_subject_with_too_many_values_is_told_and_not_compared_value_by_value(monkeypatch, relation, value):
    rows = "".join(f"Mercia,{relation},{value.format(1000 + number)}\n" for number in range(300))
    items = table_of(f"subject,relation,value\n{rows}Wessex,{relation},{value.format(1999)}\n")
    told, compared = [], []
    same = merge_of_facts._same
    monkeypatch.setattr(merge_of_facts, "say", told.append)
    monkeypatch.setattr(merge_of_facts, "_same", lambda *both: compared.append(both) or same(*both))
    found = facts_of(merged(items))
    assert {(shown, marked) for shown, *_, marked in found} == {("Mercia", True), ("Wessex", False)}
    assert len(found) == 301 and len(compared) < 2 * 301
    assert told == [
        f"  source 1: 'Mercia' has 300 values of '{relation}', of which one can be right: all are disputed. "
        "Check which column has the subjects"
    ]


def test_fifty_values_are_compared_as_ever():
    rows = "".join(f"Mercia,capital,Place{number}\n" for number in range(49))
    found = facts_of(merged(table_of(f"subject,relation,value\n{rows}Mercia,capital,Place\n")))
    assert len(found) == 50 and all(marked for *_, marked in found)
