"""The step ``data``: rows or facts are read, and become what is learned and what is asked."""

from pathlib import Path
from typing import Any

from metier.artifact import Step
from metier.data.facts.opened import fingerprint as fingerprint_of_facts
from metier.data.prepare import prepare
from metier.data.questions import prepare as questions
from metier.data.sources import fingerprint
from metier.spec.data import AnySource
from metier.spec.facts import FactSource
from metier.spec.job import Job

_LEARNED = ("train.jsonl", "validation.jsonl", "text.jsonl", "text_validation.jsonl")
"""Files of rows that models come from."""


def sources(job: Job) -> dict[str, Any]:
    """Return what the step depends on. Raises DataError when a local file is missing."""
    by_role = {role: [_fingerprint(source) for source in these] for role, these in job.sources.items()}
    return {**job.row_settings, **by_role, **(questions.rules() if job.task == "qa" else {})}


def _fingerprint(source: AnySource | FactSource) -> dict[str, Any]:
    return fingerprint_of_facts(source) if isinstance(source, FactSource) else fingerprint(source)


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
