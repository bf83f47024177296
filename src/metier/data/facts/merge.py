"""Facts of all sources as facts about subjects: who is who, what was said twice, what cannot be right together.

Sources meet in a subject when its name is theirs and their dates do not speak against it; a source's own mark for its
subjects, where it has one, is kept to. Nothing is corrected and nothing outvoted: values that contradict each other
stand side by side, marked as disputed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, product

from metier.data.facts.found import LONGEST_LIFE, Found, Left, Subject
from metier.facts import names
from metier.facts.fact import Kind, relation, stated
from metier.progress import say

NEAR_YEARS = 30
"""Births or deaths further apart are those of two persons of one name, not of one person told of wrongly."""

_HONOURS = frozenset({"the", "sir", "dr", "lord"})
"""Titles that tell nobody apart."""

_MOST_VALUES = 50
"""Values that a source gives of a subject where one can be right; with more, its subjects are not what they seem."""

_RARE = 20
"""Events that could be the same are looked up by the words that no more events than this have."""


@dataclass
class Kept:
    """A fact that goes into the store."""

    source: str
    found: Found
    disputed: bool = False


@dataclass
class Known:
    """A subject: its names, and the facts about it."""

    names: list[str]
    kind: Kind
    hint: str
    ids: set[tuple[str, str]]
    """Sources that have a mark for it, with the mark."""
    said: dict[str, list[Kept]] = field(default_factory=dict)
    """The facts about it, by relation."""
    told: dict[str, set[Subject]] = field(default_factory=lambda: defaultdict(set))
    """As whom each source knows it."""
    shown: str = ""
    """Its name, with the hint where others have that name."""

    @property
    def facts(self) -> list[Kept]:
        """The facts about it."""
        return [fact for facts in self.said.values() for fact in facts]

    def dates(self, relation: str) -> list[Kept]:
        """Return its facts of a relation."""
        return self.said.get(relation, [])


@dataclass
class Merged:
    """What all sources say, and by source how many facts were left out for what reason."""

    subjects: list[Known]
    left: dict[str, Counter[str]]
    examples: dict[str, dict[str, Left]]
    """The first line left out for each reason."""
    unsure: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Relations of which a source says something that was left out, by the names of the subject, as keys."""

    def leave(self, source: str, left: Left) -> None:
        """Count a fact that is left out."""
        self.left[source][left.reason] += 1
        self.examples[source].setdefault(left.reason, left)
        if left.about:
            subject, relations = left.about
            for name in subject.names:
                self.unsure[names.key(name)].update(relations)


def merge(read: Iterable[tuple[str, Iterable[Found | Left]]]) -> Merged:
    """Return the facts of all sources by subject.

    Args:
        read: sources by name, in the order in which they are to be believed to know who is who.
    """
    merged = Merged([], defaultdict(Counter), defaultdict(dict))
    index: dict[str, list[Known]] = defaultdict(list)
    spelt: dict[str, str] = {}
    for source, items in read:
        for group in _groups(source, items, merged, spelt):
            _settle(source, group, index, merged)
    crowds: list[tuple[Known, dict[str, str]]] = []
    for subject in merged.subjects:
        crowded = {said: by for said, facts in subject.said.items() if (by := _crowding(said, facts))}
        _drop_repeated(subject, merged, crowded)
        _mark_disputed(subject, crowded)
        if crowded:
            crowds.append((subject, crowded))
    _tell(crowds)
    _mark_events(merged.subjects)
    _tell_apart(merged, index)
    return merged


def _groups(source: str, items: Iterable[Found | Left], merged: Merged, spelt: dict[str, str]) -> Iterator[list[Found]]:
    """Yield a source's facts by subject, without those whose line does not hold them.

    Relations that differ in capitals alone are one, spelt as the first of them.
    """
    groups: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for item in items:
        if isinstance(item, Left):
            merged.leave(source, item)
            continue
        subject = item.subject
        if not _is_text(" ".join((*subject.names, subject.hint, item.relation, item.value, item.line.text))):
            merged.leave(source, Left("broken characters", item.line))
            continue
        if not names.key(subject.names[0]) or not any(
            stated(item.line.text, name, item.value, item.date) for name in subject.names
        ):
            merged.leave(source, Left("not word for word in its line", item.line, (subject, (item.relation,))))
            continue
        # Without a mark, a line is believed by itself: one that is wrong does not take others along.
        mark = ("id", subject.id) if subject.id else (item.line.place, names.key(subject.names[0]))
        said = spelt.setdefault(item.relation.casefold(), item.relation)
        groups[mark].append(item._replace(relation=said))
    yield from groups.values()


def _is_text(text: str) -> bool:
    """Return whether a text can be written: JSON may hold halves of characters."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _settle(source: str, group: list[Found], index: dict[str, list[Known]], merged: Merged) -> None:
    """Add facts about one subject of a source to the subject they are about, or to a new one."""
    subject = group[0].subject
    fitting = [
        known
        for known in _named(subject, index)
        if _may_be(source, known, group) and _is_meant(source, known, subject) is not False
    ]
    if len(fitting) > 1:
        fitting = [known for known in fitting if _agrees(known, group)] or _most_names(fitting, subject)
    if len(fitting) > 1:
        for found in group:
            merged.leave(source, Left("name of several subjects", found.line, (subject, (found.relation,))))
        return
    if fitting:
        chosen = fitting[0]
    elif _is_surname(subject) and _named(subject, index):
        for found in group:
            about = (subject, (found.relation,))
            merged.leave(source, Left("a surname, and no date to tell whose", found.line, about))
        return
    else:
        chosen = Known([], subject.kind, subject.hint, set())
        merged.subjects.append(chosen)
    if subject.id:
        chosen.ids.add((source, subject.id))
    chosen.hint = chosen.hint or subject.hint
    chosen.kind = chosen.kind or subject.kind
    known_keys = {names.key(name) for name in chosen.names}
    for name in dict.fromkeys(name for found in group for name in found.subject.names):
        if (key := names.key(name)) and key not in known_keys:
            known_keys.add(key)
            chosen.names.append(name)
            index[key].append(chosen)
    for found in group:
        chosen.told[source].add(found.subject)
        chosen.said.setdefault(found.relation, []).append(Kept(source, found))


def _is_meant(source: str, known: Known, subject: Subject) -> bool | None:
    """Return whether a source that has no marks means a subject that it told of before; None where that is open.

    It does where a main name of one row is a name of the other. "New York City" and "New York State" are two although
    both rows have "New York", too; so are "Macbeth" and "Lady Macbeth". Rows that only another source's names bring
    together are not told apart.
    """
    told = known.told.get(source, set())
    shared = {names.key(name) for name in subject.names} & {names.key(name) for one in told for name in one.names}
    if subject.id or not shared:
        return None
    own = {names.key(name, _HONOURS) for name in subject.names}
    return any(
        names.key(other.names[0], _HONOURS) in own
        or names.key(subject.names[0], _HONOURS) in {names.key(name, _HONOURS) for name in other.names}
        for other in told
    )


def _is_surname(subject: Subject) -> bool:
    return subject.kind == "person" and not subject.id and " " not in names.key(subject.names[0])


def _named(subject: Subject, index: dict[str, list[Known]]) -> list[Known]:
    """Return subjects with the name, or else with another of its names that is more than a surname."""
    for name in (subject.names[0], *(name for name in subject.names[1:] if " " in name)):
        if found := index.get(names.key(name)):
            return found
    return []


def _most_names(fitting: list[Known], subject: Subject) -> list[Known]:
    """Return those that share most names with a subject: of the places called Cuba, the one that is a republic, too."""
    keys = {names.key(name) for name in subject.names}
    shared = [len(keys & {names.key(name) for name in known.names}) for known in fitting]
    return [known for known, count in zip(fitting, shared, strict=True) if count == max(shared)]


def _may_be(source: str, known: Known, group: list[Found]) -> bool:
    """Return whether a subject can be the one that facts of a source are about."""
    subject = group[0].subject
    if known.kind and subject.kind and known.kind != subject.kind:
        return False
    if subject.id and any(other == source for other, _ in known.ids):
        return False
    if "person" in (known.kind, subject.kind):  # whom a table calls by name alone may be a place, too
        kinds = {relation(said).kind for said in (*known.said, *(found.relation for found in group))}
        if not kinds <= {"", "person"}:
            return False
    own = names.key(subject.names[0])
    if _is_surname(subject) and own == names.key(known.names[0]) and _is_meant(source, known, subject):
        return True  # who has one name alone is one person to a source, whatever it says of him
    years = [
        (found.relation, found.date.first[0])
        for found in [*group, *(fact.found for life in ("born", "died") for fact in known.dates(life))]
        if found.date and found.relation in ("born", "died")
    ]
    if years and max(y for _, y in years) - min(y for _, y in years) > LONGEST_LIFE:
        return False
    for said in ("born", "died"):
        stretch = [year for other, year in years if other == said]
        if stretch and max(stretch) - min(stretch) > NEAR_YEARS:
            return False
    # A surname, or a first name: only if the dates speak for it.
    by_full_name = names.key(known.names[0]) in {names.key(name) for name in subject.names}
    by_its_own_word = any(own in map(names.key, other.names[1:]) for other in known.told.get(source, ()))
    return by_full_name or by_its_own_word or " " in own or _agrees(known, group)


def _agrees(known: Known, group: list[Found]) -> bool:
    """Return whether they say the same where one value alone can be right."""
    return any(
        _same(found, fact.found)
        for found in group
        if relation(found.relation).one
        for fact in known.dates(found.relation)
    )


def _crowding(said: str, facts: list[Kept]) -> str | None:
    """Return the source that gives more values than it can by mistake, where one alone can be right."""
    if not relation(said).one or len(facts) <= _MOST_VALUES:
        return None
    values: dict[str, set[str]] = defaultdict(set)
    for fact in facts:
        values[fact.source].add(fact.found.value)
    return next((source for source, given in values.items() if len(given) > _MOST_VALUES), None)


def _tell(crowds: list[tuple[Known, dict[str, str]]]) -> None:
    """Say of the first subject with too many values what is wrong with it, and how many there are."""
    if not crowds:
        return
    subject, crowded = crowds[0]
    said, source = next(iter(crowded.items()))
    values = {fact.found.value for fact in subject.said[said]}
    others = f" (such subjects: {len(crowds)})" if crowds[1:] else ""
    say(
        f"  {source}: {subject.names[0]!r} has {len(values)} values of {said!r}, of which one can be right: "
        f"all are disputed{others}. Check which column has the subjects"
    )


def _drop_repeated(subject: Known, merged: Merged, crowded: Mapping[str, str]) -> None:
    """Leave out what a source says again, keeping the more exact date; of a crowd what it says in the same words."""
    for said, facts in subject.said.items():
        kept: dict[tuple[str, str], list[Kept]] = defaultdict(list)
        for fact in sorted(facts, key=lambda fact: _length(fact.found)):
            # Texts are the same by their key, dates if they agree: those are compared.
            is_date = relation(said).asks_for == "date" and said not in crowded
            key = "" if is_date else names.key(fact.found.value)
            if any(_same(other.found, fact.found) for other in kept[fact.source, key]):
                merged.leave(fact.source, Left("said twice", fact.found.line))
            else:
                kept[fact.source, key].append(fact)
        staying = {id(fact) for group in kept.values() for fact in group}
        subject.said[said] = [fact for fact in facts if id(fact) in staying]


def _length(found: Found) -> tuple[int, ...]:
    date = found.date
    return tuple(b - a for a, b in zip(date.first, date.last, strict=True)) if date else ()


def _same(one: Found, two: Found) -> bool:
    if one.date and two.date and relation(one.relation).asks_for == "date":
        return one.date.agrees(two.date)
    return names.key(one.value) == names.key(two.value)


def _mark_disputed(subject: Known, crowded: Mapping[str, str]) -> None:
    for said, facts in subject.said.items():
        if said in crowded:  # too many to compare each with each
            for fact in facts:
                fact.disputed = True
        elif relation(said).one:
            for one, two in combinations(facts, 2):
                if not _same(one.found, two.found) and not _other_word(one.found, two.found):
                    one.disputed = two.disputed = True
    if {"born", "died"} <= crowded.keys():
        return
    for born, died in product(subject.dates("born"), subject.dates("died")):
        first, last = born.found.date, died.found.date
        if first and last and (last.before(first) or last.first[0] - first.last[0] > LONGEST_LIFE):
            born.disputed = died.disputed = True


def _other_word(one: Found, two: Found) -> bool:
    """Return whether two text answers are the same in other words: a line has both, as "Brussels, Bruxelles: ..."."""
    if relation(one.relation).asks_for == "date":
        return False
    first, second = names.key(one.value).split(), names.key(two.value).split()
    part = set(first) <= set(second) or set(second) <= set(first)
    return part or names.says(one.line.text, two.value) or names.says(two.line.text, one.value)


def _mark_events(subjects: list[Known]) -> None:
    """Mark dates of events that two sources tell of in other words and date differently, some years apart."""
    told = [(subject, fact) for subject in subjects for fact in subject.dates("occurred")]
    holders: dict[str, list[int]] = defaultdict(list)
    for number, (subject, _) in enumerate(told):
        for word in names.telling(subject.names[0]):
            holders[word].append(number)
    for number, (subject, fact) in enumerate(told):
        rare = [holders[word] for word in names.telling(subject.names[0]) if len(holders[word]) <= _RARE]
        near = {other for numbers in rare for other in numbers if other > number}
        for other, second in (told[at] for at in sorted(near)):
            one, two = fact.found.date, second.found.date
            if other is subject or second.source == fact.source or not one or not two or one.agrees(two):
                continue
            if abs(one.first[0] - two.first[0]) <= NEAR_YEARS and names.of_one_event(subject.names[0], other.names[0]):
                fact.disputed = second.disputed = True


def _tell_apart(merged: Merged, index: dict[str, list[Known]]) -> None:
    """Give every subject a name of its own, and leave out those that cannot be told apart."""
    for subject in merged.subjects:
        name = subject.names[0]
        shared = len(index[names.key(name)]) > 1
        subject.shown = f"{name} ({subject.hint or _years(subject) or subject.kind or 'another'})" if shared else name
        if shared and not subject.hint and subject.kind == "person" and " " in names.key(name):
            for fact in subject.facts:  # another person of that name, or a wrong date: nobody can tell
                fact.disputed = True
    for subject in _alike(merged.subjects):
        if more := _years(subject):
            subject.shown = f"{subject.names[0]} ({', '.join(filter(None, [subject.hint, more]))})"
    for subject in _alike(merged.subjects):
        for fact in subject.facts:
            merged.leave(fact.source, Left("cannot be told from another subject", fact.found.line))
        subject.said = {}
    merged.subjects = [subject for subject in merged.subjects if subject.said]


def _alike(subjects: list[Known]) -> list[Known]:
    """Return subjects that are shown as another one is."""
    counts = Counter(subject.shown for subject in subjects)
    return [subject for subject in subjects if counts[subject.shown] > 1]


def _years(subject: Known) -> str:
    """Return "born 1735", or when an event occurred."""
    for said, word in (("born", "born "), ("died", "died "), ("occurred", ""), ("lived", "")):
        if facts := subject.dates(said):
            return f"{word}{facts[0].found.value}"
    return ""
