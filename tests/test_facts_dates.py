"""Dates of history: read in the ways people write them, printed so that they can be read again, compared as dates."""

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metier.facts import dates
from metier.facts.dates import Date, NotADateError, parse
from metier.facts.mentions import holds, mentions

YEARS = st.integers(dates.EARLIEST, dates.LATEST).filter(bool)
DAYS = st.tuples(YEARS, st.integers(1, 12), st.integers(1, 31)).filter(lambda day: day[2] <= dates.days(day[0], day[1]))


@st.composite
def a_date(draw):
    kind, year, circa = (
        draw(st.sampled_from(["day", "month", "year", "century", "stretch"])),
        draw(YEARS),
        draw(st.booleans()),
    )
    if kind == "month":
        return dates.month(year, draw(st.integers(1, 12)), circa)
    if kind == "year":
        return dates.year(year, circa)
    if kind == "century":
        return dates.century(draw(st.integers(1, 20)), draw(st.booleans()), circa)
    first, last = sorted([draw(DAYS), draw(DAYS)])
    return Date(first, first if kind == "day" else last, circa)


@given(a_date())
def test_a_printed_date_is_read_as_the_date_it_was(date):
    assert parse(str(date)) == date


@given(a_date())
def test_a_printed_date_is_stated_by_the_sentence_that_prints_it(date):
    assert holds(f"The town was founded: {date}.", date)


@given(a_date(), a_date(), a_date())
def test_dates_have_one_order_and_what_is_over_before_another_comes_earlier_in_it(one, two, three):
    assert sorted([one, two, three]) == sorted([three, one, two])
    if one.before(two):
        assert one < two and not two.before(one)
        assert not (two.before(three) and not one.before(three))


@given(a_date(), a_date())
def test_agreement_works_both_ways_and_never_with_a_date_that_is_long_over(one, two):
    assert one.agrees(one)
    assert one.agrees(two) == two.agrees(one)
    if one.last[0] + dates.CIRCA_YEARS < two.first[0]:
        assert not one.agrees(two)


@given(st.text(max_size=30))
def test_any_text_is_a_date_or_is_said_to_be_none(text):
    with suppress(NotADateError):
        date = parse(text)
        assert parse(str(date)) == date


@given(st.from_regex(r"[a-z0-9 .,()/?-]{0,60}", fullmatch=True))
def test_dates_found_in_a_sentence_are_where_it_has_them(text):
    for mention in mentions(text):
        assert 0 <= mention.start < mention.end <= len(text)
        assert parse(text[mention.start : mention.end]) == mention.date


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1066", "1066"),
        ("44 BC", "44 BC"),
        ("44BC", "44 BC"),
        ("221 B.C.", "221 BC"),
        ("500 BCE", "500 BC"),
        ("A.D. 14", "AD 14"),
        ("AD 884", "884"),
        ("c. 1200", "circa 1200"),
        ("ca. 925", "circa 925"),
        ("circa 570 BC", "circa 570 BC"),
        ("1757?", "circa 1757"),
        ("1945-05-08", "8 May 1945"),
        ("1945-05", "May 1945"),
        ("25/12/1990", "25 December 1990"),
        ("12.12.1990", "12 December 1990"),
        ("8 May 1945", "8 May 1945"),
        ("May 8, 1945", "8 May 1945"),
        ("15 March 44 BC", "15 March 44 BC"),
        ("14-15 May 1811", "14 May 1811 to 15 May 1811"),
        ("1914-18", "1914 to 1918"),
        ("1914\u20131918", "1914 to 1918"),
        ("from 1145 to 1149", "1145 to 1149"),
        ("525-456 BC", "525 BC to 456 BC"),
        ("63 BC - AD 14", "63 BC to AD 14"),
        ("518?-438? BC", "circa 518 BC to 438 BC"),
        ("5th century BC", "5th century BC"),
        ("the late 17th century", "17th century"),
        ("1960s", "1960 to 1969"),
        ("490s BC", "499 BC to 490 BC"),
        ("26th century BC", "26th century BC"),
        ("29 February 1700", "29 February 1700"),  # it was one, by Caesar's calendar
    ],
)
def test_dates_are_read_in_the_ways_people_write_them(written, read):
    assert str(parse(written)) == read


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("31 April 1900", "impossible date"),
        ("29 February 1945", "impossible date"),
        ("1990-13-01", "impossible date"),
        ("0", "impossible date"),
        ("3044", "impossible date"),
        ("45", "two-digit year"),
        ("'45", "two-digit year"),
        ("31/05/45", "two-digit year"),
        ("05/12/1990", "day and month could be swapped"),
        ("1904-05", "a month or a later year"),
        ("22nd century", "impossible date"),
        ("101st century BC", "not a date"),
        ("490s", "not a date"),
        ("-44", "not a date"),
        ("1898-1876", "ends before it begins"),
        ("", "not a date"),
        ("in his youth", "not a date"),
    ],
)
def test_what_never_was_or_can_be_read_in_two_ways_is_refused_with_the_reason(written, reason):
    with pytest.raises(NotADateError, match=re.escape(repr(written))) as refused:
        parse(written)
    assert refused.value.reason == reason


def test_two_digits_are_a_year_of_the_first_century_only_where_it_was_said_so():
    assert str(parse("37-93", short_years=True)) == "AD 37 to AD 93"
    with pytest.raises(NotADateError):
        parse("37-93")


def test_there_is_no_year_between_1_bc_and_ad_1():
    assert parse("31 December 1 BC").before(parse("1 January AD 1"))
    with pytest.raises(NotADateError):
        dates.year(0)


@pytest.mark.parametrize(
    ("one", "two", "agree"),
    [
        ("1945", "8 May 1945", True),
        ("8 May 1945", "9 May 1945", False),
        ("circa 1397", "1400", True),
        ("1397", "1400", False),
        ("5th century BC", "456 BC", True),
        ("44 BC", "44", False),
    ],
)
def test_a_rough_date_agrees_with_an_exact_one_inside_it(one, two, agree):
    assert parse(one).agrees(parse(two, short_years=True)) is agree


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        ("a siege from 1145 to 1147 by 2000 men; the town was lost in 1187", ["1145 to 1147", "1187"]),
        ("a battle of old (334 BC)", ["334 BC"]),
        ("a tower 1368 feet tall, built for $2,000 at 1990 Main Street", ["1990"]),
        ("beaten in 451; 500 feet high", ["451"]),
        ("on 6 June 1944 with 1,453 ships", ["6 June 1944"]),
        ("an age from about 1650 until 1800", ["circa 1650 to 1800"]),
    ],
)
def test_dates_within_a_sentence_are_found_and_other_numbers_are_not(sentence, found):
    assert [str(mention.date) for mention in mentions(sentence)] == found


@pytest.mark.parametrize(
    ("sentence", "date", "stated"),
    [
        ("01/15 The mill burns down, 1801", "15 January 1801", True),
        ("01/15 The mill burns down, 1801", "16 January 1801", False),
        ("01/15 The mill burns down, 1801", "1802", False),
        ("a war of 1939-45", "1939 to 1945", True),
        ("a poet (44-10 BC)", "44 BC", True),
        ("a poet (44-10)", "44 BC", False),
        ("of the 5th century", "5th century", True),
        ("of the 15th century", "5th century", False),
        ("Died 5 June 1805", "5 May 1805", False),
        ("Died 5.5.1805", "5 May 1805", True),
        ("Mary Brook (1805)", "March 1805", False),
        ("Sept. 3, 1805", "3 September 1805", True),
        ("the Ides of March, 15 March 44 BC", "15 March AD 44", False),
        ("the Ides of March, 15 March 44 BC", "15 March 44 BC", True),
        ("in the 490s BC", "490s BC", True),
        ("in the 490s", "490s BC", False),
    ],
)
def test_a_sentence_states_a_date_or_does_not(sentence, date, stated):
    assert holds(sentence, parse(date)) is stated


def test_a_month_with_a_long_s_is_a_month_or_none():
    assert parse("\u017feptember 1066") == parse("September 1066")
