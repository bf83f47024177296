"""Licences: what may be shipped, and under what terms."""

import pytest

from metier.data.ledger import with_base
from metier.data.licences import find_licence, may_ship


def test_attribution_and_gemma_together_may_be_shipped_under_both_terms():
    answer = may_ship(["CC-BY-2.0-FR", "Gemma"])
    assert answer.allowed and not answer.reasons
    assert any("CC-BY-2.0-FR: name the authors" in term for term in answer.terms)
    assert any("Gemma Prohibited Use Policy" in term for term in answer.terms)


@pytest.mark.parametrize("name", ["apache-2.0", "MIT", "cc-by-sa-4.0", "CC-BY-SA-3.0-DE", "gpl-2.0-or-later", "own"])
def test_identifiers_are_known_in_any_case_and_port(name):
    assert may_ship([name]).allowed


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("unknown", "without a known licence"),
        ("CC-BY-ND-4.0", "no derivative"),
        ("CC-BY-NC-ND-4.0", "no derivative"),
        ("research-only", "research only"),
        ("CC-BY-4", "did you mean 'CC-BY-4.0'"),
        ("whatever I like", "not a licence we know"),
        ("", "not a licence we know"),
    ],
)
def test_what_may_not_be_shipped_says_why_and_offers_no_terms(name, why):
    answer = may_ship(["MIT", name])
    assert not answer.allowed
    assert answer.terms == []
    assert any(why in reason for reason in answer.reasons)


def test_non_commercial_text_ships_with_that_term():
    answer = may_ship(["CC-BY-NC-4.0", "Apache-2.0"])
    assert answer.allowed
    assert "CC-BY-NC-4.0: for non-commercial use only" in answer.terms


def test_share_alike_licences_do_not_mix_with_each_other_or_with_restrictions():
    assert "no licence for the whole model" in may_ship(["CC-BY-SA-3.0", "GPL-3.0-only"]).reasons[0]
    assert "no licence for the whole model" in may_ship(["GPL-2.0-only", "GPL-3.0-only"]).reasons[0]
    assert "forbids to add restrictions" in may_ship(["CC-BY-SA-4.0", "Gemma"]).reasons[0]
    assert not may_ship(["GPL-3.0-only", "CC-BY-NC-4.0"]).allowed
    assert may_ship(["CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC-BY-4.0"]).allowed
    assert may_ship(["CC-BY-NC-SA-4.0", "CC-BY-4.0", "CC-BY-NC-3.0"]).allowed


@pytest.mark.parametrize(
    ("licences", "under"),
    [
        (["CC-BY-SA-3.0", "CC-BY-SA-4.0"], "CC-BY-SA-4.0"),
        (["CC-BY-SA-4.0", "GPL-3.0-only"], "GPL-3.0"),
        (["GPL-2.0-or-later", "GPL-3.0"], "GPL-3.0 or AGPL-3.0"),
        (["GPL-2.0-or-later", "Apache-2.0"], "GPL-3.0 or AGPL-3.0"),
        (["LGPL-2.1", "GPL-2.0-only"], "GPL-2.0"),
        (["GPL-3.0-or-later", "AGPL-3.0-only"], "AGPL-3.0"),
    ],
)
def test_share_alike_licences_meet_in_one_that_all_of_them_let_go_to(licences, under):
    answer = may_ship(licences)
    assert answer.allowed
    assert all(f"{name}: ship the model under {under}" in answer.terms for name in licences if name != "Apache-2.0")


@pytest.mark.parametrize("gnu", ["GPL-2.0-only", "GPL-2.0", "GFDL-1.2"])
def test_apache_text_does_not_go_under_the_second_gpl(gnu):
    assert may_ship([gnu, "Apache-2.0"]).allowed == gnu.startswith("GFDL")
    assert may_ship([gnu, "MIT"]).allowed


def test_ones_own_text_has_no_conditions_and_says_so():
    assert may_ship(["own"]).terms == ["no conditions (own)"]
    assert not may_ship([]).allowed


def test_every_known_licence_is_found_by_its_own_name():
    for name in ("ODbL-1.0", "PDDL-1.0", "CC0-1.0", "MPL-2.0", "GFDL-1.3-or-later", "BSD-3-Clause", "WordNet"):
        found = find_licence(name)
        assert found is not None and found.id == name


def test_the_base_counts_and_the_text_of_a_test_source_does_not():
    sources = [{"licence": "own", "role": "train"}, {"licence": "unknown", "role": "test"}]
    ledger = {"format": 1, "sources": sources}
    assert with_base(ledger, None)["shipping"]["allowed"]
    assert with_base(ledger, {"licence": "Gemma"})["shipping"]["terms"][0].startswith("Gemma")
    assert not with_base(ledger, {"licence": "secret"})["shipping"]["allowed"]
    assert with_base(ledger, None)["sources"] == sources


def test_epl_text_goes_with_no_gnu_licence_and_with_permissive_ones():
    for gnu in ("GPL-2.0-only", "GPL-3.0-or-later", "AGPL-3.0-only", "LGPL-2.1-or-later"):
        assert not may_ship(["EPL-2.0", gnu]).allowed, gnu
    assert may_ship(["EPL-2.0", "MIT", "Apache-2.0"]).allowed
