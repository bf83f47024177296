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
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from metier.artifact import Step, read_json, run_step, write_json
from metier.data.ledger import with_base
from metier.data.prepare import fingerprint, prepare
from metier.errors import MetierError, RunError
from metier.evaluate.verdict import Verdict
from metier.progress import say
from metier.spec.job import AnySource, Job
from metier.tasks.prompt import PromptFormat


def build(job: Job, run: Path, nproc: int = 1) -> Verdict:
    """Build a job in its run folder and return the verdict.

    Args:
        job: the job.
        run: its run folder.
        nproc: how many processes train; all else is done in this one.

    Raises:
        MetierError: for everything the user can mend; nothing finished is lost.
    """
    with _alone(run), _told_when_full(run):
        return _judged(job, run, _made(job, run, nproc))


def sweep(job: Job, run: Path, nproc: int = 1) -> dict[str, Any]:
    """Build a job as far as its files, and return what was found of each beside the checkpoint.

    Raises:
        MetierError: for everything the user can mend; nothing finished is lost.
    """
    with _alone(run), _told_when_full(run):
        return _made(job, run, nproc).swept


class _Made(NamedTuple):
    """What the road up to the files leaves."""

    data: Path
    facts: dict[str, Any]
    """Results of the steps ``start``, ``train`` and ``prompt``; and the ledger."""
    cuts: dict[str, Any]
    """Facts of the models that were cut from the trained one."""
    models: dict[str, Path]
    """Hugging Face folders, by name of the cut."""
    files: Step
    parity: Step
    swept: dict[str, Any]
    """What was found of the files, and which is chosen."""


def _made(job: Job, run: Path, nproc: int) -> _Made:
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
    from metier.steps import compress, ship, start, sweep  # torch loads here: bad data is told before
    from metier.steps.prompt import choose_prompt
    from metier.steps.torchrun import by_processes

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
                "pretrain": job.pretrain.learned,
                "losses": job.losses.model_dump(),
                "seed": job.seed,
                "start": begun.key,
            },
            lambda folder: by_processes(nproc, job, data.folder, begun.folder, folder),
        )
        weights, learned_from = pretrained.folder / "model", pretrained.key
    prompts = step(
        "prompt",
        {"task": job.task_settings, "start": begun.key},
        lambda _: choose_prompt(job, data.folder, begun.folder),
    )
    prompt = PromptFormat.from_json(prompts.result["prompt"])
    trained = step(
        "train",
        {
            "train": job.train.learned,
            "losses": job.losses.model_dump(),
            "seed": job.seed,
            "start": learned_from,
            "prompt": prompts.key,
        },
        lambda folder: by_processes(nproc, job, data.folder, weights, folder, prompt),
    )
    models, made_from, cuts = {ship.WHOLE: trained.folder / "model"}, trained.key, {}
    if job.compress.cuts:
        compressed = step(
            "compress",
            {"compress": job.compress.model_dump(exclude={"prefer"}), "train": trained.key},
            lambda folder: compress.compress_job(job, data.folder, models[ship.WHOLE], prompt, folder),
        )
        models |= {cut.name: compressed.folder / cut.name / "model" for cut in job.compress.cuts}
        made_from, cuts = compressed.key, compressed.result
    ledger = with_base(read_json(data.folder / "ledger.json"), begun.result["base"])
    licence = "; ".join(ledger["shipping"]["terms"])
    files = step(
        "files",
        {
            "train": made_from,
            "quantisations": job.export.quantisations,
            "licence": licence,
            "name": job.name,
        },
        lambda folder: ship.write_files(job, models, prompt, licence, folder),
    )
    parity = step(
        "parity",
        {
            "files": files.key,
            "data": data.key,
            "exam": job.evaluate.model_dump(),
            "margin": job.release.parity_margin,
        },
        lambda folder: sweep.gate(job, data.folder, models, prompt, files.folder, folder),
    )
    facts = {
        "ledger": ledger,
        "start": begun.result,
        "train": trained.result,
        "prompt": prompts.result,
    }
    swept = sweep.chosen_of(job, parity.result, run)
    return _Made(data.folder, facts, cuts, models, files, parity, swept)


def _judged(job: Job, run: Path, made: _Made) -> Verdict:
    from metier.steps import bundle, exam, ship

    step = _Steps(run)
    facts, swept = made.facts, made.swept
    ledger, chosen = facts["ledger"], swept["chosen"]
    shipped = ship.gguf_path(made.files.folder, job, chosen) if chosen else None
    cut = swept["candidates"][chosen]["cut"] if chosen else ship.WHOLE
    examined = step(
        "exam",
        {
            "parity": made.parity.key,
            "chosen": chosen,
            "limits": job.limits.model_dump(),
            "release": job.release.model_dump(),
            "shipping": ledger["shipping"],
        },
        lambda folder: exam.examine(
            job,
            made.data,
            made.files.folder,
            made.models[cut],
            swept,
            facts["prompt"],
            ledger["shipping"],
            folder,
        ),
    )
    step(
        "export",
        {"exam": examined.key, "context": job.export.context_tokens, "ledger": ledger},
        lambda folder: bundle.bundle(
            job,
            shipped,
            made.models[cut],
            {**facts, "verdict": examined.result, "sweep": swept, "cut": made.cuts.get(cut)},
            run,
            made.data,
            folder,
        ),
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
