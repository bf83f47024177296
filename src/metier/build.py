"""The main path: a job description in, a verdict and the folder that ships out.

Every step works in a folder of its own below the run folder and is done once: called again, the build goes on where
it was stopped, and repeats only what depends on something that changed.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from metier.artifact import Step, read_json, run_step, write_json
from metier.data.ledger import with_base
from metier.data.prepare import fingerprint, prepare
from metier.errors import MetierError, RunError
from metier.evaluate.verdict import Verdict
from metier.progress import say
from metier.spec.job import AnySource, Job
from metier.tasks.prompt import PromptFormat


def build(job: Job, run: Path) -> Verdict:
    """Build a job in its run folder and return the verdict.

    Raises:
        MetierError: for everything the user can mend; nothing finished is lost.
    """
    with _alone(run), _told_when_full(run):
        return _road(job, run)


def _road(job: Job, run: Path) -> Verdict:
    step = _Steps(run)
    sources: dict[str, Sequence[AnySource]] = {"train": job.data.train, "test": job.data.test}
    if job.data.text:
        sources["text"] = job.data.text
    data = step(
        "data",
        {
            "cleaning": job.data.cleaning.model_dump(),
            "split": job.data.split.model_dump(),
            **{role: [fingerprint(source) for source in these] for role, these in sources.items()},
            "seed": job.seed,
        },
        lambda folder: prepare(job.data, folder, seed=job.seed),
    )

    # Threads that wait for microseconds before they sleep: by default they spin through whole time slices, which
    # makes a training on a busy machine several times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    # Huge pages for large tensors: without, a new gradient of many experts waits for the system's 4 KiB pages.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    from metier.steps import bundle, exam, learn, pretrain, ship, start  # torch loads here: bad data is told before

    begun = step(
        "start",
        {"job": start.inputs(job), "data": data.key},
        lambda folder: start.start(job, data.folder, folder),
    )
    weights, learned_from = begun.folder, begun.key
    if job.pretrain:
        pretrained = step(
            "pretrain",
            {
                "pretrain": job.pretrain.model_dump(),
                "losses": job.losses.model_dump(),
                "seed": job.seed,
                "start": begun.key,
            },
            lambda folder: pretrain.pretrain_job(job, data, begun.folder, folder),
        )
        weights, learned_from = pretrained.folder / "model", pretrained.key
    prompts = step(
        "prompt",
        {"task": job.task_settings, "start": begun.key},
        lambda _: learn.choose_prompt(job, data.folder, begun.folder),
    )
    prompt = PromptFormat.from_json(prompts.result["prompt"])
    trained = step(
        "train",
        {
            "train": job.train.model_dump(),
            "losses": job.losses.model_dump(),
            "seed": job.seed,
            "start": learned_from,
            "prompt": prompts.key,
        },
        lambda folder: learn.learn_job(job, data.folder, weights, prompt, folder),
    )
    model = trained.folder / "model"
    ledger = with_base(read_json(data.folder / "ledger.json"), begun.result["base"])
    licence = "; ".join(ledger["shipping"]["terms"])
    files = step(
        "files",
        {
            "train": trained.key,
            "quantisations": job.export.quantisations,
            "licence": licence,
            "name": job.name,
        },
        lambda folder: ship.write_files(job, model, prompt, licence, folder),
    )
    parity = step(
        "parity",
        {
            "files": files.key,
            "data": data.key,
            "exam": job.evaluate.model_dump(),
            "margin": job.release.parity_margin,
            "limit": job.limits.file_mib,
        },
        lambda folder: ship.gate(job, data.folder, model, prompt, files.folder, folder),
    )
    examined = step(
        "exam",
        {
            "parity": parity.key,
            "limits": job.limits.model_dump(),
            "release": job.release.model_dump(),
            "shipping": ledger["shipping"],
        },
        lambda folder: exam.examine(
            job, data.folder, files.folder, model, parity.result, prompts.result, ledger["shipping"], folder
        ),
    )
    facts = {
        "verdict": examined.result,
        "ledger": ledger,
        "start": begun.result,
        "train": trained.result,
        "prompt": prompts.result,
    }
    chosen = parity.result["chosen"]
    shipped = ship.gguf_path(files.folder, job, chosen) if chosen else None
    step(
        "export",
        {"exam": examined.key, "context": job.export.context_tokens, "ledger": ledger},
        lambda folder: bundle.bundle(job, shipped, model, facts, folder),
    )
    write_json(run / "job.json", job.model_dump())
    return Verdict.from_json(examined.result)


class _Steps:
    """Runs steps in folders below the run folder, telling the user which were already finished."""

    def __init__(self, run: Path) -> None:
        self._run = run

    def __call__(self, name: str, inputs: dict[str, Any], work: Callable[[Path], Any]) -> Step:
        packages = ("torch", "transformers", "tokenizers", "gguf", "xllamacpp", "sacrebleu")
        return run_step(self._run / name, inputs, work, packages=packages, said=self._say)

    @staticmethod
    def _say(name: str, finished: bool) -> None:
        say(f"{name}: already finished" if finished else name)


@contextmanager
def _told_when_full(run: Path) -> Iterator[None]:
    """Weights and tokenizers are written by libraries that have errors of their own for what a disk says."""
    try:
        yield
    except Exception as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        if isinstance(error, MetierError) or not code or int(code[1]) not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise
        fix = "Free some space or choose another METIER_HOME; the same command goes on where this one stopped"
        raise RunError(str(run), f"a file cannot be written ({error})", fix) from error


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Let one build at a time work in a run folder; the lock of a killed one is free."""
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(str(run), "another build is at work in this run folder", "Wait for it to end") from error
    try:
        yield
    finally:
        lock.release()
