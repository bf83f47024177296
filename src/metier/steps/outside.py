"""An exam outside the build: the shipped file, its base, rivals and recorded systems on rows of the user's own."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from metier.artifact import key_of, load_step
from metier.data.leaks import count_leaks
from metier.data.records import Record
from metier.data.sources import read_source
from metier.errors import DataError, SpecError
from metier.evaluate.answers import read_answers
from metier.evaluate.recorded import recorded
from metier.evaluate.significance import Comparison
from metier.evaluate.verdict import Contestant
from metier.progress import say
from metier.spec.contestants import BASE
from metier.spec.data import Source
from metier.spec.job import Job
from metier.steps import rivals
from metier.steps.exam import OURS, THEIRS, Exam, against, ask_base, ask_ours, ask_released, graded
from metier.steps.prompt import decided_by
from metier.steps.run_folder import building
from metier.tasks.prompt import PromptFormat


@dataclass(frozen=True)
class OutsideExam:
    """What came of it."""

    rows: int
    leaks: int
    """Rows that the training text gives away, by the job's own definition of a leak."""
    contestants: tuple[Contestant, ...]
    """The shipped file (or, without one, the checkpoint), its base if it has one, rivals, recorded systems."""
    comparisons: dict[str, Comparison]
    """The first contestant minus each of the others, by name."""


def examine_outside(
    job: Job, run: Path, on: str, rows: int, others: Sequence[Path] = (), columns: str = "1,2"
) -> OutsideExam:
    """Ask the shipped file, the base and the rivals the first rows of a file; answers are kept in the run folder.

    Args:
        job: a job that was built.
        run: its run folder.
        on: a tsv, csv or jsonl file, or 'A,B' for two files of lines.
        rows: how many rows to use.
        others: files with the recorded answers of other systems, a line for each row of the file; see `recorded`.
        columns: where in the file inputs and wanted outputs are, names or numbers from 1, with a comma between them.

    Raises:
        SpecError: when the columns are not two.
        ArtifactError: when the job is not built, or not with these rivals.
        DataError: when the rows or the recorded answers cannot be read, are too few or do not belong together.
        RunError: when a build or another such exam is at work in the run folder.
    """
    load_step(run / "export")  # or there is no build, and no folder to hold
    with building(run):
        return _examined(job, run, on, rows, others, columns)


def _examined(job: Job, run: Path, on: str, rows: int, others: Sequence[Path], columns: str) -> OutsideExam:
    exported, prompts = (load_step(run / name) for name in ("export", "prompt"))
    prompted = {name: load_step(run / "rivals" / name / "prompt") for name in job.rivals}
    paths = _found(on)
    first, second = _columns(columns)
    table = read_source(Source(source=f"file:{paths}", licence="unknown", input=first, output=second)).table
    records = [Record(asked.strip(), wanted.strip()) for asked, wanted in islice(table.pairs, rows)]
    if len(records) < 2:
        raise DataError(on, f"{len(records)} usable rows", "Name a file with at least two rows")
    say(f"the first of {len(records)} rows asks {_short(records[0].input)!r} and wants {_short(records[0].output)!r}")
    if others and table.removed:
        left_out = ", ".join(f"{count} {reason}" for reason, count in table.removed.items())
        fix = "Take these rows out, and their lines out of the recorded answers"
        raise DataError(on, f"recorded answers belong to all rows, and some cannot be used ({left_out})", fix)
    systems = recorded(others, table.read, taken=(BASE, *prompted))
    rules = job.data.split
    leaks = count_leaks(records, run / "data" / "train.jsonl", rules.leak_similarity, rules.leak_sides)
    limit = job.evaluate.max_answer_tokens
    asked = [records, exported.manifest["inputs"]["exam"], decided_by(prompts), job.base.model, limit]
    folder = run / "outside" / key_of(asked)
    folder.mkdir(parents=True, exist_ok=True)
    ours = exported.folder / (exported.result["file"] or "huggingface")
    test = Exam(records)
    mine, theirs = folder / OURS, folder / THEIRS
    contestants, comparisons = [ask_ours(job, ours, prompts.result, test, mine)], {}
    if not job.base.from_scratch:
        contestants.append(ask_base(job, prompts.result, test, theirs))
        comparisons[BASE] = against(job, test, mine, read_answers(theirs))
    timed = PromptFormat.from_json(prompts.result["prompt"])
    for name, prompt in prompted.items():
        kept = run / "outside" / key_of([records, decided_by(prompt), limit]) / "answers.jsonl"
        kept.parent.mkdir(exist_ok=True)
        contestants.append(ask_released(job, rivals.released(job, name, prompt), timed, test, kept))
        comparisons[name] = against(job, test, mine, read_answers(kept))
    for name, answers in systems.items():
        contestants.append(graded(job, name, answers[: len(records)], test))
        comparisons[name] = against(job, test, mine, answers[: len(records)])
    return OutsideExam(len(records), leaks, tuple(contestants), comparisons)


def _found(on: str) -> str:
    """Return the whole paths of a file, or of two with a comma between them."""
    parts = [on] if Path(on).exists() else on.split(",")
    paths = [Path(os.path.expanduser(part)) for part in parts]  # noqa: PTH111 - never raises
    for path in paths:
        if not path.exists():
            raise DataError(str(path), "there is no such file", f"Check the path; it starts at {Path.cwd()}")
    return ",".join(str(path.resolve()) for path in paths)


def _columns(text: str) -> tuple[int | str, int | str]:
    names = [name.strip() for name in text.split(",")]
    if len(names) != 2 or not all(names) or names[0] == names[1]:
        raise SpecError("--columns", f"{text!r} is not two columns", "Write '2,3' or 'question,answer', for example")
    first, second = (int(name) if name.isdecimal() and int(name) > 0 else name for name in names)
    return first, second


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}..."
