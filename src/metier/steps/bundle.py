"""The step ``export``: the folder that is passed on."""

import shutil
from pathlib import Path
from typing import Any

from metier.analysis.knowledge_page import page
from metier.artifact import write_atomically, write_json
from metier.data.ledger import LICENCES
from metier.data.questions.prepare import STORE
from metier.evaluate.candidates import Candidate
from metier.evaluate.confidence import Knowledge
from metier.evaluate.verdict import Verdict
from metier.export.card import card, checksums, modelfile
from metier.facts.store import open_store
from metier.run.locate import EXPORT_FORMAT
from metier.spec.estimates import session_tokens
from metier.spec.job import Job
from metier.steps.parity import PLOT, SWEEP
from metier.tasks.prompt import PromptFormat

REPORT, KNOWLEDGE = "report.html", "knowledge.json"
"""What the folder of a job about facts has beside the file and the store."""


def bundle(
    job: Job,
    shipped: Path | None,
    model_folder: Path,
    facts: dict[str, Any],
    measured: Path,
    data: Path,
    folder: Path,
) -> dict[str, Any]:
    """Gather the chosen file, the Hugging Face folder, card, ledger, the sources' licences, verdict and checksums.

    Args:
        job: the job description.
        shipped: the chosen GGUF file, None when none was asked for.
        model_folder: the checkpoint as a Hugging Face folder.
        facts: results of the steps before: ``verdict``, ``ledger``, ``train``, ``prompt``, ``rivals``, ``sweep``,
            ``cut``, that of the chosen cut or None, and of a job about facts ``knowledge``, the shipped file's first.
        measured: the folder with the numbers and the plot of the sweep.
        data: the folder of the data step, with what the sources' packages say of their licences.
        folder: where the bundle goes.
    """
    if shipped:
        for file in (shipped, measured / SWEEP, measured / PLOT):
            _copy(file, folder / file.name)
    for file in sorted((data / LICENCES).glob("*")):
        _copy(file, folder / LICENCES / file.name)
    candidates = [Candidate.from_json(one) for one in facts["sweep"]["candidates"].values()]
    for file in sorted(model_folder.iterdir()):
        _copy(file, folder / "huggingface" / file.name)
    known = [Knowledge.from_json(one) for one in facts.get("knowledge", ())]
    prompt = PromptFormat.from_json(facts["prompt"]["prompt"])
    of_base = facts["prompt"]["base_prompt"]
    limit = job.evaluate.max_answer_tokens
    papers = {
        "README.md": card(
            name=job.name,
            file_name=shipped.name if shipped else None,
            verdict=Verdict.from_json(facts["verdict"]),
            ledger=facts["ledger"],
            base=facts["ledger"]["base"],
            training=facts["train"],
            cut=facts["cut"],
            candidates=candidates,
            chosen=facts["sweep"]["chosen"],
            prompt=prompt,
            base_prompt=PromptFormat.from_json(of_base) if of_base else None,
            rivals=facts["rivals"],
            knowledge=known,
            languages=[job.translation.source, job.translation.target] if job.translation else [],
        ),
    }
    if shipped:
        papers["Modelfile"] = modelfile(shipped.name, prompt, job.export.context_tokens, limit)
    for name, text in papers.items():
        write_atomically(folder / name, text)
    write_json(folder / "ledger.json", facts["ledger"])
    write_json(folder / "verdict.json", facts["verdict"])
    described = {
        "format": EXPORT_FORMAT,
        "job": job.name,
        "file": shipped.name if shipped else None,
        "task": job.task_settings,
        "context_tokens": session_tokens(job),
    }
    if job.task == "qa":
        described |= _store(data, folder)
    if known:
        described["calibration"] = known[0].calibration.to_json()
        write_json(folder / KNOWLEDGE, {"format": 1, "contestants": facts["knowledge"]})
        write_atomically(folder / REPORT, page(job.name, known))
    write_json(folder / "metier.json", described)
    write_atomically(folder / "SHA256SUMS", checksums(folder))
    return {"file": shipped.name if shipped else None}


def _store(data: Path, folder: Path) -> dict[str, str]:
    """Put the fact store beside the file; return what ``metier.json`` says of it."""
    _copy(data / STORE, folder / STORE)
    with open_store(folder / STORE) as store:
        return {"store": STORE, "store_key": store.key}


def _copy(source: Path, target: Path) -> None:
    """Copy a file: what is done to the folder that is passed on does nothing to the run."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
