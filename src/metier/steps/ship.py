"""The steps ``files`` and ``parity``: the files, and the gate that one of them must pass to ship."""

from pathlib import Path
from typing import Any

from metier.data.records import read_records
from metier.evaluate.answers import collect
from metier.evaluate.metrics import score
from metier.evaluate.significance import compare
from metier.export.contestants import ShippedFile
from metier.export.gguf import write_gguf
from metier.export.parity import decided_tokens, exam_passed, walk
from metier.model.answer import Checkpoint
from metier.model.loading import load
from metier.progress import say
from metier.run.engine import Engine
from metier.spec.job import Job
from metier.tasks.prompt import PromptFormat
from metier.tasks.registry import task_from_json
from metier.train.batches import encode

SLOTS = 4
_WALKED_ROWS = 50


def gguf_path(folder: Path, job: Job, quantisation: str) -> Path:
    """Return where the file of one quantisation is."""
    return folder / f"{job.name}-{quantisation}.gguf"


def write_files(job: Job, model_folder: Path, prompt: PromptFormat, licence: str, folder: Path) -> dict[str, Any]:
    """Write the checkpoint as GGUF in F16 and in every asked quantisation; return their sizes in MiB."""
    if not job.export.quantisations:
        return {"file_mib": {}}
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
    Without files there is nothing to examine, and nothing is chosen.
    """
    if not job.export.quantisations:
        return {"walk": None, "checkpoint": None, "exams": {}, "chosen": None}
    task = task_from_json(job.task_settings)
    rows = read_records(data / "validation.jsonl")[: job.evaluate.validation_rows]
    references = [row.output for row in rows]
    model, tokenizer = load(model_folder)
    checkpoint = Checkpoint("checkpoint", model, tokenizer, prompt, job.evaluate.max_answer_tokens)
    theirs = collect(checkpoint, rows, folder / "checkpoint.jsonl", chunk_rows=256)
    decided = decided_tokens(model, encode(tokenizer, prompt, rows[:_WALKED_ROWS], job.train.max_tokens))
    with Engine(gguf_path(files, job, "F16"), slots=SLOTS) as engine:
        walked = walk(engine, decided)
    del model
    say(
        f"  F16 names the checkpoint's token at {walked.agreed} of {walked.positions} decided positions, "
        f"log-probabilities {walked.gap_nats:.4f} nats apart"
    )
    exams: dict[str, dict[str, Any]] = {}
    for quantisation in job.export.quantisations:
        path = gguf_path(files, job, quantisation)
        with Engine(path, slots=SLOTS) as engine:
            shipped = ShippedFile(quantisation, engine, job.evaluate.max_answer_tokens)
            mine = collect(shipped, rows, folder / f"{quantisation}.jsonl")
        found = compare(task.primary_metric, mine, theirs, references, seed=job.seed)
        size = path.stat().st_size / 2**20
        passed = walked.passed and exam_passed(found, job.release.parity_margin)
        exams[quantisation] = {
            "comparison": vars(found),
            "score": vars(score(task.primary_metric, mine, references)),
            "file_mib": size,
            "passed": passed,
        }
        say(
            f"  {quantisation}: {size:.1f} MiB, {found.metric} {found.difference:+.2f} "
            f"[{found.low:+.2f}, {found.high:+.2f}] to the checkpoint: {'passed' if passed else 'FAILED'}"
        )
    return {
        "walk": walked.to_json(),
        "checkpoint": vars(score(task.primary_metric, theirs, references)),
        "exams": exams,
        "chosen": _choice(job, exams),
    }


def _choice(job: Job, exams: dict[str, dict[str, Any]]) -> str:
    """The smallest file that fits and passes; without one the best guess, so that the verdict can name what fails."""
    by_size = sorted(exams, key=lambda quantisation: exams[quantisation]["file_mib"])
    fitting = [q for q in by_size if exams[q]["file_mib"] <= (job.limits.file_mib or float("inf"))]
    passing = [q for q in fitting if exams[q]["passed"]]
    if passing:
        return passing[0]
    return fitting[-1] if fitting else by_size[0]
