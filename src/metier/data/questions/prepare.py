"""The data step of a job of questions: facts to questions, exams, the store they are looked up in, and a ledger."""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metier.data.facts.build import READERS, Built, build_store
from metier.data.ledger import Entry, Ledger, keep_paper
from metier.data.prepare import check_exam, prepare_text
from metier.data.questions import phrasings
from metier.data.questions.about import about_path, write_about
from metier.data.questions.compared import Pairs
from metier.data.questions.doubles import doubles
from metier.data.questions.invent import Inventor
from metier.data.questions.known import Known, read_known
from metier.data.questions.naming import Names
from metier.data.questions.phrasings import Book, Part
from metier.data.questions.rows import (
    Question,
    comparisons,
    exam_of,
    in_hash_order,
    training_of,
)
from metier.data.questions.unknown import beside, in_empty_years, in_vain, invented, unanswered
from metier.data.questions.withheld import Mentions, names_of, withhold
from metier.data.records import Record, write_records
from metier.data.similarity import comparable
from metier.data.split import seeded
from metier.errors import DataError
from metier.facts import names
from metier.facts.dates import Date
from metier.facts.fact import Fact, Kind, relation
from metier.facts.store import Entry as Subject
from metier.facts.store import open_store
from metier.progress import say, track
from metier.spec.data import Data
from metier.spec.knowledge import counted
from metier.spec.task import Qa

STORE = "facts.db"
"""The facts, among the rows and beside the model that is passed on."""

LEAST_KNOWN, MOST_KNOWN = 500, 1000
"""Rows of an exam about what is known, where there are facts for so many."""

UNKNOWN_SHARE, LEAST_UNKNOWN = 1 / 2, 60
"""Rows of an exam about what is not known, beside those about what is; and the least, where there are so many."""

EMPTY_SHARE, IN_VAIN_SHARE, BESIDE_SHARE = 0.1, 0.2, 0.1
"""Of the training rows without an answer, those that ask by a year of which nothing is said, those that ask of known
subjects what nobody says of them, and those that ask of them what is no matter of the job. The others ask about
subjects that there are not: each is another one."""

COMPARED_SHARE = 0.05
"""Of an exam's rows about what is known, those that ask which came first."""


@dataclass(frozen=True)
class _Material:
    """What the questions are made of."""

    qa: Qa
    seed: int
    book: Book
    taught: list[Known]
    kept_back: dict[Part, list[Known]]
    said: dict[str, set[str]]
    """Of each subject the relations that any source states, of it or of one that it may be, too."""
    dates: dict[str, list[Date]]
    """Of each relation all that the sources have."""
    inventor: Inventor
    mentions: Mentions
    """Of the withheld subjects' names."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Training questions that were not asked, by reason."""


def rules() -> dict[str, Any]:
    """Return what the step depends on beside its sources and settings: how they are read, and how is asked."""
    return {"readers": READERS, "phrasings": phrasings.fingerprint()}


def prepare_questions(data: Data, qa: Qa, folder: Path, *, seed: int = 0) -> dict[str, Any]:
    """Read all facts, and write the store, the questions and the ledger.

    Writes ``facts.db``; ``train.jsonl``; the exams ``validation.jsonl`` and ``test.jsonl`` of what is known,
    ``validation_unknown.jsonl`` and ``test_unknown.jsonl`` of what is not, each with what its questions are about
    beside it (`metier.data.questions.about`); plain text and licences as `metier.data.prepare.prepare` does; and
    ``ledger.json``. The exams do not depend on the seed; which questions are trained on, and their order, does.

    Args:
        data: the sources and the split.
        qa: what is asked.
        folder: where the files go.
        seed: of what is trained on.

    Returns:
        Counts: rows by part; rows by kind, form and relation; the facts taught and their bits, by relation
        (`metier.spec.knowledge.counted`); bytes of the training's questions and answers; what is not asked, by reason;
        the store's facts.

    Raises:
        DataError: when a source is damaged, too few facts are left, or two relations are asked for in one way.
        RunError: when something has to be fetched and cannot.
    """
    built = build_store(data.facts, folder / STORE)
    left: dict[str, Counter[str]] = defaultdict(Counter)
    with open_store(folder / STORE, built.key) as store:
        facts_read = list(store)
        material = _material(store.subjects(), facts_read, built, qa, seed, left)
    disputed = {fact.origin.name: f"{fact.place}: {fact.line[:200]}" for fact in facts_read if fact.disputed}
    del facts_read  # what follows has a material of its own
    _tell_left_out(data, built, left, disputed)
    book = material.book
    pairs = Pairs(material.taught)
    exams: dict[Part, list[Question]] = {}
    unknown: dict[Part, list[Question]] = {}
    part: Part
    for part, share in (("test", data.split.test_share), ("validation", data.split.validation_share)):
        dice = random.Random(f"{part} 1")
        rows = exam_rows(len(material.taught), share, data.split.exam_rows)
        which = comparisons(round(rows * COMPARED_SHARE), pairs, part, book, dice) if qa.comparison_share else []
        exams[part] = in_hash_order([*exam_of(material.taught, rows - len(which), part, book), *which])
        why, fix = f"{len(material.taught)} facts can be asked for", "Add facts: a few dozen at least"
        check_exam(part, exams[part], why, fix)
        unknown[part] = in_hash_order(_unknown(material, len(exams[part]), part, dice))
    train = _training(material, pairs)
    _write_rows(folder, train, exams, unknown, seed)
    ledger = _ledger(data, built, material, left, folder)
    facts: dict[str, Any] = {
        "store": built.to_json(),
        "rows": {"train": len(train), **{name: len(rows) for name, rows in _named(exams, unknown).items()}},
        "train_bytes": sum(len(text.encode()) for one in train for text in (one.text, one.answer)),
        "knowledge": counted((one.relation, one.value) for one in material.taught),
        "questions": {name: _counts(rows) for name, rows in {"train": train, **_named(exams, unknown)}.items()},
        "facts": {
            "taught": len(material.taught),
            **{f"withheld for {part}": len(kept) for part, kept in material.kept_back.items()},
        },
        "skipped": dict(sum((Counter(entry.removed) for entry in ledger.entries.values()), Counter())),
        "questions skipped": dict(material.skipped),
        "asked in the exams as in training": _shared(material),
    }
    if shared := facts["asked in the exams as in training"]:
        listed = ", ".join(f"{way} ({form})" for way, forms in shared.items() for form in forms)
        say(f"Too few ways to ask to keep some for the exams alone: {listed}. Add to [[qa.phrasings]]")
    if data.text:
        examined = [Record(one.text, one.answer, one.source) for asked in exams.values() for one in asked]
        facts["text"] = prepare_text(data, examined, folder, ledger)
    ledger.write(folder / "ledger.json")
    return facts


def _tell_left_out(data: Data, built: Built, left: Mapping[str, Counter[str]], disputed: Mapping[str, str]) -> None:
    """Say what is not asked of tables of one's own, with a line of each reason that has one."""
    for source, name in zip(data.facts, built.read, strict=True):
        gone = Counter(built.left[name]) + left[name] if source.is_table else Counter[str]()
        lines = {"disputed": disputed.get(name, ""), **built.examples[name]}
        for reason, count in gone.most_common():
            say(f"  {name}: {count} left out: {reason}" + (f", such as {lines[reason]}" if lines.get(reason) else ""))


def exam_rows(facts: int, share: float, most: int) -> int:
    """Return how many rows an exam on known facts has: a share of the facts within bounds, at most two a fact."""
    return min(2 * facts, most, MOST_KNOWN, max(LEAST_KNOWN, round(share * facts)))


def _material(
    subjects: Sequence[Subject],
    facts: Sequence[Fact],
    built: Built,
    qa: Qa,
    seed: int,
    left: dict[str, Counter[str]],
) -> _Material:
    """Read what can be asked, withhold subjects, and leave out what no training question can be made of."""
    said: dict[str, set[str]] = defaultdict(set)
    dates: dict[str, list[Date]] = defaultdict(list)
    for fact in facts:
        said[fact.subject].add(fact.relation)
        if fact.date is not None:
            dates[fact.relation].append(fact.date)
    there = sorted({one for relations in said.values() for one in relations})
    spelt = {one.casefold(): one for one in there}
    qa = _spelt_as(spelt, qa)
    named = {"qa.relations": qa.relations or [], "qa.phrasings": [one.relation for one in qa.phrasings]}
    for key, relations in named.items():
        if missing := sorted(set(relations) - set(there)):
            raise DataError(key, f"no source says anything of {missing[0]!r}", f"Known are: {', '.join(there)}")
    stated = {subject: frozenset(relations) for subject, relations in said.items()}
    for entry in subjects:  # of somebody of that name
        unsure = {one for name in entry.names for one in built.unsure.get(names.key(name), ())}
        fitting = {one for one in unsure if relation(one).kind in ("", entry.kind) or not entry.kind}
        said[entry.subject] |= {spelt.get(one.casefold(), one) for one in fitting}
    known = Names(subjects, stated, said)
    found = read_known(facts, known, qa.relations, left)
    book = Book(qa.phrasings)
    ways = {one.way for one in found}
    book.check(ways)
    askable = []
    for one in found:
        if training_of(one, book, 1, seed):
            askable.append(one)
        else:
            _leave(one, "no question without its answer", left)
    if not askable:
        reasons = dict(sum(left.values(), Counter[str]()))
        raise DataError("data.facts", f"none of {built.total} facts can be asked for ({reasons})", "Add other facts")
    texts = [*book.texts(ways), *built.facts, qa.unknown]
    twice = doubles(facts, known)
    withheld = withhold(askable, known, qa.withheld_share, texts, twice)
    said_of_both = {one: set().union(said[one], *(said[other] for other in twice.get(one, ()))) for one in said}
    kept_back: dict[Part, list[Known]] = {"validation": [], "test": []}
    taught: list[Known] = []
    for one in askable:
        (kept_back[withheld[one.subject]] if one.subject in withheld else taught).append(one)
    by_kind: dict[Kind, list[str]] = defaultdict(list)
    for one in taught:
        if not one.way.endswith(":clause"):
            by_kind[one.kind].append(one.name)
    inventor = Inventor(dict(by_kind), known.resembles)
    mentions = names_of(withheld, known)
    return _Material(qa, seed, book, taught, kept_back, said_of_both, dates, inventor, mentions)


def _spelt_as(spelt: Mapping[str, str], qa: Qa) -> Qa:
    """Return what is asked, with relations spelt as the store has them, whatever their capitals."""
    relations = qa.relations and [spelt.get(one.casefold(), one) for one in qa.relations]
    phrasings = [
        one.model_copy(update={"relation": spelt.get(one.relation.casefold(), one.relation)}) for one in qa.phrasings
    ]
    return qa.model_copy(update={"relations": relations, "phrasings": phrasings})


def _leave(one: Known, reason: str, left: dict[str, Counter[str]]) -> None:
    for source in one.sources:
        left[source][reason] += 1


def _unknown(material: _Material, known: int, part: Part, dice: random.Random) -> list[Question]:
    """Return questions about what is not taught: half of withheld subjects, if there are so many, half of invented."""
    rows = max(LEAST_UNKNOWN, round(known * UNKNOWN_SHARE))
    book, unknown = material.book, material.qa.unknown
    asked = exam_of(material.kept_back[part], rows // 2, part, book)
    withheld = [unanswered(question, unknown, "withheld") for question in asked]
    more = rows - len(withheld)
    return [*withheld, *invented(more, material.taught, part, book, material.inventor, unknown, dice)]


def _training(material: _Material, pairs: Pairs) -> list[Question]:
    """Return the training rows: what is taught, what is not known, and what came first, by their shares."""
    qa, book, seed = material.qa, material.book, material.seed
    kept: dict[bytes, Question] = {}

    def keep(questions: Iterable[Question]) -> int:
        before = len(kept)
        for question in questions:
            text = _short(comparable(question.text))
            if material.mentions.owners(f"{question.text} | {question.answer}"):
                material.skipped["names a withheld subject"] += 1
            elif text not in kept:
                kept[text] = question
            elif kept[text].answer != question.answer:
                material.skipped["asked for another answer in the same words"] += 1
        return len(kept) - before

    for one in track(material.taught, "asking"):
        keep(training_of(one, book, qa.variants, seed))
    answered, of_facts = len(kept), 1 - qa.abstain_share - qa.comparison_share
    total = answered / of_facts
    dice = random.Random(f"train {seed}")
    keep(comparisons(round(total * qa.comparison_share), pairs, "train", book, dice))
    unknown = round(total * qa.abstain_share)
    empty = round(EMPTY_SHARE * unknown)
    got = keep(in_empty_years(empty, material.taught, material.dates, book, qa.unknown, dice))
    got += keep(in_vain(round(IN_VAIN_SHARE * unknown), material.taught, material.said, book, qa.unknown, dice))
    got += keep(beside(round(BESIDE_SHARE * unknown), material.taught, book, qa.unknown, dice))
    got += keep(invented(unknown - got, material.taught, "train", book, material.inventor, qa.unknown, dice))
    if got < unknown:
        material.skipped["names that could not be made up"] = unknown - got
    train = list(kept.values())
    if qa.source_tags:
        train[1::2] = [one._replace(text=f"[{one.source}] {one.text}") for one in train[1::2]]
    return train


def _short(text: str) -> bytes:
    """Return eight bytes for a text: of a hundred million two are the same once in four thousand times."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _write_rows(
    folder: Path,
    train: Sequence[Question],
    exams: Mapping[Part, Sequence[Question]],
    unknown: Mapping[Part, Sequence[Question]],
    seed: int,
) -> None:
    write_records(folder / "train.jsonl", _records(train, seed))
    for name, rows in _named(exams, unknown).items():
        path = folder / f"{name}.jsonl"
        write_records(path, (Record(one.text, one.answer, one.source) for one in rows))
        write_about(about_path(path), (one.about for one in rows))


def _records(train: Sequence[Question], seed: int) -> Iterator[Record]:
    """Yield the training rows in seeded order."""
    mixed = sorted(train, key=lambda one: seeded(seed, one.text, one.answer))
    return (Record(one.text, one.answer, one.source) for one in mixed)


def _named(
    exams: Mapping[Part, Sequence[Question]], unknown: Mapping[Part, Sequence[Question]]
) -> dict[str, Sequence[Question]]:
    parts: tuple[Part, ...] = ("validation", "test")
    return {
        **{str(part): exams[part] for part in parts},
        **{f"{part}_unknown": unknown[part] for part in parts},
    }


def _ledger(data: Data, built: Built, material: _Material, left: Mapping[str, Counter[str]], folder: Path) -> Ledger:
    """Return the ledger, which counts facts: those taught, those withheld for an exam, those left out by reason."""
    ledger = Ledger()
    for source, (name, opened) in zip(data.facts, built.read.items(), strict=True):
        gone = Counter(built.left[name]) + left[name]
        ledger.add(
            Entry(
                name=name,
                role="facts",
                reference=opened.reference,
                origin=opened.origin,
                sha256=opened.sha256,
                licence=source.licence,
                attribution=source.attribution,
                rows_read=sum(built.facts[name].values()) + sum(built.left[name].values()),
                removed=gone,
                papers=[keep_paper(paper, source.source, source.licence, folder) for paper in opened.papers],
            )
        )
    for part, facts in {"train": material.taught, **material.kept_back}.items():
        ledger.keep(Counter(source for one in facts for source in one.sources), part)
    return ledger


def _counts(rows: Iterable[Question]) -> dict[str, dict[str, dict[str, int]]]:
    """Return the number of rows by kind, form and relation; of the known nothing is said in what is asked in vain."""
    found: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for one in rows:
        kind = "nothing said" if one.about.kind == "known" and not one.about.value else one.about.kind
        found[kind][one.about.form][one.about.relation] += 1
    return {kind: {form: dict(by.most_common()) for form, by in forms.items()} for kind, forms in found.items()}


def _shared(material: _Material) -> dict[str, dict[str, int]]:
    """Return the ways whose exams have the phrasings of training, with the number of facts asked so."""
    found: dict[str, dict[str, int]] = {}
    for way, count in sorted(Counter(one.way for one in material.taught).items()):
        for form, ways in material.book.asked(way)._asdict().items():
            if ways.shared and ways.train:
                found.setdefault(way, {})[form] = count
    return found
