"""Look a question and its answer up in the store: the lines that support it, and whether the store knows better.

Nothing here understands a question. Names are found in it, longest first; small words tell which relation is asked
(`metier.facts.asked`); and a contradiction is claimed only where subject and relation are certain.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from metier.facts import names
from metier.facts.answers import date_of, plain, right, said_date
from metier.facts.asked import asks_by_itself, nothing_else, order_asked, relations_asked
from metier.facts.dates import Date
from metier.facts.fact import Fact, relation
from metier.facts.mentions import mentions
from metier.facts.store import Store

_MOST_WORDS = 200
_SEARCHED = 8
_OF_ONE = {"capital", "independence", "independent of"}
"""Relations that one of several subjects of a name has: of the lake and the country called Chad."""
_ORDINALS = frozenset(names.words("first second third fourth fifth sixth seventh eighth ninth tenth last other"))
_NUMBERS = frozenset(names.words("i ii iii iv v vi vii viii ix x"))
_LEAST_TELLING = 3
"""An event that is told in other words is recognised by no fewer."""


@dataclass(frozen=True)
class Found:
    """What a store has on a question."""

    sources: tuple[Fact, ...] = ()
    """Facts that say what the answer says."""
    values: tuple[Fact, ...] = ()
    """Facts that answer the question, whatever the answer was; empty where it is not clear what is asked."""
    disagrees: bool = False
    """Whether the store has a value that nothing disputes, for just this subject and relation, and it is another."""


@dataclass(frozen=True)
class _Named:
    """A name in a question: the places of its words, and the subjects that have it."""

    places: frozenset[int]
    facts: tuple[tuple[Fact, ...], ...]
    """Of each subject."""


def look_up(store: Store, question: str, answer: str | None = None) -> Found:
    """Return what the store has on a question.

    Args:
        store: the facts.
        question: any text.
        answer: what is to be supported; None where there is none.

    Raises:
        ArtifactError, RunError: as `metier.facts.store.open_store`.
    """
    words = _words(question)
    named = _named(store, question, words)
    dated = answer is not None and date_of(answer) is not None  # no answer to which came first
    if len(named) > 1 and not dated and order_asked(_without(words, named)):
        found = _compared(store, words, named, answer)
        if found.sources or found.values:
            return found
    found = _of_subjects(words, named, answer)
    if not found.sources and not found.values:
        found = _of_subjects(words, _told(store, question, words), answer)
    if answer is not None and not found.sources and (facts := store.about(answer)):
        sources = _reverse(question, words, facts)
        return Found(sources, _disputants(sources, [facts])) if sources else found
    return found


def _of_subjects(words: Sequence[str], named: Sequence[_Named], answer: str | None) -> Found:
    sources: list[Fact] = []
    values: list[Fact] = []
    disagrees = False
    for name in named:
        rest = _without(words, [name])
        wanted = relations_asked(rest, {fact.relation for facts in name.facts for fact in facts})
        of_it = [[fact for fact in facts if wanted is None or fact.relation in wanted] for facts in name.facts]
        having = [facts for facts in of_it if facts]
        agreeing = [fact for facts in having for fact in facts if answer is not None and _supports(fact, answer)]
        sources += agreeing
        if wanted is not None and len(wanted) == 1 and _is_plain(words, name, rest, next(iter(wanted)), having):
            values += [fact for facts in having for fact in facts]
            alone = len(having) == 1 and (len(name.facts) == 1 or wanted <= _OF_ONE)
            disagrees = disagrees or (alone and answer is not None and _contradicts(answer, having[0]))
        else:
            values += _disputants(agreeing, having)
    return Found(_unique(sources), _unique(values), disagrees and not sources)


def _compared(store: Store, words: Sequence[str], named: Sequence[_Named], answer: str | None) -> Found:
    """Return the dated facts of the subjects that are compared."""
    rest = _without(words, named)
    dated = [[[fact for fact in facts if _is_date(fact)] for facts in name.facts] for name in named]
    present = {fact.relation for subjects in dated for facts in subjects for fact in facts}
    wanted = relations_asked(rest, present, reverse=True)
    wanted = {name for name in present if relation(name).one} if wanted is None else wanted
    of_each = [[fact for facts in subjects for fact in facts if fact.relation in wanted] for subjects in dated]
    of_each = [facts for facts in of_each if facts]
    if len(of_each) < 2:
        return Found()
    both = _unique(fact for facts in of_each for fact in facts)
    if answer is None:
        return Found((), both)
    meant = {fact.subject for fact in store.about(answer)}
    chosen = [facts for facts in of_each if any(fact.subject in meant for fact in facts)]
    right_one = _first_or_last(of_each, order_asked(rest))
    if len(chosen) != 1 or right_one is None:
        return Found((), both)
    return Found(both, both) if chosen[0] is right_one else Found((), both, disagrees=True)


def _first_or_last(of_each: Sequence[list[Fact]], order: str) -> list[Fact] | None:
    """Return the facts of the subject that comes first or last, if nothing about it is open."""
    certain = all(
        len({(fact.subject, fact.relation) for fact in facts}) == 1 and not any(fact.disputed for fact in facts)
        for facts in of_each
    )
    if not certain:
        return None
    for facts in of_each:
        others = [fact for other in of_each if other is not facts for fact in other]
        pairs = [(one.date, two.date) if order == "first" else (two.date, one.date) for one in facts for two in others]
        if all(one is not None and two is not None and one.before(two) for one, two in pairs):
            return facts
    return None


def _reverse(question: str, words: Sequence[str], facts: Iterable[Fact]) -> tuple[Fact, ...]:
    """Return those facts on the answer whose value the question holds."""
    text = f" {' '.join(words)} "
    dates = [mention.date for mention in mentions(question.rstrip(" ?!"))]
    there = [fact for fact in facts if _states(text, dates, fact)]
    rest = text
    for fact in there:
        rest = rest.replace(f" {names.key(fact.value)} ", " ")
    wanted = relations_asked(rest, {fact.relation for fact in there}, reverse=True)
    return _unique(fact for fact in there if wanted is None or fact.relation in wanted)


def _states(text: str, dates: Iterable[Date], fact: Fact) -> bool:
    if fact.date is not None and _is_date(fact):
        return any(date.agrees(fact.date) for date in dates)
    return f" {names.key(fact.value)} " in text


def _named(store: Store, question: str, words: Sequence[str]) -> list[_Named]:
    """Return the names in a question, longest first, none within another."""
    longest = store.longest_name()
    written = [names.SAME.get(word, word) for word in names.words(question)][: len(words)]
    written = written if len(written) == len(words) else list(words)
    keys = {
        (start, end): (" ".join(written[start:end]), " ".join([*written[start : end - 1], words[end - 1]]))
        for start in range(len(words))
        for end in range(start + 1, min(start + longest, len(words)) + 1)
    }
    known = store.known(key for both in keys.values() for key in both)
    of_span = {span: key for span, both in keys.items() for key in both if key in known}
    matches = sorted(of_span, key=lambda span: (span[0] - span[1], span))
    capitals = {word for part in question.split()[1:] if part != part.lower() for word in _words(part)}
    matches = [span for span in matches if _can_be_name(words[slice(*span)], capitals)]
    if any(not _may_ask(words[slice(*span)]) for span in matches):
        matches = [span for span in matches if not _may_ask(words[slice(*span)])]
    found: list[_Named] = []
    taken: set[int] = set()
    for span in matches:
        places = set(range(*span))
        if places & taken:
            continue
        taken |= places
        subjects = [tuple(store.of(subject)) for subject in known[of_span[span]]]
        found.append(_told_apart(words, frozenset(places), [facts for facts in subjects if facts]))
    described = [_description(words, name) for name in found]
    return [name for name in found if name.facts and not any(name.places <= places for places in described)]


def _description(words: Sequence[str], name: _Named) -> frozenset[int]:
    """Return the places of the words behind a name that tell it from others: names among them are not asked about."""
    for facts in name.facts:
        hint = _words(facts[0].subject.partition(" (")[2])
        for start in range(1, len(words) - len(hint) + 1) if hint else ():
            if start - 1 in name.places and words[start : start + len(hint)] == hint:
                return frozenset(range(start, start + len(hint)))
    return frozenset()


def _can_be_name(words: Sequence[str], capitals: set[str]) -> bool:
    """Return whether words are written like a name, in a question that has capitals at all."""
    return len(words) > 1 or not capitals or words[0] in capitals or not asks_by_itself(words[0])


def _may_ask(words: Sequence[str]) -> bool:
    return len(words) == 1 and asks_by_itself(words[0])


def _told_apart(words: Sequence[str], places: frozenset[int], subjects: Sequence[tuple[Fact, ...]]) -> _Named:
    """Keep those of several subjects of a name whose description the question holds, if there are any."""
    asked = names.telling(" ".join(words))
    hints = {facts[0].subject: names.telling(facts[0].subject.partition(" (")[2]) for facts in subjects}
    meant = [facts for facts in subjects if hints[facts[0].subject] and hints[facts[0].subject] <= asked]
    if not meant:
        return _Named(places, tuple(subjects))
    hinted = frozenset().union(*(hints[facts[0].subject] for facts in meant))
    more = {place for place, word in enumerate(words) if names.telling(word) and names.telling(word) <= hinted}
    return _Named(places | more, tuple(meant))


def _told(store: Store, question: str, words: Sequence[str]) -> list[_Named]:
    """Return the event that a question tells in other words than the store: all telling words of its name are there."""
    asked = names.telling(question)
    best: _Named | None = None
    for fact in store.search(question, _SEARCHED):
        told = names.telling(fact.name)
        if not _is_date(fact) or len(told) < _LEAST_TELLING or not all(_is_near(word, asked) for word in told):
            continue
        places = frozenset(
            at for at, word in enumerate(words) if any(_is_near(near, told) for near in names.telling(word))
        )
        if best is None or len(places) > len(best.places):
            best = _Named(places, (tuple(store.about(fact.subject)),))
    return [best] if best else []


def _is_plain(words: Sequence[str], name: _Named, rest: str, wanted: str, subjects: Iterable[Iterable[Fact]]) -> bool:
    """Return whether a question asks for nothing but a relation of the subjects of a name."""
    known = " ".join(f"{fact.subject} {fact.line}" for facts in subjects for fact in facts)
    return nothing_else(rest, wanted, known) and not _is_value(words, name, wanted) and not _is_counted(words, name)


def _is_counted(words: Sequence[str], name: _Named) -> bool:
    """Return whether a name is part of one that tells several apart: "Battle of Wick" in "First Battle of Wick"."""
    first, last = min(name.places), max(name.places)
    return bool(_ORDINALS & set(words[max(0, first - 1) : first]) or _NUMBERS & set(words[last + 1 : last + 2]))


def _is_value(words: Sequence[str], name: _Named, wanted: str) -> bool:
    """Return whether a name stands where the value would: that of France in "Which state is independent of France?"."""
    ending, before = wanted.split()[-1], words[max(0, min(name.places) - 1)]
    return len(wanted.split()) > 1 and before in (ending, "from" if ending == "of" else ending)


def _is_near(word: str, others: Iterable[str]) -> bool:
    """Return whether a word or its beginning is among others: "land" and "lands"."""
    return any(other.startswith(word) or (len(other) > 2 and word.startswith(other)) for other in others)


def _supports(fact: Fact, answer: str) -> bool:
    """Return whether a fact says what an answer says: a line with a year alone does not speak for a day in it."""
    if not right(answer, fact.value):
        return False
    said = said_date(answer)
    return said is None or fact.date is None or fact.date.circa or said.holds(fact.date)


def _contradicts(answer: str, facts: Sequence[Fact]) -> bool:
    """Return whether an answer cannot be right, where one value alone is."""
    if not all(relation(fact.relation).one and not fact.disputed for fact in facts):
        return False
    said, said_words = said_date(answer), set(plain(answer).split())
    if any(right(answer, fact.value) for fact in facts):
        return False
    for fact in facts:
        if fact.date is not None and _is_date(fact):
            if said is not None and said.agrees(fact.date):
                return False
        elif (wanted := set(plain(fact.value).split())) and (wanted <= said_words or said_words <= wanted):
            return False
    return True


def _disputants(facts: Iterable[Fact], subjects: Iterable[Sequence[Fact]]) -> tuple[Fact, ...]:
    """Return all values where one of those given is disputed."""
    disputed = {(fact.subject, fact.relation) for fact in facts if fact.disputed}
    return _unique(fact for facts in subjects for fact in facts if (fact.subject, fact.relation) in disputed)


def _is_date(fact: Fact) -> bool:
    return fact.date is not None and fact.value == str(fact.date)


def _words(text: str) -> list[str]:
    """Return the words of a text as names have them, without possessive endings."""
    bare = re.sub(r"(?i)(?<=\w)['\u2019]s\b", "", text)
    return [names.SAME.get(word, word) for word in names.words(bare)][:_MOST_WORDS]


def _without(words: Sequence[str], named: Iterable[_Named]) -> str:
    taken = frozenset().union(*(name.places for name in named))
    return " ".join(word for place, word in enumerate(words) if place not in taken)


def _unique(facts: Iterable[Fact]) -> tuple[Fact, ...]:
    return tuple(dict.fromkeys(facts))
