"""Asking: what a contestant is, and an exam that goes on where it was killed."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from metier.artifact import write_atomically
from metier.data.records import Record
from metier.errors import RunError
from metier.progress import bar


class Answer(NamedTuple):
    """What a contestant says, and the natural logarithm of its own probability of saying it, if that was asked for."""

    text: str
    logprob: float | None = None


class Answerer(Protocol):
    """A contestant: anything that answers a list of questions."""

    name: str

    def answer(self, questions: Sequence[str], *, likely: bool = False) -> Sequence[tuple[str, float | None]]:
        """Return one answer for each question, in order; with its log-probability, in nats, where that is asked for."""
        ...


def collect(
    answerer: Answerer, records: Sequence[Record], path: Path, chunk_rows: int = 64, *, likely: bool = False
) -> list[Answer]:
    """Ask a contestant the inputs of all records, keeping every finished chunk on disk.

    A killed exam goes on at the first unfinished chunk, with the same chunks as before, because some
    contestants answer slightly differently in other batches. A file that is not about these records is
    started over, and so is one that does not say how likely its answers are where that is asked for.

    Args:
        answerer: the contestant; it sees inputs only, never references.
        records: the exam.
        path: the answers, one JSON object a line: ``input``, ``output`` (the reference), ``answer`` and, where it was
            asked for, ``logprob``.
        chunk_rows: how many questions are asked at a time.
        likely: whether to ask how likely each answer is, which takes longer.

    Returns:
        One answer for each record, in order.

    Raises:
        RunError: when the file cannot be read or written.
        ValueError: when the contestant returns another number of answers than it was asked questions.
    """
    try:
        answers = _resume(path, records, chunk_rows, likely)
        with path.open("ab") as file, bar() as progress:
            asking = progress.add_task(f"exam of {answerer.name}", total=len(records), completed=len(answers))
            for start in range(len(answers), len(records), chunk_rows):
                chunk = records[start : start + chunk_rows]
                found = [Answer(*said) for said in answerer.answer([one.input for one in chunk], likely=likely)]
                if len(found) != len(chunk):
                    raise ValueError(f"{answerer.name} gave {len(found)} answers to {len(chunk)} questions")
                file.write(b"".join(map(_line, chunk, found)))
                file.flush()
                os.fsync(file.fileno())
                answers += found
                progress.advance(asking, len(chunk))
    except OSError as error:
        raise RunError(
            str(path), f"the answers cannot be kept ({error})", "Free disk space there and run the command again"
        ) from error
    return answers


def read_answers(path: Path) -> list[str]:
    """Return the answers that a finished exam kept."""
    return [answer.text for answer in read_surely(path)]


def read_surely(path: Path) -> list[Answer]:
    """Return the answers that a finished exam kept, with their log-probabilities where it kept those."""
    rows = (json.loads(line) for line in path.read_bytes().split(b"\n") if line)
    return [Answer(row["answer"], row.get("logprob")) for row in rows]


def _line(record: Record, answer: Answer) -> bytes:
    row = {"input": record.input, "output": record.output, "answer": answer.text}
    likely = {} if answer.logprob is None else {"logprob": answer.logprob}
    # UTF-8 has no lone surrogates; written with a backslash they are JSON's own escape for them.
    return (json.dumps({**row, **likely}, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _resume(path: Path, records: Sequence[Record], chunk_rows: int, likely: bool) -> list[Answer]:
    """Cut the file back to its whole, matching chunks and return the answers in them."""
    content = path.read_bytes() if path.exists() else b""
    lines = content.split(b"\n")[:-1]  # what follows the last line end is torn, or nothing
    answers = _answers(lines, records, likely)
    if len(answers) < len(records):
        del answers[len(answers) - len(answers) % chunk_rows :]
    kept = b"".join(line + b"\n" for line in lines[: len(answers)])
    if kept != content or not path.exists():
        write_atomically(path, kept)
    return answers


def _answers(lines: Sequence[bytes], records: Sequence[Record], likely: bool) -> list[Answer]:
    """Return the answers on the lines; none at all where a line is not about its record, or lacks a likelihood."""
    if len(lines) > len(records):
        return []
    answers = []
    for line, record in zip(lines, records, strict=False):
        try:
            row = json.loads(line)
            text, logprob = row["answer"], row.get("logprob")
        except (ValueError, TypeError, KeyError, AttributeError):
            return []
        unlikely = likely and not (isinstance(logprob, float) and math.isfinite(logprob))
        answer = Answer(text, logprob)
        if not isinstance(text, str) or unlikely or _line(record, answer) != line + b"\n":
            return []
        answers.append(answer)
    return answers
