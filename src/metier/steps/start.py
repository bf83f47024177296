"""The step ``start``: the untrained model with the job's own vocabulary, as a Hugging Face folder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import gguf
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerFast

from metier.artifact import Step, key_of, versions
from metier.compress.structure import check_cuts
from metier.data.records import each_record, read_documents, read_records
from metier.errors import SpecError
from metier.export.huggingface import write_folder
from metier.model.architectures import architecture_of
from metier.model.bases import content_of, find_base, stated_licence
from metier.model.loading import load
from metier.model.scratch import scratch
from metier.progress import say
from metier.spec.contestants import kind_and_name
from metier.spec.estimates import context_of
from metier.spec.job import Job
from metier.spec.quantisation import Quantisation
from metier.steps.vocabulary import adopt
from metier.tasks.prompt import PromptFormat
from metier.tasks.registry import Task, task_from_json
from metier.tokenizer.learn import learn
from metier.tokenizer.read import begins_with_bos
from metier.train.lora import load_peft
from metier.train.objective import check_head
from metier.train.router import check_routing
from metier.train.ul2 import sentinels_needed


def inputs(job: Job) -> dict[str, Any]:
    """Return what the step depends on, beside the rows; what this job makes no use of is not in it."""
    used = {
        **job.start_settings,
        "sentinels": _sentinels(job),
        "versions": versions("gguf", "tokenizers", "transformers"),
    }
    if job.base.from_scratch:
        return used | {"seed": job.seed, "context": context_of(job)}
    content = content_of(job.base.model)[1:]  # of local files, which may change under the same name
    return used | {"adopted": _adopts(job)} | ({"content": content} if content else {})


def check_packages(job: Job) -> None:
    """Refuse, before any training, a job that needs a package that is not installed.

    Raises:
        RunError: when one is missing.
    """
    if job.train.lora:
        load_peft()


def check(job: Job, begun: Step) -> None:
    """Refuse, before any training, files that the untrained model cannot become, whenever it was made.

    Raises:
        ArtifactError: when its architecture cannot be written.
        SpecError: when no file can be within the limits, the model has no such parts to cut, or rows are longer than
            what it was made for.
    """
    config = AutoConfig.from_pretrained(begun.folder, trust_remote_code=False, local_files_only=True)
    _check_lengths(job, getattr(config, "max_position_embeddings", None))
    for settings in filter(None, (job.pretrain, job.train)):
        check_routing(config, settings)
    if not job.export.quantisations:
        return
    architecture_of(config, f"base {job.base.model!r}")
    if job.compress.cuts:
        check_cuts(config, job.compress)
    else:
        _check_size(job, begun.result["parameters"])


def base_of(job: Job, begun: Step) -> dict[str, Any] | None:
    """Return the facts of the base, under the licence that the job states or else its own; None from scratch."""
    found: dict[str, Any] | None = begun.result["base"]
    if found is None:
        return None
    kind, name = kind_and_name(job.base.model)
    # a folder may be corrected after it was read
    stated = stated_licence(Path(name)) if kind == "path" and Path(name).is_dir() else found["licence"]
    return {**found, "licence": job.base.licence or stated}


def key_of_model(job: Job, begun: Step) -> str:
    """Return the key of the untrained model: of what it was made from, or of what it is.

    The second where the size of its vocabulary was measured: with another limit the same may be chosen. What else is in
    the step's own key, the rows and the versions, stays in it.
    """
    if job.base.from_scratch or job.vocabulary.pieces != "auto":
        return begun.key
    made = {name: digest for name, digest in begun.hashes.items() if not name.startswith("vocabulary.")}
    asked = begun.manifest["inputs"]
    return key_of([made, asked["rows"], {name: one for name, one in asked["job"].items() if name != "vocabulary"}])


def start(job: Job, data: Path, folder: Path) -> dict[str, Any]:
    """Write the untrained model into the folder; return its facts and its base's, with the licence that it states."""
    train = data / "train.jsonl"
    plain = [text for texts in read_documents(data / "text.jsonl").values() for text in texts] if job.pretrain else []
    task = task_from_json(job.task_settings)
    facts: dict[str, Any]
    if job.base.from_scratch:
        model, tokenizer = _from_scratch(job, task, train, plain)
        facts = {"base": None}
    else:
        base = find_base(job.base.model)
        model, tokenizer = load(base.folder)
        if job.export.quantisations:
            architecture_of(model.config, f"base {base.reference!r}")  # before a vocabulary is measured
        check_head(model, f"base {base.reference!r}")
        facts = {
            "base": {
                "reference": base.reference,
                "licence": base.licence,
                "origin": base.origin,
                "sha256": base.sha256,
                "pieces": len(tokenizer),
                "parameters": model.num_parameters(),
            }
        }
        if _adopts(job):
            validation = read_records(data / "validation.jsonl")
            tokenizer = adopt(job, model, tokenizer, train, plain, validation, _sentinels(job), folder)
    begins_with_bos(tokenizer)  # refused before any training, not when its template is written
    facts |= {"pieces": len(tokenizer), "parameters": model.num_parameters()}
    write_folder(folder, model, tokenizer)
    say(f"  {facts['parameters'] / 1e6:.1f} M parameters, {facts['pieces']:,} pieces")
    return facts


def _from_scratch(
    job: Job, task: Task, train: Path, plain: Sequence[str]
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    prompt = task.prompts()[0]
    pieces = learn(_Texts(prompt, train, plain), job.base.vocabulary, sentinels=_sentinels(job))
    base, context = job.base, context_of(job)
    model = scratch(
        len(pieces), base.hidden_size, base.layers, context, job.seed, architecture=base.architecture, **base.sizes
    )
    return model, pieces.tokenizer()


@dataclass(frozen=True)
class _Texts:
    """What a vocabulary is learned from: the prompt, the rows as the model will see them, plain text."""

    prompt: PromptFormat
    train: Path
    plain: Sequence[str]

    def __iter__(self) -> Iterator[str]:
        rows = (text for row in each_record(self.train) for text in (row.input, self.prompt.answer(row.output)))
        return chain([self.prompt.render("")], rows, self.plain)


def _adopts(job: Job) -> bool:
    """Whether a base's vocabulary is made anew, as llama.cpp cuts text or with fewer pieces."""
    return bool(job.export.quantisations) or job.vocabulary.pieces != "all"


def _sentinels(job: Job) -> int:
    """Return how many sentinels pretraining needs."""
    return sentinels_needed(job.pretrain.row_tokens) if job.pretrain and job.pretrain.objective == "ul2" else 0


def _check_lengths(job: Job, positions: int | None) -> None:
    """Refuse rows that are longer than the texts the base was made for."""
    asked = {"train.max_tokens": job.train.max_tokens} | (
        {"pretrain.row_tokens": job.pretrain.row_tokens} if job.pretrain else {}
    )
    for key, tokens in asked.items():
        if positions and tokens > positions:
            raise SpecError(
                key, f"{tokens}, but the base was made for {positions} tokens", f"Write at most {positions}"
            )


def _check_size(job: Job, parameters: int) -> None:
    """Refuse, before any training, limits that no asked quantisation can meet."""
    if job.limits.file_mib is None:
        return
    least = min(_bits_a_weight(q) for q in job.export.quantisations)
    smallest = parameters * least / 8 / 2**20
    if smallest > job.limits.file_mib:
        raise SpecError(
            "limits.file_mib",
            f"{job.limits.file_mib:g} MiB, but {parameters / 1e6:.0f} M parameters at {least:g} bits take "
            f"{smallest:.0f} MiB",
            f"Write at least {smallest * 1.03:.0f}, ask for a smaller quantisation in export.quantisations, "
            "or keep fewer pieces in vocabulary.pieces",
        )


def _bits_a_weight(quantisation: str) -> float:
    """Return the least size of a stored weight, its share of the block's scale included."""
    sizes = [gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]] for kind in Quantisation.of(quantisation)]
    return min(8 * size_bytes / weights for weights, size_bytes in sizes)
