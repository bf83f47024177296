"""The step ``confidence``: a job about facts is asked what it knows and what it cannot know, with log-probabilities.

Only the answers are kept in the step. What is measured of them, and the threshold that a risk asks for, is worked out
anew at every build, so that another risk asks nobody again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metier.evaluate.answers import Answerer, collect, read_surely
from metier.evaluate.confidence import Asked, Knowledge, asked, knowledge_of
from metier.export.contestants import ShippedFile
from metier.model.bases import is_file
from metier.run.engine import Engine
from metier.spec.estimates import session_tokens
from metier.spec.job import Job
from metier.steps.answering import SLOTS
from metier.steps.data import store_of
from metier.steps.exam import TEST, Released, names_of, opened, rows_and_abouts

_VALIDATION = ("validation.jsonl", "validation_unknown.jsonl")
"""Exams to calibrate on: with an answer, and without one."""
_TEST = (TEST, "test_unknown.jsonl")
"""Exams to measure on."""
EXAMS = (*_VALIDATION, *_TEST)


def ask(job: Job, data: Path, answerer: Answerer, folder: Path) -> dict[str, Any]:
    """Ask a contestant all four exams; return how many questions that were.

    Args:
        job: the job description.
        data: the folder of the rows.
        answerer: the contestant.
        folder: where the answers are kept, so that a killed exam goes on.
    """
    exams = {exam: rows_and_abouts(data / exam, job.evaluate.test_rows)[0] for exam in EXAMS}
    for exam, rows in exams.items():
        collect(answerer, rows, folder / exam, likely=True)
    return {"asked": sum(map(len, exams.values()))}


def ask_shipped(job: Job, data: Path, shipped: Path, folder: Path) -> dict[str, Any]:
    """Ask the chosen file, through its own template; arguments else as in `ask`."""
    with Engine(shipped, slots=SLOTS, context_tokens=session_tokens(job)) as engine:
        return ask(job, data, ShippedFile(job.name, engine, job.evaluate.max_answer_tokens), folder)


def asked_in(reference: str) -> dict[str, str]:
    """Return what the key of a released model's step says of where it is asked: nothing of llama.cpp.

    Args:
        reference: the model.
    """
    return {} if is_file(reference) else {"asked_in": "transformers"}


def ask_released(job: Job, data: Path, released: Released, folder: Path) -> dict[str, Any]:
    """Ask a released model; arguments else as in `ask`."""
    with opened(released, job.evaluate.max_answer_tokens) as contestant:
        return ask(job, data, contestant, folder)


def knowledge(job: Job, data: Path, name: str, folder: Path) -> Knowledge:
    """Return what a contestant knows, by the answers kept in a folder, at the risk that the job states now.

    Args:
        job: the job description.
        data: the folder of the rows.
        name: what the contestant is called.
        folder: where `ask` kept the answers.

    Raises:
        DataError: when an exam has no rows, or its rows and what they are about do not belong together.
    """

    def answered(exam: str) -> list[Asked]:
        rows, abouts = rows_and_abouts(data / exam, job.evaluate.test_rows)
        also = names_of(store_of(data), abouts)
        return asked(rows, read_surely(folder / exam), abouts, job.qa.unknown, also)

    validation, test = _mixed_alike([(answered(known), answered(unknown)) for known, unknown in (_VALIDATION, _TEST)])
    return knowledge_of(name, validation, test, job.qa.risk)


def _mixed_alike(exams: Sequence[tuple[list[Asked], list[Asked]]]) -> list[list[Asked]]:
    """Return exams of known questions and as many unknown ones for each of these: as the exam with fewest has them."""
    share = min((len(unknown) / len(known) for known, unknown in exams if known), default=0.0)
    return [[*known, *unknown[: round(share * len(known))]] for known, unknown in exams]
