"""The steps ``base`` and ``exam``: the base and the chosen file on the test set, each asked once; and the verdict.

Where no file was asked for, the checkpoint takes its place; it is not released. The verdict is no part of a step: what
a job demands may change without anybody being asked again.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from metier.artifact import Step
from metier.data.questions.about import About, about_path, read_about
from metier.data.records import Record, read_records
from metier.errors import DataError
from metier.evaluate.answers import collect, read_answers
from metier.evaluate.candidates import Candidate
from metier.evaluate.confidence import Knowledge
from metier.evaluate.metrics import score
from metier.evaluate.significance import Comparison, compare
from metier.evaluate.verdict import Contestant, Licences, Limit, Parity, Verdict, decide
from metier.export.contestants import PromptedFile, ShippedFile, tokens_per_s
from metier.export.parity import AGREEMENT
from metier.facts import names
from metier.facts.answers import RULES, settled
from metier.facts.store import Store, open_store
from metier.model.answer import Checkpoint
from metier.model.bases import find_base
from metier.model.loading import load_fast
from metier.run.engine import Engine
from metier.spec.contestants import BASE
from metier.spec.estimates import SESSION_TOKENS, session_tokens
from metier.spec.job import Job
from metier.steps.answering import SLOTS, TIMED_ROWS
from metier.steps.answering_memory import memory_mib
from metier.steps.data import store_of
from metier.tasks.prompt import PromptFormat
from metier.tasks.registry import task_from_json

TEST = "test.jsonl"
"""The exam."""
OURS, THEIRS = "shipped.jsonl", "base.jsonl"
"""Where the answers are kept."""


class Exam(NamedTuple):
    """Rows that contestants are asked, and what each is about where several may be about one thing."""

    rows: list[Record]
    subjects: list[str] | None = None
    also: list[tuple[str, ...]] | None = None
    """Of each row other names of the wanted answer, see `names_of`."""

    def settled(self, answers: Sequence[str]) -> Sequence[str]:
        """Return answers as they are graded: the wanted one where one is another of its names."""
        if self.also is None:
            return answers
        rows = zip(answers, self.rows, self.also, strict=True)
        return [settled(said, row.output, also) for said, row, also in rows]


class Released(NamedTuple):
    """A released model as a contestant: what it is called, where it comes from, and how it is asked."""

    name: str
    reference: str
    prompt: PromptFormat
    context_tokens: int = SESSION_TOKENS
    """Longest prompt and answer together."""


def inputs(job: Job, data: Step, *exams: str) -> dict[str, Any]:
    """Return what anybody's answers depend on, beside who answers.

    Args:
        job: the job description.
        data: the step with the rows.
        exams: files of questions; by default the test set.
    """
    return {
        "rows": {exam: data.hashes[exam] for exam in exams or (TEST,)},
        "first": job.evaluate.test_rows,
        "max_answer_tokens": job.evaluate.max_answer_tokens,
    }


def rules_of(job: Job) -> dict[str, int]:
    """Return what scores that are kept depend on beside the answers: our own rules of what counts as right."""
    return {"rules": RULES} if job.task == "qa" else {}


def base_of(job: Job, prompts: dict[str, Any]) -> Released:
    """Return the base as a contestant, asked with the best prompt found for it.

    Args:
        job: the job description, of a job with a base.
        prompts: the result of the step ``prompt``.
    """
    tried = {one["prompt"]["name"]: one["longest"] for one in prompts["candidates"]}
    context = context_for(job, tried[prompts["base_prompt"]["name"]])
    return Released(BASE, job.base.model, PromptFormat.from_json(prompts["base_prompt"]), context)


def context_for(job: Job, longest: int) -> int:
    """Return the context in which a released model is asked: twice the longest example, as the test's may be longer.

    Args:
        job: the job description.
        longest: tokens of the longest example on validation rows.
    """
    return max(SESSION_TOKENS, 2 * longest + job.evaluate.max_answer_tokens)


def examine_base(job: Job, data: Path, prompts: dict[str, Any], sure: Path | None, folder: Path) -> dict[str, Any]:
    """Ask the base the test set, and return it as a contestant; its answers are kept in the folder.

    Args:
        job: the job description, of a job with a base.
        data: the folder of the rows.
        prompts: the result of the step ``prompt``.
        sure: in a job about facts, the folder in which its answers are kept with their likelihood.
        folder: where the answers are kept, so that a killed exam goes on.
    """
    return asdict(ask_base(job, prompts, exam_in(job, data), answers_at(sure, folder, THEIRS)))


def examine(
    job: Job, data: Path, ours: Path, prompts: dict[str, Any], base: Path | None, sure: Path | None, folder: Path
) -> dict[str, Any]:
    """Ask the job's model the test set; return it as a contestant, how it differs from the base, and its memory.

    Args:
        job: the job description.
        data: the folder of the rows.
        ours: the chosen file, or the checkpoint's folder where there is none.
        prompts: the result of the step ``prompt``.
        base: the base's answers; None for a model from scratch.
        sure: in a job about facts, the folder in which the file's answers are kept with their likelihood.
        folder: where the answers are kept, so that a killed exam goes on.
    """
    exam, answers = exam_in(job, data), answers_at(sure, folder, OURS)
    contestant = ask_ours(job, ours, prompts, exam, answers)
    return {
        "contestant": asdict(contestant),
        "comparison": asdict(against(job, exam, answers, read_answers(base))) if base else None,
        "ram_mib": None
        if ours.is_dir()
        else memory_mib(ours, asked_first(exam.rows), store_of(data), session_tokens(job)),
    }


def answers_at(sure: Path | None, folder: Path, name: str) -> Path:
    """Return where a contestant's answers to the test set are kept: what it was asked already is not asked again.

    Args:
        sure: in a job about facts, the folder in which they are kept with their likelihood.
        folder: the folder of the step that asks for the answers alone.
        name: of the file there.
    """
    return sure / TEST if sure and (sure / TEST).exists() else folder / name


def judge(
    job: Job,
    file_mib: float | None,
    examined: dict[str, Any],
    base: dict[str, Any] | None,
    swept: dict[str, Any],
    shipping: dict[str, Any],
    rivals: Mapping[str, dict[str, Any]],
    knowledge: Knowledge | None = None,
) -> Verdict:
    """Decide whether the chosen file is released, by what was measured and what the job demands now.

    Args:
        job: the job description.
        file_mib: size of the chosen file; None where there is none.
        examined: what `examine` returned.
        base: what `examine_base` returned; None for a model from scratch.
        swept: all files, judged by the parity gate.
        shipping: what the ledger says of the licences.
        rivals: what was found of each rival, by name: ``contestant`` and ``comparison``.
        knowledge: of a job about facts, what the chosen file knows; None where there is none.
    """
    found = {"base": examined["comparison"]} if examined["comparison"] else {}
    found |= {name: rival["comparison"] for name, rival in rivals.items()}
    called = {reference: name for name, reference in job.rivals.items()}
    theirs = [*([base] if base else []), *(rival["contestant"] for rival in rivals.values())]
    ours = replace(Contestant.from_json(examined["contestant"]), file_mib=file_mib)
    return decide(
        must_beat=[called.get(one, one) for one in job.release.must_beat],
        comparisons={name: Comparison(**one) for name, one in found.items()},
        file_mib=Limit(file_mib, job.limits.file_mib),
        ram_mib=Limit(examined["ram_mib"], job.limits.ram_mib),
        parity=_parity(swept),
        licences=Licences(shipping["allowed"], "; ".join(shipping["terms"]), tuple(shipping["reasons"])),
        scores=(ours, *map(Contestant.from_json, theirs)),
        risk=job.qa.risk if job.task == "qa" else None,
        knowledge=knowledge,
    )


def exam_in(job: Job, data: Path) -> Exam:
    """Return the exam that lies in the folder of the rows."""
    return exam_of(job, data / TEST, job.evaluate.test_rows)


def exam_of(job: Job, path: Path, first: int) -> Exam:
    """Return the first rows of a file as an exam; in a job about facts with what they are about.

    Args:
        job: the job description.
        path: the file, in the folder of the rows.
        first: how many rows.
    """
    if job.task != "qa":
        return Exam(read_records(path)[:first])
    rows, abouts = rows_and_abouts(path, first)
    subjects = [one.subject or row.input for one, row in zip(abouts, rows, strict=True)]
    return Exam(rows, subjects, names_of(store_of(path.parent), abouts))


def rows_and_abouts(path: Path, first: int) -> tuple[list[Record], list[About]]:
    """Return the first rows of an exam about facts, and what they are about.

    Raises:
        DataError: when the two do not belong together.
    """
    rows, abouts = read_records(path), read_about(about_path(path))
    if len(rows) != len(abouts):
        found = f"{len(rows)} rows, and {about_path(path).name} has {len(abouts)}"
        raise DataError(str(path), found, "Build the data step again")
    return rows[:first], abouts[:first]


def names_of(store: Path | None, abouts: Sequence[About]) -> list[tuple[str, ...]]:
    """Return of each question the names by which its answer is right, too: those that nothing else in the store has.

    There are none where a value is asked for, or where there is no store.
    """
    if store is None:
        return [()] * len(abouts)
    with open_store(store) as opened:
        return [() if one.form == "ask" else _own_names(opened, one.subject) for one in abouts]


def _own_names(store: Store, subject: str) -> tuple[str, ...]:
    keys = {name: names.key(name) for name in store.names(subject)}
    holders = store.known(keys.values())
    return tuple(name for name, key in keys.items() if len(holders[key]) == 1)


def _parity(swept: dict[str, Any]) -> Parity:
    if not swept["chosen"]:
        return Parity(False, "a file that answers like the checkpoint", {}, "no file: export.quantisations is empty")
    exam = Candidate.from_json(swept["candidates"][swept["chosen"]])
    found = exam.comparison
    assert found is not None, "a failed file is never chosen"
    return Parity(
        exam.passed,
        f"{found.metric} to the checkpoint above -{swept['parity_margin']:g} (95% bound), and the same "
        f"token at {AGREEMENT:.1%} of decided positions (F16)",
        {"low": found.low, "difference": found.difference, "agreement": swept["walks"][exam.cut]["agreement"]},
    )


def ask_ours(job: Job, ours: Path, prompts: dict[str, Any], exam: Exam, path: Path) -> Contestant:
    """Ask the shipped file, or the checkpoint in a folder; the answers are kept in a file."""
    limit = job.evaluate.max_answer_tokens
    if ours.is_dir():
        checkpoint = Checkpoint(job.name, *load_fast(ours), PromptFormat.from_json(prompts["prompt"]), limit)
        return graded(job, "checkpoint", [one.text for one in collect(checkpoint, exam.rows, path)], exam)
    with Engine(ours, slots=SLOTS, context_tokens=session_tokens(job)) as engine:
        answers = [one.text for one in collect(ShippedFile(job.name, engine, limit), exam.rows, path)]
        speed = tokens_per_s(engine, _timed(PromptFormat.from_json(prompts["prompt"]), exam.rows))
        return graded(job, ours.stem, answers, exam, ours, speed)


def ask_base(job: Job, prompts: dict[str, Any], exam: Exam, path: Path) -> Contestant:
    """Ask the base with the best prompt found for it; the answers are kept in a file."""
    timed = PromptFormat.from_json(prompts["prompt"])
    return ask_released(job, base_of(job, prompts), timed, exam, path)


def ask_released(job: Job, released: Released, timed: PromptFormat, exam: Exam, path: Path) -> Contestant:
    """Ask a released model.

    Args:
        job: the job description.
        released: the model.
        timed: the format in which speed is measured, the same for all.
        exam: questions and references.
        path: where the answers are kept.
    """
    with opened(released, job.evaluate.max_answer_tokens, stop_of(released.prompt, exam.rows)) as asked:
        answers = [one.text for one in collect(asked, exam.rows, path)]
        if isinstance(asked, Checkpoint):
            return graded(job, released.name, answers, exam)
        speed = tokens_per_s(asked.engine, _timed(timed, exam.rows))
        return graded(job, released.name, answers, exam, asked.engine.model, speed)


def stop_of(prompt: PromptFormat, rows: Sequence[Record]) -> str | None:
    """Return the text before which a released model's answer ends; None where the turn of a chat ends it.

    That is the line's end or, where answers have several lines, what begins the next example.

    Args:
        prompt: how it is asked.
        rows: the exam.
    """
    if not any("\n" in row.output for row in rows):
        return "\n"
    return None if prompt.is_chat else (prompt.between + prompt.before if prompt.before.strip() else "\n\n")


@contextmanager
def opened(released: Released, max_tokens: int, stop: str | None = "\n") -> Iterator[Checkpoint | PromptedFile]:
    """Open a released model to ask it for answers of so many tokens: its file as it is, or else the checkpoint.

    Args:
        released: the model.
        max_tokens: longest answer.
        stop: see `stop_of`.
    """
    found = find_base(released.reference)
    if found.gguf is None:
        yield Checkpoint(released.name, *load_fast(found.folder), released.prompt, max_tokens, stop=stop)
        return
    with Engine(found.gguf, slots=SLOTS, context_tokens=released.context_tokens) as engine:
        yield PromptedFile(released.name, engine, released.prompt, max_tokens, stop)


def _timed(prompt: PromptFormat, rows: Sequence[Record]) -> list[str]:
    """Return the prompts that speed is measured on."""
    return [prompt.render(question) for question in asked_first(rows)]


def asked_first(rows: Sequence[Record]) -> list[str]:
    """Return the questions that speed and memory are measured on, as far as they fit into a context."""
    return [row.input for row in rows[:TIMED_ROWS]]


def against(job: Job, exam: Exam, ours: Path, theirs: Sequence[str]) -> Comparison:
    """Return by how much the job's model, whose answers are kept in a file, is better than others' answers."""
    task, references = task_from_json(job.task_settings), [row.output for row in exam.rows]
    return compare(
        task.primary_metric,
        exam.settled(read_answers(ours)),
        exam.settled(theirs),
        references,
        seed=job.seed,
        language=task.output_language,
        groups=exam.subjects,
    )


def graded(
    job: Job,
    name: str,
    answers: Sequence[str],
    exam: Exam,
    path: Path | None = None,
    speed: float | None = None,
) -> Contestant:
    """Return a contestant with its scores by all metrics of the task; its file and speed where they are known."""
    task, references = task_from_json(job.task_settings), [row.output for row in exam.rows]
    language, groups = task.output_language, exam.subjects
    said = exam.settled(answers)
    scores = tuple(score(metric, said, references, language=language, groups=groups) for metric in task.metrics)
    return Contestant(name, scores, path.stat().st_size / 2**20 if path else None, speed)
