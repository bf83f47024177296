"""Questions as rows: those of the training, and those of the exams."""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from metier.data.questions.about import About, Form
from metier.data.questions.compared import Pair, Pairs
from metier.data.questions.known import Known
from metier.data.questions.phrasings import Book, Part, asks_back, asks_of, asks_which
from metier.data.split import position
from metier.facts import names

REVERSE_SHARE = 1 / 3
"""Of the questions about a fact, those for its subject, where the value is this subject's alone."""

_ONE_IN = 5
"""Training questions of which one is in lower case, and another without its mark at the end."""


class Question(NamedTuple):
    """A row, and what it is about."""

    text: str
    answer: str
    source: str
    about: About


def drawn(*what: object) -> int:
    """Return a number that depends on nothing but what is given."""
    return int.from_bytes(hashlib.sha256("\n".join(map(str, what)).encode()).digest()[:8], "big")


def asked(one: Known, label: str, phrasing: str) -> Question | None:
    """Return the question for a fact's value; None where it holds the answer."""
    text = asks_of(phrasing, label, one.kind)
    return None if one.gives_away(text) else Question(text, one.value, one.source, _about(one, "ask"))


def asked_back(one: Known, phrasing: str) -> Question | None:
    """Return the question for a fact's subject; None where it holds the answer."""
    text = asks_back(phrasing, one.value, one.date)
    return None if names.says(text, one.name) else Question(text, one.name, one.source, _about(one, "reverse"))


def which_first(pair: Pair, phrasing: str, dice: random.Random) -> Question:
    """Return the question which of two came first."""
    one, two = dice.sample(pair, 2)
    text = asks_which(phrasing, (one.label, one.kind), (two.label, two.kind))
    return Question(text, pair.earlier.label, pair.earlier.source, _about(pair.earlier, "comparison"))


@lru_cache(maxsize=8)
def _about(one: Known, form: Form) -> About:
    """Return what is asked; the questions about a fact, which are made together, share it: there are millions."""
    return About("known", form, one.relation, one.subject, one.value, one.year, one.region)


def training_of(one: Known, book: Book, variants: int, seed: int) -> list[Question]:
    """Return different questions about a fact, at most so many: phrasings and names in turn, some written carelessly.

    The name of the exams comes two times out of three, the others share the third. Of five questions in turn one is in
    lower case, so that a fact with a dozen of them has some.
    """
    ways = book.asked(one.way)
    back = ways.reverse.train if one.reverse and not one.way.endswith(":clause") else ()
    wanted_back = min(len(back), round(variants * REVERSE_SHARE))
    labels = [name for other in one.others for name in (one.label, one.label, other)] or [one.label]
    start = drawn(seed, one.subject, one.relation)
    found: dict[str, Question] = {}
    for at in range(wanted_back):
        if question := asked_back(one, back[(start + at) % len(back)]):
            question = question._replace(text=careless(question.text, start // 7 + at))
            found.setdefault(question.text, question)
    ask = ways.ask.train
    combinations = len(ask) * len(set(labels))
    for at in range(3 * combinations):
        if len(found) >= variants:
            break
        label = labels[(at + at // (len(ask) * len(labels))) % len(labels)]
        if question := asked(one, label, ask[(start + at) % len(ask)]):
            question = question._replace(text=careless(question.text, start // 7 + len(found)))
            found.setdefault(question.text, question)
    return list(found.values())


def careless(text: str, number: int) -> str:
    """Return a question as it is, or as people in a hurry write it: of five in turn one in lower case, one unmarked."""
    style = number % _ONE_IN
    return text.lower() if style == 0 else text.rstrip("?.") if style == 1 else text


def quotas(facts: Iterable[Known], rows: int) -> dict[str, int]:
    """Return how many rows each relation has: by its share of the facts, at least one, as many as there are facts."""
    counts = Counter(one.relation for one in facts)
    share = rows / max(1, counts.total())
    found = {said: min(count, max(1, int(count * share))) for said, count in counts.items()}
    most = min(rows, counts.total())
    while sum(found.values()) < most:
        found[max(counts, key=lambda said: (counts[said] > found[said], counts[said] * share - found[said], said))] += 1
    while sum(found.values()) > max(most, len(found)):
        found[max(found, key=lambda said: (found[said], said))] -= 1
    return found


def sampled(facts: Sequence[Known], rows: int, salt: str) -> list[Known]:
    """Return facts of all relations by their share, the first by a hash."""
    of: dict[str, list[Known]] = defaultdict(list)
    for one in sorted(facts, key=lambda one: drawn(salt, one.subject, one.relation)):
        of[one.relation].append(one)
    return [one for said, count in quotas(facts, rows).items() for one in of[said][:count]]


def exam_of(facts: Sequence[Known], rows: int, part: Part, book: Book) -> list[Question]:
    """Return questions of an exam about facts, at most two about each.

    Args:
        facts: that can be asked about.
        rows: how many are wanted.
        part: of the exam.
        book: the ways to ask.
    """
    found: list[Question] = []
    seen: set[str] = set()
    first = sampled(facts, rows, f"{part} 1")
    again = sampled(facts, rows - len(first), f"{part} 2") if rows > len(facts) else []
    for turn, chosen in enumerate((first, again)):
        for one in chosen:
            if (question := _examined(one, part, book, turn, seen)) and len(found) < rows:
                seen.add(question.text)
                found.append(question)
    return found


def _examined(one: Known, part: Part, book: Book, turn: int, seen: set[str]) -> Question | None:
    ways = book.asked(one.way)
    start = drawn(part, one.subject, one.relation)
    ask, back = ways.ask.of(part), ways.reverse.of(part)
    made: list[Question | None] = [asked(one, one.label, ask[(start + at) % len(ask)]) for at in range(len(ask))]
    if one.reverse and back and ways.reverse.train and not one.way.endswith(":clause"):
        other = [asked_back(one, back[(start + at) % len(back)]) for at in range(len(back))]
        back_first = start % 3 == turn
        made = [*other, *made] if back_first else [*made[:1], *other, *made[1:]]
    return next((question for question in made if question and question.text not in seen), None)


def comparisons(count: int, pairs: Pairs, part: Part, book: Book, dice: random.Random) -> list[Question]:
    """Return questions for which of two came first, each about a pair that was not drawn before."""
    found = [
        which_first(pair, dice.choice(book.compared(pair.earlier.relation).of(part)), dice)
        for pair in pairs.draw(count, dice)
    ]
    if part != "train":
        return found
    return [question._replace(text=careless(question.text, number)) for number, question in enumerate(found)]


def in_hash_order(questions: Iterable[Question]) -> list[Question]:
    """Return an exam's questions so that the first n are a sample that new facts hardly change."""
    return sorted(questions, key=lambda question: (position(question.text), question.text))
