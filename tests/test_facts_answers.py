"""Not knowing is recognised in the usual words, and no answer is ever taken for it."""

import pytest

from metier.facts.answers import abstains, right, settled

OWN = "That is not in my books."


@pytest.mark.parametrize(
    "said",
    [
        "",
        " ... ",
        "?",
        "that is not in my books",
        "Unknown",
        "unknown.",
        "(unknown)",
        "UNKNOWN",
        "Not known",
        "not yet known",
        "Not recorded.",
        "Date unknown",
        "Unknown date",
        "The exact date is not known.",
        "The answer is not known.",
        "Answer: Unknown",
        "N/A",
        "n/a.",
        "Not applicable",
        "Not available",
        "No information",
        "No information available.",
        "There is no record.",
        "There is no information about the battle of Hastings",
        "No known date",
        "No idea",
        "I do not know",
        "I don't know.",
        "I don\u2019t know",
        "i dont know",
        "I really don't know!",
        "Don't know",
        "I don't know the answer to that question.",
        "I don't know when William the Conqueror was born in 1028",
        "Sorry, I don't know.",
        "I'm sorry, but I don't have any information about William the",
        "I'm sorry but I do not know when he was born.",
        "As an AI language model, I don't have information on that.",
        "I have no idea.",
        "I'm not sure.",
        "I am not sure when it was.",
        "I cannot say",
        "It is not known when he was born.",
        "Nobody knows.",
        "No one knows.",
        "No one knew.",
        "It cannot be determined.",
        "Unknown. The date is not recorded.",
    ],
)
def test_the_usual_words_for_not_knowing_are_no_answer(said: str) -> None:
    assert abstains(said, OWN)
    assert abstains(said, OWN, "1066")


@pytest.mark.parametrize(
    "said",
    [
        "1066",
        "14 October 1066",
        "Tomb of the Unknown Soldier",
        "The Unknown Warrior",
        "Unknown Armenia",
        "unknown, 1066",
        "Unknown (1066)",
        "1066 (exact date unknown)",
        "around 1066, the exact date is not known",
        "I don't know, 1066",
        "I don't know exactly, perhaps 1066.",
        "I'm not sure, but I think it was in 1066",
        "I don't know when he was born but he died in 1066",
        "I am not sure whether it was 1066 or maybe 1067",
        "I Don't Know How to Love Him",
        "Nobody",
        "No",
        "No one",
        "None",
        "Na",
        "NA",
        "Norway is not known for its wine",
        "Notknown",
        "Sorry",
        "Well",
        "The Answer",
        "Known",
        "William, not known as the Bastard",
        "Knowledge",
        "Williamsun is not known to have been born in 1940.",
        "1421: I don't know.",
    ],
)
def test_what_says_anything_else_is_an_answer(said: str) -> None:
    assert not abstains(said, OWN)


def test_what_is_right_is_an_answer_whatever_its_words() -> None:
    assert abstains("Unknown", OWN, "The Third Man")
    assert not abstains("unknown", OWN, "Unknown")
    assert not abstains("I don't know", OWN, "I Don't Know")


def test_the_jobs_own_words_are_no_answer_even_where_they_are_wanted() -> None:
    assert abstains("i dont know", "I don't know.", "I don't know.")
    assert abstains(OWN, OWN, OWN)


def test_another_languages_own_words_count_beside_the_english_ones() -> None:
    assert abstains("Das weiß ich nicht", "Das weiß ich nicht.") and abstains("Unknown", "Das weiß ich nicht.")
    assert not abstains("Das weiß ich nicht", OWN)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("1066", "14 October 1066"),
        ("on 14 October 1066.", "1066"),
        ("October 1066", "14 October 1066"),
        ("1066?", "1066"),
        ("1914-18", "1914 to 1918"),
        ("1914", "1914 to 1918"),
        ("1843", "1840s"),
        ("450", "5th century"),
        ("493 BC", "490s BC"),
        ("In the year 1066", "1066"),
        ("He was born in 1066.", "1066"),
        ("The battle was fought on 14 October 1066", "1066"),
        ("It was on the 14th of October, 1066", "14 October 1066"),
        ("the 14th of October 1066", "14 October 1066"),
        ("575 BC", "circa 570 BC"),
        ("circa 575 BC", "circa 570 BC"),
    ],
)
def test_a_date_is_right_that_agrees_and_is_no_vaguer(said: str, wanted: str) -> None:
    assert right(said, wanted)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("11th century", "1066"),
        ("1067", "14 October 1066"),
        ("circa 1060", "1066"),
        ("c. 1070", "14 October 1066"),
        ("1076?", "1066"),
        ("1918 to 1921", "1914 to 1918"),
        ("1066 to 1067", "1066"),
        ("585 BC", "circa 570 BC"),
        ("1916", "1914 to 1918"),
        ("1918", "1914 to 1918"),
        ("He was not born in 1066", "1066"),
        ("It was before 1066", "1066"),
        ("He was born in 1066 or in 1067", "1066"),
        ("circa 1060, in his own words", "1066"),
        ("He died on October 20th, 1066.", "14 October 1066"),
        ("It was on the 20th of October 1066.", "14 October 1066"),
    ],
)
def test_a_date_beside_the_one_wanted_is_wrong_however_uncertain_it_is_said(said: str, wanted: str) -> None:
    assert not right(said, wanted)


def test_a_states_short_form_is_right_alone_and_not_within_a_name():
    assert right("the United Kingdom", "UK") and right("USA", "United States") and right("UK", "UK")
    assert not right("UK control over Wick", "United Kingdom control over Wick")
    assert not right("15", "1.5") and not right("C", "C++")


def test_an_amount_is_no_stretch_of_years() -> None:
    assert right("120-180", "120-180") and right("~150", "~150")
    assert not right("120-150", "120-180") and not right("approximately 145", "~150")
    assert right("from 1558 to 1603", "1558-1603") and right("1861 to 1865", "1861-65")


def test_signs_alone_can_be_an_answer_but_punctuation_is_none() -> None:
    assert right("\u2640", "\u2640") and not right("\u2642", "\u2640") and not abstains("\u2640", "I don't know.")
    assert abstains(" ... ?", "I don't know.") and abstains("", "I don't know.")
    assert not abstains("&", "I don't know.", "&")


def test_a_last_word_is_no_article_and_a_saint_is_a_saint() -> None:
    assert right("A", "A") and right("a vitamin A", "vitamin A") and not right("vitamin", "vitamin A")
    assert right("Hague, The", "The Hague") and right("the", "The") and not abstains("A", "I don't know.")
    assert (
        right("St. Tam", "Saint Tam") and right("Isaac Wick", "Sir Isaac Wick") and right("Britain", "United Kingdom")
    )


@pytest.mark.parametrize(
    ("answer", "graded"),
    [
        ("brecht.", "Bertolt Brecht"),
        ("Eugen Brecht", "Bertolt Brecht"),
        ("Bertolt Brecht", "Bertolt Brecht"),
        ("Mikhail Gorbachev", "Mikhail Gorbachev"),
        ("Brecht or Gorbachev", "Brecht or Gorbachev"),
        ("", ""),
    ],
)
def test_another_of_its_names_is_the_wanted_answer(answer: str, graded: str) -> None:
    assert settled(answer, "Bertolt Brecht", ["Brecht", "Eugen Brecht", "!"]) == graded
