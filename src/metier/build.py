"""The main path: a job description in, a verdict and the folder that ships out.

Every step works in a folder of its own below the run folder and is done once: called again, the build goes on where
it was stopped, and repeats only what depends on something that changed.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from metier.artifact import Step, key_of, read_json, run_step, write_json
from metier.data.ledger import with_base
from metier.data.prepare import fingerprint, prepare
from metier.data.questions import prepare as questions
from metier.errors import MetierError, RunError
from metier.evaluate.confidence import Knowledge
from metier.evaluate.verdict import Verdict
from metier.progress import say
from metier.spec.data import AnySource
from metier.spec.job import Job
from metier.spec.training import Training
from metier.tasks.prompt import PromptFormat

_LEARNED = ("train.jsonl", "validation.jsonl", "text.jsonl", "text_validation.jsonl")
"""Files of rows that models come from."""


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
        trained = _trained(job, run, nproc)
        return _judged(job, run, trained, _measured(job, run, trained))


def sweep(job: Job, run: Path, nproc: int = 1) -> dict[str, Any]:
    """Build a job as far as its files, and return what was found of each beside the checkpoint.

    Raises:
        MetierError: for everything the user can mend; nothing finished is lost.
    """
    with _alone(run), _told_when_full(run):
        return _measured(job, run, _trained(job, run, nproc)).swept


class _Trained(NamedTuple):
    """The first part of the road: rows, and the model that learned them."""

    data: Step
    base: dict[str, Any] | None
    """Facts of the base, its licence among them."""
    prompts: Step
    rivals: dict[str, Step]
    """How each rival is asked."""
    train: Step

    @property
    def prompt(self) -> PromptFormat:
        """How the job is put to the model."""
        return PromptFormat.from_json(self.prompts.result["prompt"])


class _Measured(NamedTuple):
    """The second part: the model as files, and what was found of them."""

    models: dict[str, Path]
    """Hugging Face folders, by name of the cut."""
    key: str
    """What the models depend on."""
    cuts: dict[str, Any]
    """Facts of the models that were cut from the trained one."""
    ledger: dict[str, Any]
    files: Step
    swept: dict[str, Any]
    """What was found of the files, judged by the job; and which is chosen."""


def _trained(job: Job, run: Path, nproc: int) -> _Trained:
    step = _Steps(run)
    data = step(
        "data",
        questions.inputs(job.data, job.qa, job.seed) if job.task == "qa" else _sources(job),
        lambda folder: _prepare(job, folder),
    )

    # Threads that wait for microseconds before they sleep: by default they spin through whole time slices, which
    # makes a training on a busy machine several times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    # Huge pages for large tensors: without, a new gradient of many experts waits for the system's 4 KiB pages.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    from metier.steps import rivals, start  # torch loads here: bad data is told before
    from metier.steps.prompt import choose_prompt
    from metier.steps.torchrun import by_processes

    start.check_packages(job)
    begun = step(
        "start",
        {"job": start.inputs(job), "rows": _rows(data, learned=True)},
        lambda folder: start.start(job, data.folder, folder),
    )
    start.check(job, begun)
    weights, learned_from = begun.folder, begun.key
    if job.pretrain:
        pretrained = step(
            "pretrain",
            {
                "pretrain": _learned(job, job.pretrain),
                "losses": job.losses.model_dump(),
                "weights": data.result["text"]["weights"],
                "seed": job.seed,
                "start": begun.key,
            },
            lambda folder: by_processes(nproc, job, data.folder, begun.folder, folder),
        )
        weights, learned_from = pretrained.folder / "model", pretrained.key
    prompts = step(
        "prompt",
        {"task": job.task_settings, "max_tokens": job.train.max_tokens, "start": begun.key},
        lambda _: choose_prompt(job, data.folder, begun.folder),
    )
    prompted = rivals.prompted(job, data, step)
    prompt = PromptFormat.from_json(prompts.result["prompt"])
    train = step(
        "train",
        {
            "train": _learned(job, job.train),
            "losses": job.losses.model_dump(),
            "seed": job.seed,
            "start": learned_from,
            "prompt": prompts.key,
        },
        lambda folder: by_processes(nproc, job, data.folder, weights, folder, prompt),
    )
    return _Trained(data, start.base_of(job, begun), prompts, prompted, train)


def _prepare(job: Job, folder: Path) -> dict[str, Any]:
    if job.task == "qa":
        return questions.prepare_questions(job.data, job.qa, folder, seed=job.seed)
    return prepare(job.data, folder, seed=job.seed)


def _sources(job: Job) -> dict[str, Any]:
    """Return what rows depend on."""
    sources: dict[str, Sequence[AnySource]] = {"train": job.data.train, "test": job.data.test}
    if job.data.text:
        sources["text"] = job.data.text
    return {
        "cleaning": job.data.cleaning.model_dump(),
        "split": job.data.split.model_dump(),
        **{role: [fingerprint(source) for source in these] for role, these in sources.items()},
        "seed": job.seed,
    }


def _measured(job: Job, run: Path, trained: _Trained) -> _Measured:
    from metier.steps import compress, parity, ship

    step, data, prompt = _Steps(run), trained.data.folder, trained.prompt
    whole = trained.train.folder / "model"
    models, made_from, cuts = {ship.WHOLE: whole}, trained.train.key, {}
    if job.compress.cuts:
        compressed = step(
            "compress",
            {"compress": job.compress.model_dump(exclude={"prefer"}), "train": trained.train.key},
            lambda folder: compress.compress_job(job, data, whole, prompt, folder),
        )
        models |= {cut.name: compressed.folder / cut.name / "model" for cut in job.compress.cuts}
        made_from, cuts = compressed.key, compressed.result
    ledger = with_base(read_json(data / "ledger.json"), trained.base)
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
    # what was measured of the files outlives another licence in them
    gated = step(
        "parity",
        {
            "models": made_from,
            "quantisations": job.export.quantisations,
            "rows": job.evaluate.validation_rows,
            "max_answer_tokens": job.evaluate.max_answer_tokens,
        },
        lambda folder: parity.gate(job, data, models, prompt, files.folder, folder),
    )
    swept = parity.judged(job, gated.result, files.result["file_mib"])
    parity.write_sweep(swept, run)
    return _Measured(models, made_from, cuts, ledger, files, swept)


def _known(job: Job, run: Path, trained: _Trained, measured: _Measured, shipped: Path) -> list[Knowledge]:
    """Return what the chosen file knows, and what its base and the rivals do that are GGUF files."""
    from metier.steps import confidence, rivals

    step, data, theirs = _Steps(run), trained.data, trained.prompts.result["base_prompt"]
    asked = confidence.inputs(job, data)
    ours = step(
        "confidence",
        {**asked, "models": measured.key, "chosen": measured.swept["chosen"]},
        lambda folder: confidence.ask_shipped(job, data.folder, shipped, folder),
    )
    found = [confidence.knowledge(job, data.folder, shipped.stem, ours.folder)]
    others = {}
    if not job.base.from_scratch:
        others["base"] = step(
            "base_confidence",
            {**asked, "prompt": trained.prompts.key},
            lambda folder: confidence.ask_released(
                job, data.folder, "base", job.base.model, PromptFormat.from_json(theirs), 1024, folder
            ),
        )
    for name, prompt in trained.rivals.items():
        rival = rivals.released(job, name, prompt)
        others[name] = step(
            f"rivals/{name}/confidence",
            {**asked, "prompt": prompt.key},
            partial(confidence.ask_released, job, data.folder, *rival),
        )
    found += [
        confidence.knowledge(job, data.folder, name, other.folder)
        for name, other in others.items()
        if other.result["asked"]
    ]
    return found


def _judged(job: Job, run: Path, trained: _Trained, measured: _Measured) -> Verdict:
    from metier.steps import bundle, exam, rivals, ship

    step, data, prompts, swept = _Steps(run), trained.data.folder, trained.prompts, measured.swept
    chosen = swept["chosen"]
    cut = swept["candidates"][chosen]["cut"] if chosen else ship.WHOLE
    shipped = ship.gguf_path(measured.files.folder, job, chosen) if chosen else None
    known = _known(job, run, trained, measured, shipped) if job.task == "qa" and shipped else []
    asked = {
        "rows": _rows(trained.data, learned=False),
        "first": job.evaluate.test_rows,
        "max_answer_tokens": job.evaluate.max_answer_tokens,
    }
    base = None
    if not job.base.from_scratch:
        base = step(
            "base",
            {**asked, "prompt": prompts.key},
            lambda folder: exam.examine_base(job, data, prompts.result, folder),
        )
    examined = step(
        "exam",
        {**asked, "models": measured.key, "chosen": chosen, "base": base.key if base else None},
        lambda folder: exam.examine(
            job, data, shipped or measured.models[cut], prompts.result, base.folder if base else None, folder
        ),
    )
    size, theirs = measured.files.result["file_mib"].get(chosen), base.result if base else None
    met = rivals.met(job, data, trained.rivals, {**asked, "timed": prompts.result["prompt"]}, examined, step)
    shipping = measured.ledger["shipping"]
    verdict = exam.judge(job, size, examined.result, theirs, swept, shipping, met, known[0] if known else None)
    papers: dict[str, Any] = {
        "ledger": measured.ledger,
        "verdict": verdict.to_json(),
        "sweep": swept,
        "rivals": {name: prompt.result for name, prompt in trained.rivals.items()},
    }
    of_facts: dict[str, Any] = {}
    if job.task == "qa":
        papers["knowledge"] = [one.to_json() for one in known]
        of_facts = {"knowledge": key_of(papers["knowledge"]), "store": trained.data.hashes[bundle.STORE]}
    step(
        "export",
        {"exam": examined.key, "files": measured.files.key, "context": job.export.context_tokens, **papers, **of_facts},
        lambda folder: bundle.bundle(
            job,
            shipped,
            measured.models[cut],
            {**papers, "train": trained.train.result, "prompt": prompts.result, "cut": measured.cuts.get(cut)},
            run,
            data,
            folder,
        ),
    )
    write_json(run / "job.json", job.model_dump())
    return verdict


def _rows(data: Step, *, learned: bool) -> dict[str, str]:
    """Return the hashes of the files of rows that models come from, or of those of the exam.

    What is learned depends on them, and not on what the ledger says of their licences.
    """
    wanted = _LEARNED if learned else ("test.jsonl",)
    return {name: digest for name, digest in data.hashes.items() if name in wanted}


def _learned(job: Job, settings: Training) -> dict[str, Any]:
    """Return what a training's result depends on; a rate that is stated is the same as one by default."""
    return settings.learned | {"peak_lr": settings.peak(from_scratch=job.base.from_scratch)}


class _Steps:
    """Runs steps in folders below the run folder, telling the user which were already finished."""

    def __init__(self, run: Path) -> None:
        self._run = run

    def __call__(self, name: str, inputs: dict[str, Any], work: Callable[[Path], Any]) -> Step:
        packages = ("torch", "transformers", "tokenizers", "gguf", "xllamacpp", "sacrebleu")
        return run_step(self._run / name, inputs, work, packages=packages, said=partial(self._say, name))

    @staticmethod
    def _say(name: str, _folder: str, finished: bool) -> None:
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
