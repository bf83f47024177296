"""Measure a newcomer's examples: which rules for duplicates, leaks and lengths leave enough of them to learn from."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from metier.data.clean import RATIO_SLACK_CHARS, clean, normalise
from metier.data.duplicates import exact_duplicates, near_duplicates
from metier.data.examples import look_at
from metier.data.leaks import Sides, leaks
from metier.data.prepare import MIN_EXAM_ROWS
from metier.data.records import Record
from metier.data.sources import open_source
from metier.data.split import first_of_each_input, split
from metier.spec.data import Cleaning, Source, Split
from metier.spec.examples import Examples, Rules, exam_share
from metier.spec.outcome import TEST_ROWS, VALIDATION_ROWS

_MAX_LOST = 0.3
"""A stricter rule is not worth more of the rows than this."""

_MEASURED_ROWS = 20_000
_UNUSUAL = 0.02
"""Share of the rows whose lengths no limit has to allow for."""

_NO_RATIO = 1000.0
_LENGTHS = (1000, 2000)
_ANSWER_BYTES = 384
"""About as much as the default of evaluate.max_answer_tokens holds, at three bytes a token."""

_SHARES = (0.3, 0.4)
_SIMILARITIES = (0.5, 0.8, 1.0)


class _Parts(NamedTuple):
    train: list[Record]
    validation: list[Record]
    test: list[Record]


def study(path: Path, task: str, languages: tuple[str, str] | None, columns: Sequence[str]) -> tuple[Examples, Rules]:
    """Return what a file of examples holds and which rules fit it; of facts no rules are measured.

    Args:
        path: a csv, tsv or jsonl file.
        task: the job's.
        languages: codes of a translation's two.
        columns: those that a table of facts has; none for rows.

    Raises:
        DataError: when the file cannot be used.
    """
    found = look_at(path, languages, columns)
    return found, Rules.without_measuring(found.rows) if columns else fit(path, found, task)


def fit(path: Path, found: Examples, task: str) -> Rules:
    """Return rules under which the examples make a job, and what was measured to find them.

    For each rule the strictest value is taken that costs at most `_MAX_LOST` of the rows; a large file is measured
    on a sample. A translation is looked at on both sides always.

    Raises:
        DataError: when the file cannot be read.
    """
    source = Source(
        source=f"file:{path.resolve()}",
        licence="own",
        format=found.format,  # type: ignore[arg-type]
        header=found.header if found.format != "jsonl" else None,
        input=found.input,
        output=found.output,
        encoding=found.encoding,
        delimiter=found.delimiter,  # type: ignore[arg-type]
    )
    with open_source(source) as reading:
        different, pairs = _sample(reading.table)
    thinned = different > len(pairs)
    lengths = [(len(normalise(asked)), len(normalise(wanted))) for asked, wanted in pairs]
    max_chars, max_ratio = _length_rules(lengths)
    rows = [Record(*pair) for pair in clean(pairs, Cleaning(max_chars=max_chars, max_ratio=max_ratio))[0]]
    rows = _without(rows, exact_duplicates(rows))
    if not rows:
        return Rules.without_measuring(0)._replace(enough=False)
    long_answers = sum(len(row.output.encode()) > _ANSWER_BYTES for row in rows)
    near, near_note = _duplicate_rule(rows)
    rows = _without(rows, near_duplicates(rows, near))
    usable = round(len(rows) * different / len(pairs))
    share, parts = _exams(rows, usable)
    similarity, sides, leak_note = _leak_rule(parts, task)
    defaults = Rules.without_measuring(usable)
    validation = _without(parts.validation, leaks(parts.validation, parts.test, similarity, sides))
    return Rules(
        usable=usable,
        max_chars=max_chars,
        max_ratio=max_ratio,
        max_tokens=256 * max_chars // _LENGTHS[0],
        max_answer_tokens=128 if long_answers <= _UNUSUAL * len(rows) else 256,
        near_duplicate=near,
        leak_similarity=similarity,
        leak_sides=sides,
        share=share,
        validation_rows=defaults.validation_rows if thinned else _within(len(validation), VALIDATION_ROWS),
        test_rows=defaults.test_rows if thinned else _within(len(parts.test), TEST_ROWS),
        notes={"cleaning": near_note, "split": leak_note},
        enough=min(len(validation), len(parts.test)) >= MIN_EXAM_ROWS,
    )


def _sample(pairs: Iterable[tuple[str, str]]) -> tuple[int, list[tuple[str, str]]]:
    """Return the number of different pairs, and a sample of them by hash in their order: all, where they are few."""
    seen: set[bytes] = set()

    def different() -> Iterator[tuple[bytes, int, tuple[str, str]]]:
        for number, pair in enumerate(pairs):
            digest = sha256("\n".join(pair).encode("utf-8", "surrogatepass")).digest()[:8]
            if digest not in seen:
                seen.add(digest)
                yield digest, number, pair

    sample = heapq.nsmallest(_MEASURED_ROWS, different())
    return len(seen), [pair for _, _, pair in sorted(sample, key=lambda one: one[1])]


def _length_rules(lengths: Sequence[tuple[int, int]]) -> tuple[int, float]:
    """Return the smallest limits that all but a few rows keep: the longest side, and the ratio of the sides."""
    allowed = _UNUSUAL * len(lengths)
    default = Cleaning().max_ratio
    uneven = sum(max(both) > default * min(both) + RATIO_SLACK_CHARS for both in lengths if min(both))
    fitting = (most for most in _LENGTHS if sum(max(both) > most for both in lengths) <= allowed)
    return next(fitting, _LENGTHS[-1]), default if uneven <= allowed else _NO_RATIO


def _duplicate_rule(rows: Sequence[Record]) -> tuple[float, str]:
    strict = Cleaning().near_duplicate
    lost = len(near_duplicates(rows, strict)) / len(rows)
    if lost <= _MAX_LOST:
        return strict, f"{lost:.0%} of the rows are near duplicates at {strict:g}"
    return 1.0, f"at {strict:g}, {lost:.0%} of the rows would be removed as near duplicates: they are alike on purpose"


def _exams(rows: Sequence[Record], usable: int) -> tuple[float, _Parts]:
    """Return the share of each exam and the parts; more than usual where chance leaves an exam too small."""
    share = exam_share(usable)
    parts = _split(rows, share)
    for more in _SHARES:
        if min(len(parts.validation), len(parts.test)) < 1.5 * MIN_EXAM_ROWS and usable == len(rows):
            share, parts = more, _split(rows, more)
    return share, parts


def _split(rows: Sequence[Record], share: float) -> _Parts:
    train, validation, test = split(rows, Split(validation_share=share, test_share=share))
    return _Parts(train, first_of_each_input(validation)[0], first_of_each_input(test)[0])


def _leak_rule(parts: _Parts, task: str) -> tuple[float, Sides, str]:
    """Return the strictest similarity and sides that leave enough rows, and what the strictest of all costs."""
    sides: tuple[Sides, ...] = ("either",) if task == "translation" else ("either", "input")
    costs = []
    for similarity in _SIMILARITIES:
        for side in sides:
            train = _lost(parts.train, parts.validation + parts.test, similarity, side)
            cost = max(train, _lost(parts.validation, parts.test, similarity, side))
            costs.append((similarity, side, cost))
            if cost <= _MAX_LOST:
                return similarity, side, _leak_note(costs)
    return costs[-1][0], costs[-1][1], _leak_note(costs)


def _lost(rows: Sequence[Record], exam: Sequence[Record], similarity: float, sides: Sides) -> float:
    return len(leaks(rows, exam, similarity, sides)) / max(len(rows), 1)


def _leak_note(costs: Sequence[tuple[float, Sides, float]]) -> str:
    said = [f"{cost:.0%} with {similarity:g} on {side!r}" for similarity, side, cost in costs]
    return f"rows removed as leaks: {', '.join(said)}"


def _without(rows: Sequence[Record], indices: Iterator[int] | Sequence[int] | dict[int, str]) -> list[Record]:
    gone = set(indices)
    return [row for index, row in enumerate(rows) if index not in gone]


def _within(rows: int, most: int) -> int:
    return max(MIN_EXAM_ROWS, min(rows, most))
