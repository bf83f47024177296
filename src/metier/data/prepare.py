"""The data step: sources to three clean, separate parts and a ledger."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np

from metier.data.clean import cleaned
from metier.data.duplicates import exact_duplicates, near_rows
from metier.data.leaks import REASONS, leaking, leaks, quoting
from metier.data.ledger import Entry, Ledger, Role, keep_paper
from metier.data.records import Record, write_documents, write_lines
from metier.data.rows import Rows, rows_beside
from metier.data.similarity import Ints
from metier.data.sources import open_source
from metier.data.split import in_hash_order, parts_of
from metier.errors import DataError
from metier.progress import track
from metier.spec.data import AnySource, Cleaning, Data

MIN_EXAM_ROWS = 20
"""Below this no exam can tell two systems apart."""

_LEAST_DOCUMENTS = 2
_DOCUMENTS = Cleaning(max_chars=10**9)
"""The rules for plain text: damaged documents are left out, of any length."""

_ALIKE = (
    "If the same outputs come again in this job (labels), set data.split.leak_sides to 'input'; if all its texts are "
    "alike, raise data.split.leak_similarity"
)


def prepare(data: Data, folder: Path, *, seed: int = 0) -> dict[str, Any]:
    """Read, clean, deduplicate and split all sources; remove leaks; write the parts and the ledger.

    Writes ``train.jsonl``, ``validation.jsonl``, ``test.jsonl`` and ``ledger.json``; of plain text ``text.jsonl`` and
    ``text_validation.jsonl``; of packages that say what their licences are, that text, into ``licences/``.
    Validation and test come in hash order: their first n rows are a stable sample. The parts do not depend on the
    seed; the order of the training rows does.

    Args:
        data: the sources and the rules.
        folder: where the files go.
        seed: mixes the training rows.

    Returns:
        Row counts at each stage, rows removed by reason, and leaks found in each part by reason; the same of plain
        text, if there is any.

    Raises:
        DataError: when a source is damaged, or too few rows are left for training or for an exam.
        RunError: when something has to be fetched and cannot.
    """
    ledger = Ledger()
    with rows_beside(folder, seed) as rows:
        return _prepare(data, rows, ledger, folder)


def _prepare(data: Data, rows: Rows, ledger: Ledger, folder: Path) -> dict[str, Any]:
    pool = rows.append(_each(data.train, "train", data.cleaning, ledger, folder))
    given = rows.append(_each(data.test, "test", data.cleaning, ledger, folder))
    clean = len(rows)

    def without(chosen: Ints, gone: Ints, reason: str) -> Ints:
        ledger.remove(rows.sources(gone), reason)
        return chosen[~np.isin(chosen, gone)]

    pool = without(pool, rows.compared.repeats(pool), "exact duplicate")
    given = without(given, rows.compared.repeats(given), "exact duplicate")
    pool = without(pool, near_rows(rows.compared, pool, data.cleaning.near_duplicate), "near duplicate")
    distinct = len(pool) + len(given)

    part = np.full(len(pool), 2)
    examined = ~rows.are_from(pool, [entry.name for entry in ledger.entries.values() if not entry.exam])
    part[examined] = parts_of(rows.positions(pool[examined]), data.split)
    train, validation = pool[part == 2], rows.in_hash_order(pool[part == 1])
    validation = without(validation, rows.compared.repeats(validation, [0]), "repeated question")
    if data.test:
        train, test = pool[part != 1], rows.in_hash_order(given)
        test = without(test, rows.compared.repeats(test, [0]), "repeated question")
        check_exam("test", test, "its sources hold too few usable rows", "Add rows to data.test")
    else:
        test = rows.in_hash_order(pool[part == 0])
        test = without(test, rows.compared.repeats(test, [0]), "repeated question")
        check_exam("test", test, *_share_advice("test_share", data.split.test_share, int(examined.sum()), ledger))
    advice = _share_advice("validation_share", data.split.validation_share, int(examined.sum()), ledger)
    check_exam("validation", validation, *advice)

    def without_leaks(chosen: Ints, exam: Ints) -> tuple[Ints, Counter[str]]:
        found = leaking(rows.compared, chosen, exam, data.split.leak_similarity, data.split.leak_sides)
        for number, reason in enumerate(REASONS):
            ledger.remove(rows.sources(chosen[found == number]), f"leak: {reason}")
        return chosen[found < 0], Counter(REASONS[number] for number in found[found >= 0])

    validation, validation_leaks = without_leaks(validation, test)
    advice = (
        f"{_listed(validation_leaks)} with the test set were removed",
        f"Raise data.split.validation_share. {_ALIKE}",
    )
    check_exam("validation", validation, *advice)
    before = len(train)
    train, train_leaks = without_leaks(train, np.concatenate((test, validation)))
    _check_train(train, before, train_leaks)

    parts = {"train": rows.in_seeded_order(train), "validation": validation, "test": test}
    for part_name, chosen in parts.items():
        lines = track(rows.lines(chosen), f"writing {part_name}", total=len(chosen))
        write_lines(folder / f"{part_name}.jsonl", lines)
        ledger.keep(rows.sources(chosen), part_name)
    facts: dict[str, Any] = {
        "rows": {
            "read": sum(entry.rows_read for entry in ledger.entries.values()),
            "clean": clean,
            "distinct": distinct,
            **{name: len(chosen) for name, chosen in parts.items()},
        },
        "removed": dict(sum((entry.removed for entry in ledger.entries.values()), Counter())),
        "leaks": {"train": dict(train_leaks), "validation": dict(validation_leaks)},
    }
    if data.text:
        facts["text"] = prepare_text(data, rows.records(np.concatenate((test, validation))), folder, ledger)
    ledger.write(folder / "ledger.json")
    return facts


def prepare_text(data: Data, exam: Sequence[Record], folder: Path, ledger: Ledger) -> dict[str, Any]:
    """Clean plain text, remove duplicates and what gives the exam away, hold some out; write and describe it.

    A document is a record whose two sides are the same, so that it is compared with both sides of an exam row.
    """
    known = set(ledger.entries)
    documents = list(_each(data.text, "text", _DOCUMENTS, ledger, folder))
    names = [name for name in ledger.entries if name not in known]
    documents = _without(documents, exact_duplicates(documents), "exact duplicate", ledger)
    sides = [row.input for row in exam] + [row.output for row in exam if data.split.leak_sides == "either"]
    quotations = quoting([document.input for document in documents], sides)
    documents = _without(documents, quotations, "leak: quotation", ledger)
    # A text much longer than all of the exam's shares too small a part of itself with any of them.
    longest = max(map(len, sides)) / data.split.leak_similarity
    short = [document for document in documents if len(document.input) <= longest]
    leaking_documents = leaks(short, exam, data.split.leak_similarity, data.split.leak_sides)
    found = Counter(leaking_documents.values())
    for reason in found:
        near = (short[index].source for index, why in leaking_documents.items() if why == reason)
        ledger.remove(Counter(near), f"leak: {reason}")
    short = [document for index, document in enumerate(short) if index not in leaking_documents]
    ordered = in_hash_order([*short, *(d for d in documents if len(d.input) > longest)])
    if len(ordered) < _LEAST_DOCUMENTS:
        raise DataError(
            "data.text",
            f"{len(ordered)} documents are left of the {_LEAST_DOCUMENTS} that pretraining needs: {len(quotations)} "
            f"quoted the test or validation set, {_listed(found)}",
            "Add text, or cut it into more documents (format 'paragraphs' or 'lines')",
        )
    held_out = max(1, round(len(ordered) * data.split.validation_share))
    parts = {"validation": ordered[:held_out], "train": ordered[held_out:]}
    write_documents(folder / "text_validation.jsonl", parts["validation"])
    write_documents(folder / "text.jsonl", parts["train"])
    for part, rows in parts.items():
        ledger.keep(Counter(document.source for document in rows), part)
    entries = [ledger.entries[name] for name in names]
    return {
        "documents": {"read": sum(e.rows_read for e in entries), **{part: len(rows) for part, rows in parts.items()}},
        "removed": dict(sum((entry.removed for entry in entries), Counter())),
        "leaks": {"quotation": len(quotations), **found},
        "weights": {name: source.weight for name, source in zip(names, data.text, strict=True)},
    }


def _each(sources: Iterable[AnySource], role: Role, rules: Cleaning, ledger: Ledger, folder: Path) -> Iterator[Record]:
    """Yield the clean rows of the sources; each source is in the ledger once its rows were read."""
    for source in sources:
        with open_source(source) as reading:
            name = ledger.free_name(reading.name)
            removed: Counter[str] = Counter()
            for asked, wanted in cleaned(track(reading.table, f"reading {name}"), rules, removed):
                yield Record(asked, wanted, name)
        ledger.add(
            Entry(
                name=name,
                role=role,
                reference=reading.reference,
                origin=reading.origin,
                sha256=reading.sha256,
                licence=source.licence,
                attribution=source.attribution,
                rows_read=reading.table.read,
                removed=reading.table.removed + removed,
                exam=source.exam,
                papers=[keep_paper(paper, source.source, source.licence, folder) for paper in reading.papers],
            )
        )


def _without(records: list[Record], indices: Iterable[int], reason: str, ledger: Ledger) -> list[Record]:
    gone = set(indices)
    ledger.remove(Counter(records[index].source for index in gone), reason)
    return [record for index, record in enumerate(records) if index not in gone]


def check_exam(part: str, rows: Sized, why: str, fix: str) -> None:
    """Raise DataError when an exam has too few rows."""
    if len(rows) < MIN_EXAM_ROWS:
        raise DataError(
            f"the {part} set", f"{len(rows)} rows are left of the {MIN_EXAM_ROWS} an exam needs: {why}", fix
        )


def _check_train(train: Ints, before: int, found: Counter[str]) -> None:
    if len(train):
        return
    if not before:
        raise DataError("training", "no row is left after cleaning and splitting", "Add rows, or lower the shares")
    raise DataError(
        "training",
        f"all {before} rows leak the test or validation set ({_listed(found)})",
        f"Take the test set from other text than the training set. {_ALIKE}",
    )


def _share_advice(key: str, share: float, rows: int, ledger: Ledger) -> tuple[str, str]:
    """Say why an exam is too small, and what to do: of so many distinct rows that it may be drawn from."""
    if not any(entry.exam for entry in ledger.entries.values()):
        return "every source has exam = false", "Remove that from a source whose rows are fair questions"
    removed = sum((entry.removed for entry in ledger.entries.values() if entry.exam), Counter[str]())
    gone = f"; removed were {_listed(Counter(dict(removed.most_common(3))))}" if removed else ""
    wanted = round(max(1.5 * MIN_EXAM_ROWS / max(rows, 1), 1.5 * share) + 0.005, 2)
    fix = f"Set data.split.{key} to {wanted} or more" if wanted < 0.3 else "Add rows: a few hundred at least"
    return f"the sources hold {rows} usable, distinct rows that may be examined{gone}", fix


def _listed(found: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in found.most_common()) or "no rows"
