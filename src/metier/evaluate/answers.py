"""Asking: what a contestant is, and an exam that goes on where it was killed."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from metier.artifact import write_atomically
from metier.data.records import Record
from metier.errors import RunError
from metier.progress import bar


class Answerer(Protocol):
    """A contestant: anything that answers a list of questions."""

    name: str

    def answer(self, questions: Sequence[str]) -> list[str]:
        """Return one answer for each question, in order."""
        ...


def collect(answerer: Answerer, records: Sequence[Record], path: Path, chunk_rows: int = 64) -> list[str]:
    """Ask a contestant the inputs of all records, keeping every finished chunk on disk.

    A killed exam goes on at the first unfinished chunk, with the same chunks as before, because some
    contestants answer slightly differently in other batches. A file that is not about these records is
    started over.

    Args:
        answerer: the contestant; it sees inputs only, never references.
        records: the exam.
        path: the answers, one JSON object a line: ``input``, ``output`` (the reference) and ``answer``.
        chunk_rows: how many questions are asked at a time.

    Returns:
        One answer for each record, in order.

    Raises:
        RunError: when the file cannot be read or written.
        ValueError: when the contestant returns another number of answers than it was asked questions.
    """
    try:
        answers = _resume(path, records, chunk_rows)
        with path.open("ab") as file, bar() as progress:
            asking = progress.add_task(f"exam of {answerer.name}", total=len(records), completed=len(answers))
            for start in range(len(answers), len(records), chunk_rows):
                chunk = records[start : start + chunk_rows]
                found = _ask(answerer, chunk)
                file.write(b"".join(map(_line, chunk, found)))
                file.flush()
                os.fsync(file.fileno())
                answers += found
                progress.advance(asking, len(chunk))
    except OSError as error:
        raise RunError(
            str(path), f"the answers cannot be kept ({error})", "Make room there and run the command again"
        ) from error
    return answers


def read_answers(path: Path) -> list[str]:
    """Return the answers that a finished exam kept."""
    return [json.loads(line)["answer"] for line in path.read_bytes().split(b"\n") if line]


def _ask(answerer: Answerer, chunk: Sequence[Record]) -> list[str]:
    answers = answerer.answer([record.input for record in chunk])
    if len(answers) != len(chunk):
        raise ValueError(f"{answerer.name} gave {len(answers)} answers to {len(chunk)} questions")
    return answers


def _line(record: Record, answer: str) -> bytes:
    row = {"input": record.input, "output": record.output, "answer": answer}
    # UTF-8 has no lone surrogates; written with a backslash they are JSON's own escape for them.
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _resume(path: Path, records: Sequence[Record], chunk_rows: int) -> list[str]:
    """Cut the file back to its whole, matching chunks and return the answers in them."""
    content = path.read_bytes() if path.exists() else b""
    lines = content.split(b"\n")[:-1]  # what follows the last line end is torn, or nothing
    answers = _answers(lines, records)
    if len(answers) < len(records):
        del answers[len(answers) - len(answers) % chunk_rows :]
    kept = b"".join(line + b"\n" for line in lines[: len(answers)])
    if kept != content or not path.exists():
        write_atomically(path, kept)
    return answers


def _answers(lines: Sequence[bytes], records: Sequence[Record]) -> list[str]:
    """Return the answers on the lines, or none at all when a line is not about its record."""
    if len(lines) > len(records):
        return []
    answers = []
    for line, record in zip(lines, records, strict=False):
        try:
            answer = json.loads(line)["answer"]
        except (ValueError, TypeError, KeyError):
            return []
        if not isinstance(answer, str) or _line(record, answer) != line + b"\n":
            return []
        answers.append(answer)
    return answers
