"""The step ``compress``: smaller models made of the trained one, each healed by learning from it."""

import shutil
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from metier.artifact import put_aside, read_json, write_json
from metier.compress.importance import channel_importance, expert_importance, layers_to_drop, most_important
from metier.compress.structure import check_cuts, narrowed, with_experts, without_layers
from metier.data.records import read_records
from metier.export.huggingface import write_folder
from metier.model.loading import load, load_model, padding, to_accelerator
from metier.progress import bar, say
from metier.spec.compress import Cut
from metier.spec.job import Job
from metier.spec.training import Train
from metier.steps.train import WATCHED_ROWS, TextRows, rows_to_learn
from metier.steps.training_folder import Write, check_disk, is_done, train_once, write_whole
from metier.tasks.prompt import PromptFormat
from metier.train import processes
from metier.train.batches import Batch, Example, collate, encode, one_pass
from metier.train.loop import train
from metier.train.numerics import route_exactly
from metier.train.objective import batch_loss, mean_loss

_SEARCHED_ROWS = 64
"""Training rows that the loss without some layers is taken on: it is taken for a hundred choices of them."""
_READ_ROWS = 512
"""Training rows that channels and experts are watched on."""

_LAYERS = "layers.json"

_Healed = tuple[dict[str, Any], Write]
"""The facts of a cut, and what writes the healed model."""


def compress_job(job: Job, data: Path, whole: Path, prompt: PromptFormat, folder: Path) -> dict[str, Any]:
    """Make every cut that the job asks for; leave each as a Hugging Face folder ``<cut>/model``.

    A cut that was finished before a kill is not made again, and its healing goes on where it was; nor is one of a step
    that was put aside for another choice of cuts. Of several processes all must ask: they heal together, and the first
    one makes the cuts and writes.

    Args:
        job: the job description.
        data: the folder of the rows.
        whole: the trained model as a Hugging Face folder.
        prompt: the format it was trained on.
        folder: where the cuts go.

    Returns:
        For each cut by name: what was cut, parameters and the facts of its healing.

    Raises:
        SpecError: when the model has no such parts, or too few.
    """
    if processes.is_main():
        _take_over(job, folder)
    processes.barrier()  # for the copies
    healer = cache(partial(_healer, job, data, whole, prompt, folder))

    def heal(cut: Cut) -> _Healed:
        return healer()(cut, folder / cut.name)  # where all is done nothing is loaded

    facts = {}
    for cut in job.compress.cuts:
        facts[cut.name] = train_once(folder / cut.name, partial(heal, cut))
        if processes.is_main():
            shutil.rmtree(folder / cut.name / "cut", ignore_errors=True)
    return facts


def _take_over(job: Job, folder: Path) -> None:
    """Copy what was made when other cuts of the same model were asked for, and put aside since: a cut is made alone."""
    old = put_aside(folder) if (folder / "begun.json").exists() else None
    if old is None or _but_for_the_cuts(old.manifest) != _but_for_the_cuts(read_json(folder / "begun.json")):
        return
    for name in [cut.name for cut in job.compress.cuts if is_done(old.folder / cut.name)]:
        if not is_done(folder / name):
            say(f"  {name}: taken from {old.folder}")
            write_whole(folder / name, partial(shutil.copytree, old.folder / name))
    if (old.folder / _LAYERS).exists() and not (folder / _LAYERS).exists():
        write_json(folder / _LAYERS, read_json(old.folder / _LAYERS))


def _but_for_the_cuts(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what a step was made of, whichever cuts were asked for."""
    inputs: dict[str, Any] = manifest["inputs"]
    asked = {key: value for key, value in inputs["compress"].items() if key not in Cut._fields}
    return inputs | {"compress": asked}


def _healer(job: Job, data: Path, whole: Path, prompt: PromptFormat, folder: Path) -> Callable[[Cut, Path], _Healed]:
    """Load what every cut is made and healed with, and return what does it to a cut, in its folder."""
    teacher, tokenizer = load(whole)
    check_cuts(teacher.config, job.compress)
    check_disk(folder, whole, _settings(job), models=len(job.compress.cuts) + 1)  # the cuts, and one unhealed
    if job.losses.label_smoothing:
        say("  losses.label_smoothing has no part in healing, which learns the whole model's distribution")
    torch.manual_seed(job.seed)
    to_accelerator(teacher)  # the search for layers takes a hundred losses
    if job.train.precision != "float32":
        route_exactly(teacher)  # as what it teaches does
    examples = encode(tokenizer, prompt, rows_to_learn(job, TextRows(data, tokenizer)), job.train.max_tokens)
    validation = read_records(data / "validation.jsonl")[:WATCHED_ROWS]
    held_out = encode(tokenizer, prompt, validation, job.train.max_tokens)
    return partial(
        _heal, job, _Smaller(job, teacher, padding(tokenizer), examples, folder), tokenizer, examples, held_out, prompt
    )


class _Smaller:
    """Makes cuts of the trained model, by importance on the job's training text."""

    def __init__(self, job: Job, whole: PreTrainedModel, pad: int, examples: Sequence[Example], folder: Path) -> None:
        self.whole = whole
        self._job, self._folder = job, folder
        self._pad, self._examples = pad, examples

    def make(self, cut: Cut) -> tuple[PreTrainedModel, dict[str, Any]]:
        """Return the cut model, unhealed, and what was cut."""
        model = self.whole
        facts: dict[str, Any] = {}
        if cut.layers:
            facts["layers_dropped"] = self._layers()[cut.layers]
            model = without_layers(model, facts["layers_dropped"])
        if cut.feed_forward < 1:
            kept = cut.kept_channels(int(model.config.intermediate_size))
            model = narrowed(model, most_important(channel_importance(model, self._text(_READ_ROWS)), kept))
            facts["feed_forward_size"] = kept
        if cut.experts < 1:
            kept = cut.kept_experts(int(model.config.num_experts), int(model.config.num_experts_per_tok))
            model = with_experts(model, most_important(expert_importance(model, self._text(_READ_ROWS)), kept))
            facts["experts"] = kept
        return model, facts | {"parameters": model.num_parameters()}

    def _layers(self) -> list[list[int]]:
        """Return the layers to drop, for each number of them; kept in the folder, for the search takes a while."""
        path, most = self._folder / _LAYERS, max(self._job.compress.layers)
        known: list[list[int]] = read_json(path)["dropped"] if path.exists() else [[]]
        if len(known) <= most:
            batches = self._batches(_SEARCHED_ROWS)
            with bar() as progress:
                looking = progress.add_task("looking for layers to drop", total=None)

                def loss(dropped: tuple[int, ...]) -> float:
                    progress.advance(looking)
                    return mean_loss(without_layers(self.whole, dropped, shared=True), batches)

                count = int(self.whole.config.num_hidden_layers)
                known = [list(dropped) for dropped in layers_to_drop(count, most, loss, known)]
            write_json(path, {"dropped": known})
        return known

    def _text(self, rows: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(batch.ids_NT, batch.mask_NT) for batch in self._batches(rows)]

    def _batches(self, rows: int) -> list[Batch]:
        some = self._examples[:: max(len(self._examples) // rows, 1)][:rows]
        cut = one_pass([example.tokens for example in some], self._job.train.batch_tokens)
        return [collate([some[i] for i in numbers], self._pad) for numbers in cut]


def _heal(
    job: Job,
    smaller: _Smaller,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    prompt: PromptFormat,
    cut: Cut,
    place: Path,
) -> _Healed:
    """Make one cut and train it towards the whole model's distribution; return the facts, and what writes it."""
    say(f"  {cut.name}")
    unhealed = place / "cut"
    if processes.is_main() and not unhealed.exists():
        with processes.alone():
            model, made = smaller.make(cut)
        write_json(place / "cut.json", made)
        write_whole(unhealed, lambda part: write_folder(part, model, tokenizer))
    processes.barrier()  # for the cut
    healed, facts = train(
        lambda: load_model(unhealed),
        examples,
        held_out,
        _settings(job),
        _peak(job),
        place,
        pad=padding(tokenizer),
        seed=job.seed,
        losses=job.losses,
        loss_of=partial(batch_loss, teacher=smaller.whole),
    )
    made = read_json(place / "cut.json")
    return made | {"healing": facts}, lambda part: write_folder(part, healed, tokenizer, prompt)


class _Healing(Train):
    """The settings of a healing, which come from two tables."""

    def key(self, name: str) -> str:
        """Return the key of the job description that a setting comes from."""
        own = {"budget": "compress.heal", "peak_lr": "compress.peak_lr"}
        return own.get(name) or super().key(name)


def _settings(job: Job) -> Train:
    """Return how a cut model is healed: all its weights learn, whatever learned before, and at no rate for adapters."""
    excluded = {"lora", "peak_lr"} if job.train.lora else {"lora"}
    learned = job.train.model_dump(exclude_unset=True, exclude=excluded)
    return _Healing.model_validate(learned | {"budget": job.compress.heal})


def _peak(job: Job) -> float:
    """Return the highest rate of the healing. What was trained fast from scratch is spoiled by the rate it began at."""
    rate = _settings(job).peak(from_scratch=job.base.from_scratch)
    return job.compress.peak_lr or (rate / 3 if job.base.from_scratch else rate)
