"""What can be asked: of each subject and relation the one answer that the sources give, and the names to ask by."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from metier.data.questions.naming import Names
from metier.data.questions.phrasings import way_of
from metier.data.questions.regions import region_of
from metier.facts import names
from metier.facts.dates import CIRCA_YEARS, Date
from metier.facts.fact import Fact, Kind, relation
from metier.facts.mentions import holds

_FIGURES = re.compile(r"\d+")
_LONGEST_SPAN = 200
"""Years of the longest date that a subject is asked for by."""

_GIVES_AWAY = 0.5
"""Part of an answer's telling words that a hint may not have."""


@dataclass(frozen=True, slots=True)
class Known:
    """One thing that sources say, as it can be asked."""

    subject: str
    """As the store shows it."""
    kind: Kind
    relation: str
    way: str
    """See `metier.data.questions.phrasings.way_of`."""
    value: str
    date: Date | None
    """Where the value is a date."""
    year: int | None
    source: str
    """The one that gives this value."""
    sources: tuple[str, ...]
    """Of all facts that say so, once for each."""
    label: str
    """The name in the exams: one that only this subject has, or one with its hint."""
    others: tuple[str, ...]
    """Further names that only this subject has."""
    region: str
    reverse: bool = False
    """Whether the value is this subject's alone."""

    @property
    def name(self) -> str:
        """The answer to a question for the subject."""
        return self.subject.partition(" (")[0]

    def gives_away(self, question: str) -> bool:
        """Return whether a question for the value has it: all words of a text, or a date or one of its years."""
        if self.date is None:
            return names.says(question, self.value)
        figures = set(_FIGURES.findall(question))
        return bool(figures) and (
            any(str(abs(year)) in figures for year in self.date.years if abs(year) > 9) or holds(question, self.date)
        )


def read_known(
    facts: Iterable[Fact], known: Names, relations: Sequence[str] | None, left: dict[str, Counter[str]]
) -> list[Known]:
    """Return all that can be asked.

    Args:
        facts: of a store.
        known: the names in it.
        relations: those to ask for; None for all.
        left: by source, counts the facts that are not asked for, by reason.
    """
    groups: dict[tuple[str, str], list[Fact]] = defaultdict(list)
    for fact in facts:
        groups[fact.subject, fact.relation].append(fact)
    found = []
    for (_, said), group in groups.items():
        reason = "relation not asked for" if relations is not None and said not in relations else None
        answer = None if reason else _answer(group)
        one = None if answer is None else _known(group, answer, known)
        if reason is None and answer is None:
            reason = "disputed" if any(fact.disputed for fact in group) else "several values"
        if one is None:
            for fact in group:
                left[fact.origin.name][reason or "its name gives the answer away"] += 1
        else:
            found.append(one)
    theirs = alone(groups.values())
    return [replace(one, reverse=(one.subject, one.relation) in theirs and not _is_vague(one)) for one in found]


def _is_vague(one: Known) -> bool:
    """Return whether a value tells nobody, though the sources say it of one alone: a birthplace that is a country."""
    return one.relation == "born in" and "," not in one.value


def _answer(facts: list[Fact]) -> Fact | None:
    """Return the fact to answer with: the most precise of dates that agree, the fullest of nested texts; or None."""
    if any(fact.disputed for fact in facts):
        return None
    if relation(facts[0].relation).asks_for == "date":
        dated = [(fact, fact.date) for fact in facts if fact.date]
        if not dated:
            return None
        chosen, best = min(dated, key=lambda pair: (_days(pair[1]), pair[1].circa))
        return chosen if all(date.agrees(best) for _, date in dated) else None
    fullest = max(facts, key=lambda fact: len(fact.value))
    return fullest if all(names.says(fullest.value, fact.value) for fact in facts) else None


def _days(date: Date) -> int:
    """Return roughly how long a date is, in days."""
    return sum((b - a) * scale for a, b, scale in zip(date.first, date.last, (372, 31, 1), strict=True))


def _known(facts: list[Fact], answer: Fact, known: Names) -> Known | None:
    """Return what is asked; None where the only name to ask by gives the answer away."""
    subject, kind = answer.subject, known.entries[answer.subject].kind
    label, others = known.to_ask_by(subject, answer.relation)
    date = answer.date if answer.date is not None and answer.value == str(answer.date) else None
    one = Known(
        subject=subject,
        kind=kind,
        relation=answer.relation,
        way=way_of(answer.relation, kind, subject.partition(" (")[0]),
        value=answer.value,
        date=date,
        year=answer.date.first[0] if answer.date else None,
        source=answer.origin.name,
        sources=tuple(fact.origin.name for fact in facts),
        label=label,
        others=(),
        region=region_of(answer.line, known.entries[subject].names if kind == "person" else ()),
    )
    hint = label.partition(" (")[2]
    if one.gives_away(label) or (hint and date is None and _hints_at(hint, answer.value)):
        return None
    return replace(one, others=tuple(name for name in others if not one.gives_away(name)))


def _hints_at(hint: str, value: str) -> bool:
    told = names.telling(value)
    return len(told & names.telling(hint)) >= _GIVES_AWAY * max(1, len(told))


def alone(groups: Iterable[list[Fact]]) -> set[tuple[str, str]]:
    """Return subjects and relations whose value no other subject of the store has, nor one that could be it."""
    by_relation: dict[str, list[list[Fact]]] = defaultdict(list)
    for facts in groups:
        by_relation[facts[0].relation].append(facts)
    found: set[tuple[str, str]] = set()
    for said, of_subjects in by_relation.items():
        of_one = _alone_dates if relation(said).asks_for == "date" else _alone_texts
        found |= {(facts[0].subject, said) for facts in of_one(of_subjects)}
    return found


def _alone_dates(of_subjects: list[list[Fact]]) -> Iterator[list[Fact]]:
    in_year: dict[int, list[tuple[str, Date]]] = defaultdict(list)
    for facts in of_subjects:
        for date in {fact.date for fact in facts if fact.date}:
            for year in _years(date):
                in_year[year].append((facts[0].subject, date))
    for facts in of_subjects:
        dates = [fact.date for fact in facts if fact.date]
        spans = [date.years[1] - date.years[0] for date in dates]
        if not dates or max(spans) > _LONGEST_SPAN:
            continue
        near = (other for date in dates for year in _years(date) for other in in_year[year])
        if not any(name != facts[0].subject and any(when.agrees(date) for date in dates) for name, when in near):
            yield facts


def _years(date: Date) -> range:
    """Return the years in which something that agrees with a date can be, of a long one those in which it begins."""
    (first, last), slack = date.years, CIRCA_YEARS if date.circa else 0
    return range(first - slack, min(last, first + 2 * _LONGEST_SPAN) + slack + 1)


def _alone_texts(of_subjects: list[list[Fact]]) -> Iterator[list[Fact]]:
    """A value is another's, too, if that one has all its words: "London" is in "London, England"."""
    having: dict[str, set[str]] = defaultdict(set)
    for facts in of_subjects:
        for fact in facts:
            for word in names.key(fact.value).split():
                having[word].add(fact.subject)
    for facts in of_subjects:
        words = [names.key(fact.value).split() for fact in facts]
        if all(each and _is_alone([having[word] for word in each]) for each in words):
            yield facts


def _is_alone(having: list[set[str]]) -> bool:
    """Return whether the sets, all of which hold one subject, have no other in common."""
    return any(len(each) == 1 for each in having) or len(set.intersection(*sorted(having, key=len))) == 1
