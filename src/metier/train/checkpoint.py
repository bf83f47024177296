"""Stop and go on as if nothing had happened: what was learned, optimiser state and step, checked on reading.

A checkpoint is a folder ``step-<number>`` of safetensors files, written by torch.distributed.checkpoint, and a
``checkpoint.json`` with their hashes, made under another name and renamed when complete. The last two are kept: a
damaged one is noticed and the one before is used. Each process writes what it has of the weights, and any number of
processes reads it back.

Beside them lies ``best.safetensors``, the weights of the lowest validation loss, with their hash among its metadata:
one file, so that weights and hash take their place together.
"""

import hashlib
import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from metier.artifact import flush, key_of, read_json, sha256_file, write_json
from metier.errors import ArtifactError
from metier.progress import say
from metier.train import processes
from metier.train.optimizers import trained_parameters

BEST = "best.safetensors"

_KEPT = 2
_FILE_BYTES = 1 << 28
"""Size of a file: it is copied in memory while it is written."""


_FACTS = "metier"


class Best(NamedTuple):
    """The weights of the lowest validation loss so far."""

    steps: int
    """After how many steps."""
    loss_nats: float
    weights: dict[str, torch.Tensor]


def save_best(folder: Path, best: Best) -> None:
    """Write the best weights in the place of those before, whole or not at all."""
    facts: dict[str, Any] = {"steps": best.steps, "loss_nats": best.loss_nats}
    weights = {name: weight.detach().contiguous() for name, weight in best.weights.items()}
    part = folder / f"{BEST}.part"
    save_file(weights, part, metadata={_FACTS: json.dumps(facts | {"sha256": _digest(facts, weights)})})
    flush(part)
    part.replace(folder / BEST)


def read_best(folder: Path) -> Best:
    """Read the best weights back.

    Raises:
        ArtifactError: when they are missing or damaged.
    """
    path = folder / BEST
    fix = "Run the same command again: the best weights of the validations still to come take their place"
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()[_FACTS])
            digest = facts.pop("sha256")
            best = Best(**facts, weights={name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise ArtifactError(str(path), "is missing" if not path.exists() else "is damaged", fix) from error
    if digest != _digest(facts, best.weights):
        raise ArtifactError(str(path), "is damaged", fix)
    return best


def _digest(facts: dict[str, Any], weights: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(key_of(facts).encode())
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {list(weight.shape)}\n".encode())
        digest.update(weight.cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_checkpoint(
    folder: Path, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Write a checkpoint after ``step`` steps and remove all but the last two.

    Args:
        folder: where checkpoints live.
        step: number of steps done.
        model: the model; its frozen weights are not stored.
        optimizer: of any kind that remembers tensors; they are stored under the parameter's name.
        state: JSON-able facts of the loop.
    """
    part = folder / f"step-{step:08d}.part"
    if processes.is_main():
        for left_over in (part, *folder.glob("step-*.part")):  # of a kill, at whatever step
            shutil.rmtree(left_over, ignore_errors=True)
        part.mkdir(parents=True)
    processes.barrier()
    tensors = _tensors(model, optimizer)
    with _plainly():
        save(tensors, storage_writer=HuggingFaceStorageWriter(str(part), _files(tensors), save_distributed=True))
    if processes.is_main():
        hashes = {file.name: sha256_file(file) for file in sorted(part.iterdir())}
        facts = {"step": step, "sha256": hashes, "state": state}
        write_json(part / "checkpoint.json", facts | {"key": key_of(facts)})
        final = folder / f"step-{step:08d}"
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
        for old in sorted(folder.glob("step-????????"))[:-_KEPT]:
            shutil.rmtree(old)
    processes.barrier()  # for the hashes of the first, which take minutes for a large model


def resume(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, dict[str, Any]] | None:
    """Load the newest undamaged checkpoint into model and optimizer; return its step and state, or None."""
    newest = _newest(folder) if processes.is_main() else None
    processes.barrier()  # for its hashes
    found = processes.broadcast_object(newest)
    if found is None:
        return None
    name, facts = found
    reader = HuggingFaceStorageReader(str(folder / name))
    stored = reader.read_metadata().state_dict_metadata
    _remember_nothing(optimizer)
    tensors = _tensors(model, optimizer)
    with _plainly():
        load({key: tensor for key, tensor in tensors.items() if key in stored}, storage_reader=reader)
    for name, parameter in trained_parameters(
        model, optimizer
    ).items():  # one that had no gradient yet has nothing to remember
        if not any(f"optimizer/{name}/{key}" in stored for key in optimizer.state[parameter]):
            del optimizer.state[parameter]
    return int(facts["step"]), facts["state"]


def _tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return all that a checkpoint holds, by name; to be written, or to be filled in place."""
    named = trained_parameters(model, optimizer)
    weights = {f"model/{name}": parameter.detach() for name, parameter in named.items()}
    remembered = {
        f"optimizer/{name}/{key}": value
        for name, parameter in named.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    return weights | remembered


def _remember_nothing(optimizer: torch.optim.Optimizer) -> None:
    """Give an optimiser the tensors it will have, to be filled: it makes them in its first step."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _files(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    """Return for every tensor the number, from 1, of the file it goes to."""
    files, number, filled = {}, 1, 0
    for name, tensor in tensors.items():
        if filled and filled + tensor.nbytes > _FILE_BYTES:
            number, filled = number + 1, 0
        files[name] = number
        filled += tensor.nbytes
    return files


def _newest(folder: Path) -> tuple[str, dict[str, Any]] | None:
    """Return name and facts of the newest undamaged checkpoint; damaged ones are removed."""
    for checkpoint in sorted(folder.glob("step-????????"), reverse=True):
        try:
            facts = _facts(checkpoint)
            _check_files(checkpoint, facts["sha256"])
            return checkpoint.name, facts
        except ArtifactError as error:
            say(f"  {error.where}: {error.found}; going on from the one before")
            shutil.rmtree(checkpoint)
    return None


def newest_state(folder: Path) -> dict[str, Any] | None:
    """Return the state in the newest checkpoint whose facts are undamaged, or None; no tensor is looked at."""
    for checkpoint in sorted(folder.glob("step-????????"), reverse=True):
        with suppress(ArtifactError):
            state: dict[str, Any] = _facts(checkpoint)["state"]
            return state
    return None


def _facts(checkpoint: Path) -> dict[str, Any]:
    facts: dict[str, Any] = read_json(checkpoint / "checkpoint.json")
    if facts.pop("key", None) != key_of(facts):
        raise ArtifactError(str(checkpoint / "checkpoint.json"), "is damaged", "It is not used")
    return facts


def _check_files(checkpoint: Path, hashes: dict[str, str]) -> None:
    for name, digest in hashes.items():
        file = checkpoint / name
        if not file.is_file() or sha256_file(file) != digest:
            raise ArtifactError(str(file), "is damaged", "It is not used")


@contextmanager
def _plainly() -> Iterator[None]:
    """Raise what really went wrong in torch.distributed.checkpoint, and do not warn of a process that is alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        try:
            yield
        except CheckpointException as error:
            raise next(iter(error.failures.values()))[0] from error
