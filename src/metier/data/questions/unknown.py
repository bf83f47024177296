"""Questions that are answered with "I don't know": of subjects that there are not, and of what no source says."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import sqrt

from metier.data.questions import frames
from metier.data.questions.about import About
from metier.data.questions.about import Kind as Knowing
from metier.data.questions.invent import Inventor
from metier.data.questions.known import Known
from metier.data.questions.phrasings import Book, Part, asks_back, asks_of, way_of
from metier.data.questions.rows import Question, careless
from metier.facts.dates import CIRCA_YEARS, EARLIEST, Date
from metier.facts.fact import RELATIONS, Kind

NOT_ASKED_IN_VAIN = frozenset({"described as", "lived", "located in", "occurred"})
"""Relations that can be answered from what other facts say: nobody is taught that nothing is known of them."""

_BEGINNINGS = frozenset({"founded", "built", "published", "adopted", "independence", "discovered", "occurred"})
"""Relations of which one answers for another: a republic was founded when it became independent."""

_ABSURD = 0.1
"""Of the questions for what no source says, those for what the subject's kind cannot have: the capital of a person."""

_MOST_DRAWS = 20
"""For a question."""

_YEARS_AROUND = 80
"""Years from a date that there is to one of which nothing is said, at most."""


def unanswered(question: Question, unknown: str, kind: Knowing) -> Question:
    """Return a question with the words for not knowing as its answer."""
    return question._replace(answer=unknown, about=question.about.of_kind(kind))


def invented(
    count: int, facts: Sequence[Known], part: Part, book: Book, inventor: Inventor, unknown: str, dice: random.Random
) -> list[Question]:
    """Return questions about subjects that there are not; relations come as often as facts have them.

    Events that are told in a clause ("Bo Hale sails for Wick") are put together of two for the training alone: nobody
    can say of such a one in an exam that it did not happen.
    """
    told = [one.label for one in facts if one.way.endswith(":clause")]
    usable = [one for one in facts if part == "train" or not one.way.endswith(":clause")]

    def draw(number: int) -> Question | None:
        one = dice.choice(usable)
        crossed = one.way.endswith(":clause")
        name = _crossed(one.label, dice.choice(told)) if crossed else inventor.name(one.kind, dice)
        if name is None:
            return None
        way = one.way if crossed or one.relation != "occurred" else _way_of_named(one.kind, name)
        text = asks_of(dice.choice(book.asked(way).ask.of(part)), name, one.kind)
        text = careless(text, number) if part == "train" else text
        return Question(text, unknown, one.source, About("invented", "ask", one.relation, name, "", None, ""))

    return _drawn(count if usable else 0, draw)


def _way_of_named(kind: Kind, name: str) -> str:
    return way_of("occurred", kind, name).replace(":clause", ":name")


def _crossed(one: str, other: str) -> str | None:
    """Return the first words of a clause with the last ones of another; None where that is either of the two."""
    words, more = one.split(), other.split()
    made = " ".join(words[: (len(words) + 1) // 2] + more[len(more) // 2 :])
    return None if made in (one, other) else made


def in_vain(
    count: int, facts: Sequence[Known], said: Mapping[str, set[str]], book: Book, unknown: str, dice: random.Random
) -> list[Question]:
    """Return questions about known subjects for what no source says of them.

    Most ask for what others of the subject's kind have: where somebody was born, when somebody died who may be alive.
    One in ten asks for what no subject of its kind has.

    Args:
        count: how many are wanted.
        facts: that are taught.
        said: of each subject the relations that any source states, of it or of one that it may be, too.
        book: the ways to ask.
        unknown: the answer.
        dice: draws.
    """
    kinds = Counter((one.relation, one.kind) for one in facts)
    having = Counter(one.relation for one in facts if one.relation not in NOT_ASKED_IN_VAIN)
    subjects = {one.subject: one for one in facts if not one.way.endswith(":clause")}.values()
    open_to: dict[bool, dict[str, list[Known]]] = {True: defaultdict(list), False: defaultdict(list)}
    for one in subjects:
        there = said[one.subject]
        for relation in having:
            if relation not in there and not (relation in _BEGINNINGS and there & _BEGINNINGS):
                open_to[not kinds[relation, one.kind]][relation].append(one)

    def draw(number: int) -> Question | None:
        there_are = open_to[dice.random() < _ABSURD]
        if not there_are:
            return None
        relation = dice.choices(list(there_are), [sqrt(having[one]) for one in there_are])[0]
        one = dice.choice(there_are[relation])
        ways = book.asked(way_of(relation, one.kind, one.name)).ask.train
        return _asked_in_vain(one, relation, ways, unknown, number, dice)

    return _drawn(count if any(open_to.values()) else 0, draw)


def beside(count: int, facts: Sequence[Known], book: Book, unknown: str, dice: random.Random) -> list[Question]:
    """Return questions about known subjects for what is no fact of the job's kind, or in a language that it lacks.

    None where the job has relations or ways to ask of its own: what it may be asked for is not known here.
    """
    ours = book.packaged_alone and all(one.relation in RELATIONS for one in facts)
    usable = [one for one in facts if not one.way.endswith(":clause")]

    def draw(number: int) -> Question:
        return _asked_in_vain(dice.choice(usable), "", (frames.beside(dice),), unknown, number, dice)

    return _drawn(count if ours and usable else 0, draw)


def _asked_in_vain(
    one: Known, relation: str, ways: Sequence[str], unknown: str, number: int, dice: random.Random
) -> Question:
    asked = asks_of(dice.choice(ways), dice.choice((one.label, one.label, *one.others)), one.kind)
    about = About("known", "ask", relation, one.subject, "", None, one.region)
    return Question(careless(asked, number), unknown, one.source, about)


def in_empty_years(
    count: int,
    facts: Sequence[Known],
    dates: Mapping[str, Sequence[Date]],
    book: Book,
    unknown: str,
    dice: random.Random,
) -> list[Question]:
    """Return questions for a subject by a year of which the sources say nothing: "Who was born in 1203?".

    Args:
        count: how many are wanted.
        facts: that are taught.
        dates: of each relation all that the sources have.
        book: the ways to ask.
        unknown: the answer.
        dice: draws.
    """
    usable = [
        one
        for one in facts
        if one.date
        and one.relation != "lived"  # many lived in a year of which no line says so
        and not one.way.endswith(":clause")
        and book.asked(one.way).reverse.train
    ]
    last = {relation: max(date.last[0] for date in of_it) for relation, of_it in dates.items() if of_it}
    told = {relation: years_told(of_it) for relation, of_it in dates.items()}

    def draw(number: int) -> Question | None:
        one = dice.choice(usable)
        assert one.date
        year = one.date.first[0] + dice.randint(-_YEARS_AROUND, _YEARS_AROUND)
        if year == 0 or not EARLIEST <= year <= last[one.relation]:
            return None
        date = Date((year, 1, 1), (year, 12, 31))
        of = _BEGINNINGS if one.relation in _BEGINNINGS else {one.relation}
        if any(year in told.get(relation, ()) for relation in of):
            return None
        text = careless(asks_back(dice.choice(book.asked(one.way).reverse.train), str(date), date), number)
        return Question(text, unknown, one.source, About("known", "reverse", one.relation, "", "", year, ""))

    return _drawn(count if usable else 0, draw)


def years_told(dates: Iterable[Date]) -> set[int]:
    """Return the years that agree with one of the dates."""
    stretches = {(*date.years, CIRCA_YEARS if date.circa else 0) for date in dates}
    return {year for first, last, slack in stretches for year in range(first - slack, last + slack + 1)}


def _drawn(count: int, draw: Callable[[int], Question | None]) -> list[Question]:
    """Return so many different questions of those drawn, or fewer where most draws give none or one that is there."""
    found: dict[str, Question] = {}
    for number in range(_MOST_DRAWS * count):
        if len(found) == count:
            break
        if question := draw(number):
            found.setdefault(question.text.lower(), question)
    return list(found.values())
