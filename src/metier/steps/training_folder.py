"""The folder that a training works in: room on the disk, and a result that nothing loses once it is there.

A training that is done leaves the folder ``model`` and its facts in ``facts.json``, which says that it is done. Only
then do the checkpoints go: a kill at any moment, or a full disk, costs at most what the last checkpoint does not hold.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metier.artifact import flush, read_json, write_json
from metier.errors import RunError, told_without_memory
from metier.model.loading import free_memory
from metier.spec.estimates import model_bytes, training_bytes
from metier.spec.folder import shapes_of_folder
from metier.spec.training import Training
from metier.spec.weights import Weights
from metier.train import processes

_LESS_MEMORY = (
    "Lower micro_batch_tokens, write activation_checkpointing = true, share the model out among several processes with "
    "shard = true, or, where the job itself is learned, train adapters with a table [train.lora]; 'metier plan' says "
    "what each needs"
)

Write = Callable[[Path], None]
"""Writes a folder that is not there yet."""


def train_once(folder: Path, train: Callable[[], tuple[dict[str, Any], Write]]) -> dict[str, Any]:
    """Train, or find that it was done, and return the training's facts; the model is in the folder ``model``.

    Of several processes all must ask; the first one writes.

    Args:
        folder: where the training works.
        train: trains to the end and returns JSON-able facts, and what writes the model.

    Raises:
        RunError: when memory runs out, an accelerator's or the machine's.
    """
    facts = processes.broadcast_object(_facts(folder) if processes.is_main() else None)
    if facts is None:
        with told_without_memory(str(folder), _LESS_MEMORY):
            facts, write = train()
        if processes.is_main():
            write_whole(folder / "model", write)
            write_json(folder / "facts.json", facts)
        del write  # which holds the model
        free_memory()
    if processes.is_main():
        _clear(folder)
    processes.barrier()  # for the first, which writes
    return facts


def is_done(folder: Path) -> bool:
    """Whether a training has ended in this folder."""
    return (folder / "facts.json").exists() and (folder / "model").is_dir()


def _facts(folder: Path) -> dict[str, Any] | None:
    return read_json(folder / "facts.json") if is_done(folder) else None


def _clear(folder: Path) -> None:
    """Remove what only an unfinished training needs, and what was left half written, files and folders."""
    for left_over in (*folder.glob("step-????????"), *folder.glob("*.part"), folder / "best.safetensors"):
        if left_over.is_dir():
            shutil.rmtree(left_over)
        else:
            left_over.unlink(missing_ok=True)


def write_whole(folder: Path, write: Write) -> None:
    """Write a folder under another name, and rename it when all of it is on the disk; an older one is replaced."""
    part = folder.with_name(f"{folder.name}.part")
    for old in (part, folder):
        shutil.rmtree(old, ignore_errors=True)
    write(part)
    for file in part.rglob("*"):
        if file.is_file():
            flush(file)
    part.rename(folder)


def check_disk(folder: Path, start: Path, settings: Training, *, models: int = 0) -> None:
    """Refuse to begin what would fill the disk; what the folder holds already needs no more room.

    Args:
        folder: where the training is to work.
        start: the folder of the untrained model.
        settings: the training's.
        models: how many models of its size are written beside checkpoints and result.

    Raises:
        RunError: when there is less room.
    """
    if not processes.is_main():
        return
    weights = Weights(shapes_of_folder(start))
    needed = training_bytes(weights, settings) + models * model_bytes(weights)
    written = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    free = shutil.disk_usage(folder).free
    if free + written < needed:
        raise RunError(
            str(folder),
            f"{free / 2**20:.0f} MiB free, training needs about {(needed - written) / 2**20:.0f} MiB for its "
            "checkpoints",
            "Free disk space, or set METIER_HOME to a folder on a larger disk",
        )
