"""The steps ``files``, ``parity`` and ``exam``: the files, the gate they pass, the verdict on the one that ships."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metier.data.records import Record, read_records
from metier.errors import RunError
from metier.evaluate.answers import Answerer, collect
from metier.evaluate.metrics import score
from metier.evaluate.significance import Comparison, compare
from metier.evaluate.verdict import Contestant, Licences, Limit, Parity, decide
from metier.export.contestants import PromptedFile, ShippedFile
from metier.export.gguf import write_gguf
from metier.export.parity import decided_tokens, exam_passed, walk
from metier.model.answer import Checkpoint
from metier.model.bases import find_base
from metier.model.loading import load
from metier.progress import say
from metier.run.engine import Engine
from metier.spec.job import Job
from metier.tasks.prompt import PromptFormat
from metier.tasks.registry import Task, task_from_json
from metier.train.batches import encode

SLOTS = 4
_WALKED_ROWS = 50


def gguf_path(folder: Path, job: Job, quantisation: str) -> Path:
    """Return where the file of one quantisation is."""
    return folder / f"{job.name}-{quantisation}.gguf"


def write_files(job: Job, model_folder: Path, prompt: PromptFormat, licence: str, folder: Path) -> dict[str, Any]:
    """Write the checkpoint as GGUF in F16 and in every asked quantisation; return their sizes in MiB."""
    model, tokenizer = load(model_folder)
    sizes = {}
    for quantisation in dict.fromkeys(["F16", *job.export.quantisations]):
        path = gguf_path(folder, job, quantisation)
        write_gguf(
            path,
            model,
            tokenizer,
            quantisation,
            name=job.name,
            licence=licence,
            prompt=prompt,
            task=job.task_settings,
        )
        sizes[quantisation] = round(path.stat().st_size / 2**20, 2)
    return {"file_mib": sizes}


def gate(job: Job, data: Path, model_folder: Path, prompt: PromptFormat, files: Path, folder: Path) -> dict[str, Any]:
    """Examine every file beside the checkpoint on validation rows; choose the smallest that passes and fits.

    The F16 file walks beside the checkpoint, too; when it disagrees, no file passes, for all are written alike.
    """
    task = task_from_json(job.task_settings)
    rows = read_records(data / "validation.jsonl")[: job.evaluate.validation_rows]
    references = [row.output for row in rows]
    model, tokenizer = load(model_folder)
    checkpoint = Checkpoint("checkpoint", model, tokenizer, prompt, job.evaluate.max_answer_tokens)
    theirs = collect(checkpoint, rows, folder / "checkpoint.jsonl")
    decided = decided_tokens(model, encode(tokenizer, prompt, rows[:_WALKED_ROWS], job.train.max_tokens))
    with Engine(gguf_path(files, job, "F16"), slots=SLOTS) as engine:
        walked = walk(engine, decided)
    del model
    say(f"  F16 names the checkpoint's token at {walked.agreed} of {walked.positions} decided positions")
    exams: dict[str, dict[str, Any]] = {}
    for quantisation in job.export.quantisations:
        path = gguf_path(files, job, quantisation)
        with Engine(path, slots=SLOTS) as engine:
            shipped = ShippedFile(quantisation, engine, job.evaluate.max_answer_tokens)
            mine = collect(shipped, rows, folder / f"{quantisation}.jsonl")
        found = compare(task.primary_metric, mine, theirs, references, seed=job.seed)
        size = path.stat().st_size / 2**20
        passed = walked.passed and exam_passed(found, job.release.parity_margin)
        exams[quantisation] = {"comparison": vars(found), "file_mib": size, "passed": passed}
        say(
            f"  {quantisation}: {size:.1f} MiB, {found.metric} {found.difference:+.2f} "
            f"[{found.low:+.2f}, {found.high:+.2f}] to the checkpoint: {'passed' if passed else 'FAILED'}"
        )
    return {"walk": walked.to_json(), "exams": exams, "chosen": _choice(job, exams)}


def _choice(job: Job, exams: dict[str, dict[str, Any]]) -> str:
    """The smallest file that passes and fits; else the nearest to it, so that the verdict can name what fails."""
    by_size = sorted(exams, key=lambda quantisation: exams[quantisation]["file_mib"])
    fitting = [q for q in by_size if exams[q]["file_mib"] <= (job.limits.file_mib or float("inf"))]
    passing = [q for q in fitting if exams[q]["passed"]]
    return (passing or fitting or by_size)[0 if passing or not fitting else -1]


def examine(
    job: Job,
    data: Path,
    files: Path,
    parity: dict[str, Any],
    prompts: dict[str, Any],
    shipping: dict[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """Put the chosen file and its rivals through the test set, once, and decide."""
    task = task_from_json(job.task_settings)
    rows = read_records(data / "test.jsonl")[: job.evaluate.test_rows]
    chosen = gguf_path(files, job, parity["chosen"])
    limit = job.evaluate.max_answer_tokens
    with Engine(chosen, slots=SLOTS) as engine:
        ours = collect(ShippedFile(job.name, engine, limit), rows, folder / "shipped.jsonl")
    contestants = [graded(task, chosen.stem, ours, rows, chosen)]
    comparisons = {}
    if not job.base.from_scratch:
        with base_contestant(job, prompts["base_prompt"]) as (base, path):
            theirs = collect(base, rows, folder / "base.jsonl")
        contestants.append(graded(task, "base", theirs, rows, path))
        comparisons["base"] = compare(task.primary_metric, ours, theirs, [r.output for r in rows], seed=job.seed)
    exam = parity["exams"][parity["chosen"]]
    found = Comparison(**exam["comparison"])
    verdict = decide(
        must_beat=job.release.must_beat,
        comparisons=comparisons,
        file_mib=Limit(exam["file_mib"], job.limits.file_mib),
        ram_mib=Limit(memory_mib(chosen, rows[0].input), job.limits.ram_mib),
        parity=Parity(
            exam["passed"],
            f"{found.metric} to the checkpoint above -{job.release.parity_margin:g} (95% bound), and the same "
            "token at 99.5% of decided positions (F16)",
            {"low": found.low, "difference": found.difference, "agreement": parity["walk"]["agreement"]},
        ),
        licences=Licences(shipping["allowed"], "; ".join(shipping["terms"]), tuple(shipping["reasons"])),
        scores=contestants,
    )
    return verdict.to_json()


@contextmanager
def base_contestant(job: Job, prompt: dict[str, Any]) -> Iterator[tuple[Answerer, Path | None]]:
    """Yield the untrained base, prompted as well as we can, and its file when llama.cpp runs it as it is."""
    base = find_base(job.base.model, job.base.licence)
    shown = PromptFormat.from_json(prompt)
    limit = job.evaluate.max_answer_tokens
    if base.gguf:
        with Engine(base.gguf, slots=SLOTS) as engine:
            yield PromptedFile("base", engine, shown, limit), base.gguf
    else:
        yield Checkpoint("base", *load(base.folder), shown, limit, stop="\n"), None


def memory_mib(path: Path, question: str) -> float:
    """Return the peak resident memory, in MiB, of a fresh process that answers one question with a file."""
    code = (
        "import resource, sys; from metier.run.session import open_session\n"
        "with open_session(sys.argv[1]) as session: session.answer(sys.argv[2])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), question], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise RunError(str(path), f"a fresh process cannot answer with it ({last})", "See the message")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(int(done.stdout.split()[-1]) / unit, 1)


def graded(task: Task, name: str, answers: Sequence[str], rows: Sequence[Record], path: Path | None) -> Contestant:
    """Return a contestant with its scores in the task's metrics."""
    references = [row.output for row in rows]
    language = task.output_language or ""
    scores = tuple(score(metric, answers, references, language=language) for metric in task.metrics)
    return Contestant(name, scores, path.stat().st_size / 2**20 if path else None)
