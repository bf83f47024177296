"""The data step: sources to three clean, separate parts and a ledger."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from metier.data.clean import clean
from metier.data.duplicates import exact_duplicates, near_duplicates
from metier.data.leaks import count_leaks, leaks, quoting
from metier.data.ledger import Entry, Ledger
from metier.data.records import Record, write_documents, write_records
from metier.data.sources import fingerprint, read_source
from metier.data.split import first_of_each_input, in_hash_order, in_seeded_order, split
from metier.errors import DataError
from metier.progress import track
from metier.spec.job import AnySource, Cleaning, Data, Split

__all__ = ["MIN_EXAM_ROWS", "count_leaks", "fingerprint", "prepare"]

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
    ``text_validation.jsonl``. Validation and test come
    in hash order: their first n rows are a stable sample. The parts do not depend on the seed; the order of
    the training rows does.

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
    pool = _read(data.train, "train", data.cleaning, ledger)
    given = _read(data.test, "test", data.cleaning, ledger)
    cleaned = len(pool) + len(given)

    pool = _without(pool, exact_duplicates(pool), "exact duplicate", ledger)
    given = _without(given, exact_duplicates(given), "exact duplicate", ledger)
    pool = _without(pool, near_duplicates(pool, data.cleaning.near_duplicate), "near duplicate", ledger)
    distinct = len(pool) + len(given)

    train, validation, test = split(pool, data.split, test=not data.test)
    validation, again = first_of_each_input(validation)
    ledger.remove(again, "repeated question")
    test, again = first_of_each_input(test)
    ledger.remove(again, "repeated question")
    if data.test:
        test = in_hash_order(given)
        _check_exam("test", test, "its sources hold too few usable rows", "Add rows to data.test")
    else:
        _check_exam("test", test, *_share_advice("test_share", len(pool)))
    _check_exam("validation", validation, *_share_advice("validation_share", len(pool)))

    validation, validation_leaks = _without_leaks(validation, test, data.split, ledger)
    advice = (
        f"{_listed(validation_leaks)} with the test set were removed",
        f"Raise data.split.validation_share. {_ALIKE}",
    )
    _check_exam("validation", validation, *advice)
    before = len(train)
    train, train_leaks = _without_leaks(train, test + validation, data.split, ledger)
    _check_train(train, before, train_leaks)

    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": in_seeded_order(train, seed), "validation": validation, "test": test}
    for part, rows in parts.items():
        write_records(folder / f"{part}.jsonl", rows)
    ledger.keep(train, "train")
    ledger.keep(validation, "validation")
    ledger.keep(test, "test")
    facts: dict[str, Any] = {
        "rows": {
            "read": sum(entry.rows_read for entry in ledger.entries.values()),
            "clean": cleaned,
            "distinct": distinct,
            **{part: len(rows) for part, rows in parts.items()},
        },
        "removed": dict(sum((entry.removed for entry in ledger.entries.values()), Counter())),
        "leaks": {"train": dict(train_leaks), "validation": dict(validation_leaks)},
    }
    if data.text:
        facts["text"] = _prepare_text(data, test + validation, folder, ledger)
    ledger.write(folder / "ledger.json")
    return facts


def _prepare_text(data: Data, exam: Sequence[Record], folder: Path, ledger: Ledger) -> dict[str, Any]:
    """Clean plain text, remove duplicates and what gives the exam away, hold some out; write and describe it.

    A document is a record whose two sides are the same, so that it is compared with both sides of an exam row.
    """
    known = set(ledger.entries)
    documents = _read(data.text, "text", _DOCUMENTS, ledger)
    names = [name for name in ledger.entries if name not in known]
    documents = _without(documents, exact_duplicates(documents), "exact duplicate", ledger)
    sides = [row.input for row in exam] + [row.output for row in exam if data.split.leak_sides == "either"]
    quotations = quoting([document.input for document in documents], sides)
    documents = _without(documents, quotations, "leak: quotation", ledger)
    # A text much longer than all of the exam's shares too small a part of itself with any of them.
    longest = max(map(len, sides)) / data.split.leak_similarity
    short, found = _without_leaks([d for d in documents if len(d.input) <= longest], exam, data.split, ledger)
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
        ledger.keep(rows, part)
    entries = [ledger.entries[name] for name in names]
    return {
        "documents": {"read": sum(e.rows_read for e in entries), **{part: len(rows) for part, rows in parts.items()}},
        "removed": dict(sum((entry.removed for entry in entries), Counter())),
        "leaks": {"quotation": len(quotations), **found},
        "weights": {name: source.weight for name, source in zip(names, data.text, strict=True)},
    }


def _read(sources: Iterable[AnySource], role: Any, rules: Cleaning, ledger: Ledger) -> list[Record]:
    records: list[Record] = []
    for source in sources:
        reading = read_source(source)
        name = ledger.free_name(reading.name)
        pairs = track(reading.table.pairs, f"cleaning {name}", total=len(reading.table.pairs))
        kept, removed = clean(pairs, rules)
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
            )
        )
        records += (Record(input, output, name) for input, output in kept)
    return records


def _without(records: list[Record], indices: Iterable[int], reason: str, ledger: Ledger) -> list[Record]:
    gone = set(indices)
    ledger.remove((records[index] for index in gone), reason)
    return [record for index, record in enumerate(records) if index not in gone]


def _without_leaks(
    rows: list[Record], exam: Sequence[Record], rules: Split, ledger: Ledger
) -> tuple[list[Record], Counter[str]]:
    found = leaks(rows, exam, rules.leak_similarity, rules.leak_sides)
    for index, reason in found.items():
        ledger.remove([rows[index]], f"leak: {reason}")
    return [row for index, row in enumerate(rows) if index not in found], Counter(found.values())


def _check_exam(part: str, rows: Sequence[Record], why: str, fix: str) -> None:
    if len(rows) < MIN_EXAM_ROWS:
        raise DataError(
            f"the {part} set", f"{len(rows)} rows are left of the {MIN_EXAM_ROWS} an exam needs: {why}", fix
        )


def _check_train(train: Sequence[Record], before: int, found: Counter[str]) -> None:
    if train:
        return
    if not before:
        raise DataError("training", "no row is left after cleaning and splitting", "Add rows, or lower the shares")
    raise DataError(
        "training",
        f"all {before} rows leak the test or validation set ({_listed(found)})",
        f"Take the test set from other text than the training set. {_ALIKE}",
    )


def _share_advice(key: str, rows: int) -> tuple[str, str]:
    wanted = round(1.5 * MIN_EXAM_ROWS / max(rows, 1) + 0.005, 2)
    fix = f"Set data.split.{key} to {wanted} or more" if wanted < 0.3 else "Add rows: a few hundred at least"
    return f"the sources hold {rows} usable, distinct rows", fix


def _listed(found: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in found.most_common()) or "no rows"
