"""The main path: a job description in, a verdict and the folder that ships out.

Every step works in a folder of its own below the run folder and is done once: called again, the build goes on where
it was stopped, and repeats only what depends on something that changed.
"""

from pathlib import Path
from typing import Any, NamedTuple

from metier.artifact import Step, key_of, read_json
from metier.data.ledger import with_base
from metier.data.questions.prepare import STORE
from metier.evaluate.confidence import Knowledge
from metier.evaluate.verdict import Verdict
from metier.spec.contestants import BASE
from metier.spec.job import Job
from metier.steps import threads
from metier.steps.data import learned_rows, prepare_data, sources
from metier.steps.run_folder import Steps, building
from metier.tasks.prompt import PromptFormat


def build(job: Job, run: Path, nproc: int = 1) -> Verdict:
    """Build a job in its run folder and return the verdict.

    Args:
        job: the job.
        run: its run folder.
        nproc: how many processes train and heal; all else is done in this one.

    Raises:
        MetierError: for everything the user can mend; nothing finished is lost.
    """
    with building(run):
        trained = _trained(job, run, nproc)
        return _judged(job, run, trained, _measured(job, run, trained, nproc))


def sweep(job: Job, run: Path, nproc: int = 1) -> dict[str, Any]:
    """Build a job as far as its files, and return what was found of each beside the checkpoint.

    Raises:
        MetierError: for everything the user can mend; nothing finished is lost.
    """
    with building(run):
        return _measured(job, run, _trained(job, run, nproc), nproc).swept


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


class _Chosen(NamedTuple):
    """What sits the exam: the file that was chosen, or the checkpoint where no file was asked for."""

    name: str | None
    """Of the candidate."""
    cut: str
    file: Path | None
    model: Path
    """The checkpoint, as a Hugging Face folder."""
    mib: float | None
    """Size of the file."""

    @property
    def asked_as(self) -> str:
        """What it is called among those that `_Sure` knows."""
        return self.file.stem if self.file else ""


class _Sure(NamedTuple):
    """Of a job about facts, the contestants asked how sure they are, the chosen file first; of other jobs nobody."""

    steps: dict[str, Step]
    """The answers with their likelihood, by the contestant's name."""
    known: list[Knowledge]

    def folder(self, name: str) -> Path | None:
        """Return where a contestant's answers are; None where it was not asked."""
        return self.steps[name].folder if name in self.steps else None

    def key(self, name: str) -> dict[str, str]:
        """Return what the key of an exam says of the answers that it takes from there."""
        return {"sure": self.steps[name].key} if name in self.steps else {}


class _Examined(NamedTuple):
    """The third part: what everybody answered to the test set."""

    base: Step | None
    ours: Step
    rivals: dict[str, dict[str, Any]]


def _trained(job: Job, run: Path, nproc: int) -> _Trained:
    step = Steps(run)
    data = step("data", sources(job), lambda folder: prepare_data(job, folder))
    threads.set_up()
    from metier.steps import rivals, start  # torch loads here: bad data is told before
    from metier.steps.launch import by_processes
    from metier.steps.prompt import choose_prompt, decided, decided_by, exams
    from metier.steps.train import learned

    start.check_packages(job)
    begun = step(
        "start",
        {"job": start.inputs(job), "rows": learned_rows(data)},
        lambda folder: start.start(job, data.folder, folder),
    )
    start.check(job, begun)
    untrained = start.key_of_model(job, begun)
    weights, learned_from = begun.folder, untrained
    if job.pretrain:
        pretrained = step(
            "pretrain",
            {
                "pretrain": learned(job, job.pretrain, begun.folder),
                "losses": job.losses.model_dump(),
                "weights": data.result["text"]["weights"],
                "seed": job.seed,
                "start": untrained,
            },
            lambda folder: by_processes(nproc, "pretrain", job, data.folder, begun.folder, folder),
        )
        weights, learned_from = pretrained.folder / "model", pretrained.key
    tried = {"task": job.task_settings, "max_tokens": job.train.max_tokens, "start": untrained}
    read = {} if job.base.from_scratch else {"exams": exams(data)}  # a model from scratch is shown no examples
    prompts = step(
        "prompt",
        {**tried, **read},
        lambda _: choose_prompt(job, data.folder, begun.folder) | (decided(tried, data.folder) if read else {}),
    )
    prompted = rivals.prompted(job, data, step)
    prompt = PromptFormat.from_json(prompts.result["prompt"])
    train = step(
        "train",
        {
            "train": learned(job, job.train, weights),
            "losses": job.losses.model_dump(),
            "seed": job.seed,
            "start": learned_from,
            "prompt": decided_by(prompts),
        },
        lambda folder: by_processes(nproc, "train", job, data.folder, weights, folder, prompt),
    )
    return _Trained(data, start.base_of(job, begun), prompts, prompted, train)


def _measured(job: Job, run: Path, trained: _Trained, nproc: int) -> _Measured:
    from metier.steps import exam, parity, ship
    from metier.steps.launch import by_processes

    step, data, prompt = Steps(run), trained.data.folder, trained.prompt
    whole = trained.train.folder / "model"
    models, made_from, cuts = {ship.WHOLE: whole}, trained.train.key, {}
    if job.compress.cuts:
        compressed = step(
            "compress",
            {"compress": job.compress.model_dump(exclude={"prefer"}), "train": trained.train.key},
            lambda folder: by_processes(nproc, "compress", job, data, whole, folder, prompt),
        )
        models |= {cut.name: compressed.folder / cut.name / "model" for cut in job.compress.cuts}
        made_from, cuts = compressed.key, compressed.result
    ledger = with_base(read_json(data / "ledger.json"), trained.base)
    licence = "; ".join(ledger["shipping"]["terms"])
    files = step(
        "files",
        {"train": made_from, "quantisations": job.export.quantisations, "licence": licence, "name": job.name},
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
            **exam.rules_of(job),
        },
        lambda folder: parity.gate(job, data, models, prompt, files.folder, folder),
    )
    swept = parity.judged(job, gated.result, files.result["file_mib"])
    parity.write_sweep(swept, run)
    return _Measured(models, made_from, cuts, ledger, files, swept)


def _asked_surely(job: Job, run: Path, trained: _Trained, measured: _Measured, shipped: Path) -> dict[str, Step]:
    """Ask the chosen file of a job about facts, its base and the rivals how sure they are."""
    from metier.steps import confidence, exam, rivals
    from metier.steps.prompt import decided_by

    step, data, prompts = Steps(run), trained.data.folder, trained.prompts
    asked = exam.inputs(job, trained.data, *confidence.EXAMS)
    ours = step(
        "confidence",
        {**asked, "models": measured.key, "chosen": measured.swept["chosen"]},
        lambda folder: confidence.ask_shipped(job, data, shipped, folder),
    )
    told = {shipped.stem: ours}
    if not job.base.from_scratch:
        told[BASE] = step(
            "base_confidence",
            {**asked, "prompt": decided_by(prompts), **confidence.asked_in(job.base.model)},
            lambda folder: confidence.ask_released(job, data, exam.base_of(job, prompts.result), folder),
        )
    return told | rivals.asked_surely(job, data, trained.rivals, asked, step)


def _judged(job: Job, run: Path, trained: _Trained, measured: _Measured) -> Verdict:
    from metier.steps import exam

    chosen = _chosen(job, measured)
    sure = _sure(job, run, trained, measured, chosen)
    examined = _examined(job, run, trained, measured, chosen, sure)
    verdict = exam.judge(
        job,
        chosen.mib,
        examined.ours.result,
        examined.base.result if examined.base else None,
        measured.swept,
        measured.ledger["shipping"],
        examined.rivals,
        sure.known[0] if sure.known else None,
    )
    _export(job, run, trained, measured, chosen, sure, examined, verdict)
    return verdict


def _chosen(job: Job, measured: _Measured) -> _Chosen:
    from metier.steps import ship

    name = measured.swept["chosen"]
    cut = measured.swept["candidates"][name]["cut"] if name else ship.WHOLE
    file = ship.gguf_path(measured.files.folder, job, name) if name else None
    return _Chosen(name, cut, file, measured.models[cut], measured.files.result["file_mib"].get(name))


def _sure(job: Job, run: Path, trained: _Trained, measured: _Measured, chosen: _Chosen) -> _Sure:
    from metier.steps import confidence

    if job.task != "qa" or not chosen.file:
        return _Sure({}, [])
    steps = _asked_surely(job, run, trained, measured, chosen.file)
    data = trained.data.folder
    return _Sure(steps, [confidence.knowledge(job, data, name, one.folder) for name, one in steps.items()])


def _examined(job: Job, run: Path, trained: _Trained, measured: _Measured, chosen: _Chosen, sure: _Sure) -> _Examined:
    """Ask the base, the chosen file and the rivals the test set."""
    from metier.steps import exam, rivals
    from metier.steps.prompt import decided_by

    step, data, prompts = Steps(run), trained.data.folder, trained.prompts
    asked = {**exam.inputs(job, trained.data), **exam.rules_of(job)}
    base, base_answers = None, None
    if not job.base.from_scratch:
        base = step(
            "base",
            {**asked, "prompt": decided_by(prompts), **sure.key(BASE)},
            lambda folder: exam.examine_base(job, data, prompts.result, sure.folder(BASE), folder),
        )
        base_answers = exam.answers_at(sure.folder(BASE), base.folder, exam.THEIRS)
    ours = step(
        "exam",
        {
            **asked,
            "models": measured.key,
            "chosen": chosen.name,
            "base": base.key if base else None,
            **sure.key(chosen.asked_as),
        },
        lambda folder: exam.examine(
            job, data, chosen.file or chosen.model, prompts.result, base_answers, sure.folder(chosen.asked_as), folder
        ),
    )
    our_answers = exam.answers_at(sure.folder(chosen.asked_as), ours.folder, exam.OURS)
    timed = {**asked, "timed": prompts.result["prompt"]}
    return _Examined(base, ours, rivals.met(job, data, trained.rivals, timed, sure.steps, ours, our_answers, step))


def _export(
    job: Job,
    run: Path,
    trained: _Trained,
    measured: _Measured,
    chosen: _Chosen,
    sure: _Sure,
    examined: _Examined,
    verdict: Verdict,
) -> None:
    """Write the folder that is passed on, with all that was found."""
    from metier.steps import bundle

    step = Steps(run)
    papers: dict[str, Any] = {
        "ledger": measured.ledger,
        "verdict": verdict.to_json(),
        "sweep": measured.swept,
        "rivals": {name: prompt.result for name, prompt in trained.rivals.items()},
    }
    of_facts: dict[str, Any] = {}
    if job.task == "qa":
        papers["knowledge"] = [one.to_json() for one in sure.known]
        of_facts = {"store": trained.data.hashes[STORE]}
    told = {"train": trained.train.result, "prompt": trained.prompts.result, "cut": measured.cuts.get(chosen.cut)}
    step(
        "export",
        {
            "exam": examined.ours.key,
            "files": measured.files.key,
            "context": job.export.context_tokens,
            **{name: key_of(paper) for name, paper in papers.items()},
            **of_facts,
        },
        lambda folder: bundle.bundle(
            job, chosen.file, chosen.model, {**papers, **told}, run, trained.data.folder, folder
        ),
    )
