"""The step ``parity``: every file beside the checkpoint; and which of them ships."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from metier.analysis.frontier import draw_frontier
from metier.artifact import read_json, write_atomically, write_json
from metier.errors import ArtifactError, RunError
from metier.evaluate.answers import collect, read_answers
from metier.evaluate.candidates import Candidate, choose
from metier.evaluate.metrics import score
from metier.evaluate.significance import compare
from metier.export.decided import decided_tokens
from metier.export.parity import Cut, Decided, Walk, exam_passed
from metier.model.answer import Checkpoint
from metier.model.loading import load_fast, load_tokenizer
from metier.progress import say
from metier.spec.estimates import session_tokens
from metier.spec.job import Job
from metier.steps.answering import Asked, Told, ask_apart
from metier.steps.answering_memory import memory_mib
from metier.steps.data import store_of
from metier.steps.exam import asked_first, exam_of
from metier.steps.ship import WHOLE, File, files_of, gguf_path
from metier.tasks.prompt import PromptFormat
from metier.tasks.registry import task_from_json
from metier.train.batches import encode

SWEEP, PLOT = "sweep.json", "sweep.svg"
"""What was found of all candidates and which is chosen, as numbers and as a picture."""

_WALKED_ROWS = 50
_OF_THE_JOB = ("passed", "file_mib")
"""Of a candidate, what is no measurement of the step: a verdict, and the size of a file that names its licence."""


def gate(
    job: Job, data: Path, models: Mapping[str, Path], prompt: PromptFormat, files: Path, folder: Path
) -> dict[str, Any]:
    """Examine every file beside the checkpoint on validation rows, and return what was measured; `judged` judges it.

    The F16 file of each model walks beside its own checkpoint, too; when it disagrees, no file of that model passes,
    for all are written alike. Answers are compared with those of the whole model, whatever was cut. A file that
    llama.cpp cannot answer with has failed, and the others go on. Without files there is nothing to examine.

    Args:
        job: the job description.
        data: the folder of the rows.
        models: Hugging Face folders by name of the cut.
        prompt: how the checkpoints are asked.
        files: the folder of the GGUF files.
        folder: where answers and measurements are kept, so that a killed gate goes on.

    Raises:
        ArtifactError: when llama.cpp cannot load the whole model in F16, or answers with none of the files.
    """
    if not job.export.quantisations:
        return {"metric": None, "walks": {}, "checkpoint": None, "candidates": {}}
    exam = _Exam(job, data / "validation.jsonl", prompt, models[WHOLE], files, folder)
    walks: dict[str, Walk] = {}
    candidates: list[Candidate] = []
    failed = False
    for cut, model_folder in models.items():
        for file in files_of(job, cut):
            told = exam.ask(file, beside=None if cut in walks else model_folder)
            if cut not in walks:  # the F16 file comes first
                if cut == WHOLE and told.failed:
                    fix = "Check that the installed xllamacpp supports its architecture, and that memory is free"
                    raise ArtifactError(str(gguf_path(files, job, file.name)), told.failed, fix)
                walks[cut] = told.walked
                say(f"  {file.name} {f'FAILED: {told.failed}' if told.failed else _walked(told.walked)}")
                failed |= bool(told.failed)
            if file.asked:
                candidates.append(exam.measured(file, told))
                say(f"  {_line(replace(candidates[-1], passed=_passes(job, candidates[-1], walks[cut].passed)))}")
    if failed or any(one.failed for one in candidates):
        say(f"  To ask the failed ones again, remove {folder} and repeat the command")
    if all(one.failed for one in candidates):
        fix = "Look at the messages above, or ask for other types in export.quantisations"
        raise ArtifactError(str(files), f"llama.cpp answers with none of the files: {candidates[0].failed}", fix)
    return {
        "metric": exam.metric,
        "walks": {cut: walked.to_json() for cut, walked in walks.items()},
        "checkpoint": vars(score(exam.metric, exam.theirs, exam.references, groups=exam.subjects)),
        "candidates": {
            one.name: {key: value for key, value in one.to_json().items() if key not in _OF_THE_JOB}
            for one in candidates
        },
    }


def judged(job: Job, found: dict[str, Any], file_mib: Mapping[str, float]) -> dict[str, Any]:
    """Return what `gate` found, judged by the job: which files ``passed``, and the name of the ``chosen`` one.

    It is no part of the step, so that another margin, other limits or another preference measure nothing again. Where
    there is no file, none is chosen.

    Args:
        job: the job description.
        found: what `gate` returned.
        file_mib: size of each file.
    """
    candidates = []
    for name, one in found["candidates"].items():
        measured = Candidate.from_json({**one, "file_mib": file_mib[name], "passed": False})
        passes = _passes(job, measured, found["walks"][measured.cut]["passed"])
        candidates.append(replace(measured, passed=passes))
    chosen = choose(candidates, job.compress.prefer, **job.limits.model_dump())
    return {
        **found,
        "candidates": {one.name: one.to_json() for one in candidates},
        "chosen": chosen.name if chosen else None,
        "parity_margin": job.release.parity_margin,
    }


def write_sweep(swept: dict[str, Any], folder: Path) -> None:
    """Leave the numbers of all candidates and a plot of them in the folder, unless they are there."""
    if swept["chosen"] is None or ((folder / PLOT).exists() and _there(folder / SWEEP) == swept):
        return
    candidates = {name: Candidate.from_json(one) for name, one in swept["candidates"].items()}
    chosen, checkpoint = candidates[swept["chosen"]], swept["checkpoint"]["value"]
    write_atomically(
        folder / PLOT, draw_frontier(list(candidates.values()), chosen, checkpoint, swept["parity_margin"])
    )
    write_json(folder / SWEEP, swept)  # last: it says that the plot is of these numbers


def _there(path: Path) -> dict[str, Any] | None:
    """Return what a file of JSON holds; None where it cannot be read, so that it is written again."""
    try:
        return read_json(path)
    except ArtifactError:
        return None


def _passes(job: Job, one: Candidate, walked: bool) -> bool:
    """Whether a file may ship: its model's F16 file walked, and it answers no worse than the margin allows."""
    return walked and one.comparison is not None and exam_passed(one.comparison, job.release.parity_margin)


class _Whole:
    """The whole model as a contestant, loaded when it is first asked: all its answers may be kept already."""

    name = "checkpoint"

    def __init__(self, job: Job, folder: Path, prompt: PromptFormat) -> None:
        self._load = cache(lambda: Checkpoint(self.name, *load_fast(folder), prompt, job.evaluate.max_answer_tokens))

    def answer(self, questions: Sequence[str], *, likely: bool = False) -> list[tuple[str, float | None]]:
        """Return one answer for each question."""
        return self._load().answer(questions, likely=likely)


class _Exam:
    """The validation rows and the whole model's answers to them; files are measured beside it."""

    def __init__(self, job: Job, path: Path, prompt: PromptFormat, whole: Path, files: Path, folder: Path) -> None:
        self._job, self._path, self._prompt, self._files, self._folder = job, path, prompt, files, folder
        self._exam = exam_of(job, path, job.evaluate.validation_rows)
        self._rows = self._exam.rows
        self.references = [row.output for row in self._rows]
        self.subjects = self._exam.subjects
        self.metric = task_from_json(job.task_settings).primary_metric
        said = collect(_Whole(job, whole, prompt), self._rows, folder / "checkpoint.jsonl", chunk_rows=256)
        self.theirs = self._exam.settled([one.text for one in said])

    def _decided_by(self, model_folder: Path) -> tuple[Decided, ...]:
        """Return what a checkpoint says at the positions where it is decided."""
        model, tokenizer = load_fast(model_folder)
        walked = encode(tokenizer, self._prompt, self._rows[:_WALKED_ROWS], self._job.train.max_tokens)
        return tuple(decided_tokens(model, walked))

    def _cut_by(self, model_folder: Path) -> tuple[Cut, ...]:
        """Return how a checkpoint's tokenizer cuts the prompts of the rows that are walked."""
        tokenizer = load_tokenizer(model_folder)
        texts = [self._prompt.render(row.input) for row in self._rows[:_WALKED_ROWS]]
        ids = tokenizer(texts, add_special_tokens=False, split_special_tokens=True).input_ids
        return tuple(map(Cut, texts, ids))

    def ask(self, file: File, *, beside: Path | None) -> Told:
        """Ask a file once, and let it walk beside a checkpoint, if any; what it told is kept unless it failed."""
        kept = self._folder / f"{file.name}.json"
        if kept.exists():
            return Told.from_json(read_json(kept))
        asked = Asked(
            model=str(gguf_path(self._files, self._job, file.name)),
            rows=str(self._path),
            first=len(self._rows) if file.asked else 0,
            answers=str(self._answers(file)),
            max_tokens=self._job.evaluate.max_answer_tokens,
            context_tokens=session_tokens(self._job),
            timed=tuple(map(self._prompt.render, asked_first(self._rows))),
            decided=self._decided_by(beside) if beside else (),
            cuts=self._cut_by(beside) if beside else (),
        )
        told = ask_apart(asked)
        if not told.failed:
            write_json(kept, asdict(told))
        return told

    def measured(self, file: File, told: Told) -> Candidate:
        """Return a file as a candidate that nobody has judged: its answers beside the whole model's."""
        path = gguf_path(self._files, self._job, file.name)
        candidate = Candidate(file.name, file.cut, path.stat().st_size / 2**20, failed=told.failed)
        if told.failed:
            return candidate
        try:
            questions, store = asked_first(self._rows), store_of(self._path.parent)
            ram_mib = memory_mib(path, questions, store, session_tokens(self._job))
        except RunError as error:
            return replace(candidate, failed=error.found)
        mine = self._exam.settled(read_answers(self._answers(file)))
        groups = self.subjects
        compared = compare(self.metric, mine, self.theirs, self.references, seed=self._job.seed, groups=groups)
        return replace(
            candidate,
            score=score(self.metric, mine, self.references, groups=groups),
            comparison=compared,
            ram_mib=ram_mib,
            tokens_per_s=told.tokens_per_s,
        )

    def _answers(self, file: File) -> Path:
        return self._folder / f"{file.name}.jsonl"


def _walked(walked: Walk) -> str:
    gap = walked.gap_nats
    apart = "and tells no log-probability" if gap is None else f"log-probabilities {gap:.4f} nats apart"
    found = f"names the checkpoint's token at {walked.agreed} of {walked.positions} decided positions, {apart}"
    if not walked.cut_otherwise:
        return found
    return (
        f"{found}; FAILED: cuts {len(walked.cut_otherwise)} prompts otherwise, such as {walked.cut_otherwise[0]!r:.200}"
    )


def _line(one: Candidate) -> str:
    found = one.comparison
    if found is None:
        return f"{one.name}: {one.file_mib:.1f} MiB: FAILED: {one.failed}"
    return (
        f"{one.name}: {one.file_mib:.1f} MiB, {one.ram_mib:.0f} MiB of memory, {one.tokens_per_s:.0f} tokens/s, "
        f"{found.metric} {found.difference:+.2f} [{found.low:+.2f}, {found.high:+.2f}] to the checkpoint: "
        f"{'passed' if one.passed else 'not passed'}"
    )
