"""Subjects that may be one under two names, and whom a bare name means: nothing is taught that one of them belies."""

from collections import defaultdict

import pytest

from metier.data.facts.build import build_store
from metier.data.questions.doubles import doubles
from metier.data.questions.naming import Names
from metier.facts.store import open_store
from metier.spec.facts import FactSource

FACTS = [
    ("King Louis XIV of Wessex", "born", "5 September 1638"),
    ("Louis XIV", "born", "1638"),
    ("Paul Gaugin", "died", "1903"),
    ("Paul Gauguin", "died", "1903"),
    ("Charles Zorn", "born", "1802"),
    ("Charlie Zorn", "born", "3 May 1802"),
    ("Otto Bach", "born", "1700"),
    ("Ada Back", "born", "1700"),
    ("Ben Mill", "born", "1638"),
    ("The Nineteenth Amendment ends Temperance", "occurred", "5 December 1933"),
    ("End of the Temperance", "occurred", "5 December 1933"),
    ("Storm over Tam", "occurred", "5 December 1933"),
    ("Old Wessex", "capital", "Tamwick"),
    ("Wessland", "capital", "Tamwick"),
    ("Mercia", "capital", "Wick"),
    ("Kin", "located in", "Wessex", "republic"),
    ("Kin", "located in", "Mercia", "ancient kingdom"),
    ("Kin", "founded", "1025 BC", "ancient kingdom"),
    ("Ada Vale", "born", "1802"),
    ("Vale", "born", "1700", "weaver"),
    ("Vale", "located in", "Mercia", "town"),
    ("Oz", "described as", "lake", "lake"),
    ("Oz", "capital", "Ozwick", "country"),
]


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doubles")
    rows = [(*fact, "")[:4] for fact in FACTS]
    text = "subject,relation,value,hint\n" + "".join(f'"{a}",{b},"{c}",{d}\n' for a, b, c, d in rows)
    (folder / "facts.csv").write_text(text, encoding="utf-8")
    source = FactSource(source=f"file:{folder / 'facts.csv'}", format="csv", licence="own", hint="hint")
    build_store([source], folder / "facts.db")
    with open_store(folder / "facts.db") as store:
        said = defaultdict(set)
        for fact in store:
            said[fact.subject].add(fact.relation)
        called = Names(store.subjects(), said, said)
        return doubles(store, called), called


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("King Louis XIV of Wessex", "Louis XIV"),
        ("Paul Gaugin", "Paul Gauguin"),
        ("Charles Zorn", "Charlie Zorn"),
        ("The Nineteenth Amendment ends Temperance", "End of the Temperance"),
        ("Old Wessex", "Wessland"),
    ],
)
def test_two_names_of_one_time_or_one_capital_may_be_one(known, one, two):
    assert two in known[0][one] and one in known[0][two]


@pytest.mark.parametrize("name", ["Otto Bach", "Ada Back", "Ben Mill", "Storm over Tam", "Mercia"])
def test_others_of_their_time_are_others(known, name):
    assert name not in known[0]


def test_a_bare_name_of_two_places_means_neither_but_for_what_only_a_state_has(known):
    assert known[1].to_ask_by("Kin (ancient kingdom)", "founded")[0] == "Kin (ancient kingdom)"
    assert known[1].to_ask_by("Oz (country)", "capital")[0] == "Oz"
    assert known[1].to_ask_by("Vale (weaver)", "born")[0] == "Vale", "towns are not born"
