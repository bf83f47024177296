"""Rivals: other released models that sit the job's exam, each with the best prompt found for it.

A rival has a folder ``rivals/NAME`` with one for each of its steps. Its ``prompt`` is chosen before the job's model is
trained, so that a rival that cannot be had is told early. Its ``answers``, and in a job about facts those with their
``confidence``, outlive every training; only the ``comparison`` is about the job's model, too.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from metier.artifact import Step
from metier.evaluate.answers import read_answers
from metier.model.bases import content_of, find_base
from metier.progress import say
from metier.spec.job import Job
from metier.steps import confidence, exam
from metier.steps.prompt import decided, decided_by, exams, try_prompts
from metier.tasks.prompt import PromptFormat

_BYTES_A_PIECE = 4
"""A rival that lacks the pieces of a script writes it in bytes, up to so many for a piece of the job's own model."""

RunStep = Callable[[str, dict[str, Any], Callable[[Path], Any]], Step]
"""Runs a step: its folder below the run folder, what it depends on, its work."""


def prompted(job: Job, data: Step, step: RunStep) -> dict[str, Step]:
    """Choose a prompt for every rival; return the steps by the rivals' names.

    Args:
        job: the job description.
        data: the step with the rows.
        step: runs a step in the run folder.

    Raises:
        ArtifactError: when a rival is no model, damaged, or of an unsupported architecture.
        RunError: when it cannot be fetched.
    """
    needed: dict[str, Any] = {
        "task": job.task_settings,
        "rows": [data.hashes[f"{part}.jsonl"] for part in ("train", "validation")],
        "max_tokens": job.train.max_tokens,
    }
    found = {}
    for name, reference in job.rivals.items():
        tried = {**needed, "model": content_of(reference)}
        choose = partial(_choose, job, data.folder, reference, tried)
        found[name] = step(f"rivals/{name}/prompt", {**tried, "exams": exams(data)}, choose)
    return found


def met(
    job: Job,
    data: Path,
    prompts: Mapping[str, Step],
    asked: Mapping[str, Any],
    sure: Mapping[str, Step],
    examined: Step,
    ours: Path,
    step: RunStep,
) -> dict[str, dict[str, Any]]:
    """Ask every rival the test set and compare its answers with those of the job's model.

    Args:
        job: the job description.
        data: the folder of the rows.
        prompts: what `prompted` returned.
        asked: what anybody's answers depend on, and ``timed``, the format in which the speed of all is measured.
        sure: in a job about facts, what `asked_surely` returned: what is in there is not asked again.
        examined: the step in which the job's model was examined.
        ours: the answers of the job's model.
        step: runs a step in the run folder.

    Returns:
        For each rival, by name, a ``contestant`` and its ``comparison`` with the job's model, as JSON values.
    """
    test, timed = exam.exam_in(job, data), PromptFormat.from_json(asked["timed"])
    found = {}
    for name, prompt in prompts.items():
        rival = released(job, name, prompt)
        asked_before = sure.get(name)
        with_likelihood = {"sure": asked_before.key} if asked_before else {}
        answers = step(
            f"rivals/{name}/answers",
            {**asked, "prompt": decided_by(prompt), **with_likelihood},
            partial(_ask, job, rival, timed, test, asked_before),
        )
        compared = step(
            f"rivals/{name}/comparison",
            {"exam": examined.key, "answers": answers.key},
            partial(_compare, job, test, ours, _answers(asked_before, answers.folder)),
        )
        found[name] = {"contestant": answers.result, "comparison": compared.result}
    return found


def asked_surely(
    job: Job, data: Path, prompts: Mapping[str, Step], asked: Mapping[str, Any], step: RunStep
) -> dict[str, Step]:
    """Ask every rival of a job about facts what it knows; return the steps by the rivals' names.

    Args:
        job: the job description.
        data: the folder of the rows.
        prompts: what `prompted` returned.
        asked: what anybody's answers depend on.
        step: runs a step in the run folder.
    """
    return {
        name: step(
            f"rivals/{name}/confidence",
            {**asked, "prompt": decided_by(prompt), **confidence.asked_in(job.rivals[name])},
            partial(confidence.ask_released, job, data, released(job, name, prompt)),
        )
        for name, prompt in prompts.items()
    }


def released(job: Job, name: str, prompt: Step) -> exam.Released:
    """Return a rival as a contestant.

    Args:
        job: the job description.
        name: what the rival is called.
        prompt: its step ``prompt``.
    """
    context = exam.context_for(job, prompt.result["longest"])
    return exam.Released(name, job.rivals[name], PromptFormat.from_json(prompt.result["prompt"]), context)


def _choose(job: Job, data: Path, reference: str, tried: dict[str, Any], _: Path) -> dict[str, Any]:
    base = find_base(reference)
    longest = _BYTES_A_PIECE * job.train.max_tokens
    found = try_prompts(job, data, base.folder, longest, chat_with_examples=True)
    best = min(found, key=lambda candidate: candidate.loss_nats)
    say(f"  asked with: {best.prompt.name}")
    return {
        "reference": reference,
        "origin": base.origin,
        "licence": base.licence,
        "sha256": base.sha256,
        "prompt": best.prompt.to_json(),
        "longest": best.longest,
        "candidates": [candidate.to_json() for candidate in found],
        **decided(tried, data),
    }


def _ask(
    job: Job, rival: exam.Released, timed: PromptFormat, test: exam.Exam, sure: Step | None, folder: Path
) -> dict[str, Any]:
    return asdict(exam.ask_released(job, rival, timed, test, _answers(sure, folder)))


def _compare(job: Job, test: exam.Exam, ours: Path, theirs: Path, _: Path) -> dict[str, Any]:
    return asdict(exam.against(job, test, ours, read_answers(theirs)))


def _answers(sure: Step | None, folder: Path) -> Path:
    return exam.answers_at(sure.folder if sure else None, folder, "answers.jsonl")
