"""The step ``data``: rows or facts are read, and become what is learned and what is asked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metier.artifact import Step
from metier.data.prepare import prepare
from metier.data.questions import prepare as questions
from metier.data.sources import fingerprint
from metier.spec.data import AnySource
from metier.spec.job import Job

_LEARNED = ("train.jsonl", "validation.jsonl", "text.jsonl", "text_validation.jsonl")
"""Files of rows that models come from."""


def sources(job: Job) -> dict[str, Any]:
    """Return what the step depends on. Raises DataError when a local file is missing."""
    if job.task == "qa":
        return questions.inputs(job.data, job.qa, job.seed)
    by_role: dict[str, Sequence[AnySource]] = {"train": job.data.train, "test": job.data.test}
    if job.data.text:
        by_role["text"] = job.data.text
    return {
        "cleaning": job.data.cleaning.model_dump(),
        "split": job.data.split.model_dump(),
        **{role: [fingerprint(source) for source in these] for role, these in by_role.items()},
        "seed": job.seed,
    }


def prepare_data(job: Job, folder: Path) -> dict[str, Any]:
    """Write rows, exams and ledger into the folder; return what was counted."""
    if job.task == "qa":
        return questions.prepare_questions(job.data, job.qa, folder, seed=job.seed)
    return prepare(job.data, folder, seed=job.seed)


def store_of(folder: Path) -> Path | None:
    """Return the fact store in the folder of the rows; None where the job is not about facts."""
    store = folder / questions.STORE
    return store if store.is_file() else None


def learned_rows(data: Step) -> dict[str, str]:
    """Return the hashes of the files of rows that models come from.

    What is learned depends on them, and not on what the ledger says of their licences.
    """
    return {name: digest for name, digest in data.hashes.items() if name in _LEARNED}
