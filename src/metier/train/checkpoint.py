"""Stop and go on as if nothing had happened: what was learned, optimiser state and step, checked on reading.

A checkpoint is a folder ``step-<number>`` of safetensors files and a ``checkpoint.json`` with their hashes, made
under another name and renamed when complete. The last two are kept: a damaged one is noticed and the one before
is used.
"""

import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from metier.artifact import read_json, sha256_file, write_json
from metier.errors import ArtifactError
from metier.progress import say
from metier.train.optimizers import trained_parameters

_KEPT = 2


def save_checkpoint(
    folder: Path, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Write a checkpoint after ``step`` steps and remove all but the last two.

    Args:
        folder: where checkpoints live.
        step: number of steps done.
        model: the model; its frozen weights are not stored.
        optimizer: of any kind; what it remembers of a parameter is stored under the parameter's name: tensors beside
            the weights, numbers and None among the facts.
        state: JSON-able facts of the loop.
    """
    part = folder / f"step-{step:08d}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    named = trained_parameters(model, optimizer)
    save_file({name: p.detach().contiguous() for name, p in named.items()}, part / "model.safetensors")
    remembered = {
        f"{name}/{key}": value
        for name, parameter in named.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    tensors = {key: value.contiguous() for key, value in remembered.items() if isinstance(value, torch.Tensor)}
    save_file(tensors, part / "optimizer.safetensors")
    plain = {key: value for key, value in remembered.items() if key not in tensors}
    hashes = {file.name: sha256_file(file) for file in sorted(part.iterdir())}
    write_json(part / "checkpoint.json", {"step": step, "sha256": hashes, "state": state, "optimizer": plain})
    final = folder / f"step-{step:08d}"
    shutil.rmtree(final, ignore_errors=True)
    part.rename(final)
    for old in sorted(folder.glob("step-????????"))[:-_KEPT]:
        shutil.rmtree(old)


def resume(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, dict[str, Any]] | None:
    """Load the newest undamaged checkpoint into model and optimizer; return its step and state, or None."""
    for checkpoint in _newest_first(folder):
        try:
            facts = _checked(checkpoint)
        except ArtifactError as error:
            say(f"  {error.where}: {error.found}; going on from the one before")
            shutil.rmtree(checkpoint)
            continue
        weights = load_file(checkpoint / "model.safetensors")
        remembered: dict[str, dict[str, Any]] = defaultdict(dict)
        for key, value in {**load_file(checkpoint / "optimizer.safetensors"), **facts["optimizer"]}.items():
            name, _, what = key.rpartition("/")
            remembered[name][what] = value
        with torch.no_grad():
            for name, parameter in trained_parameters(model, optimizer).items():
                parameter.copy_(weights[name])
                if name in remembered:
                    optimizer.state[parameter] = {
                        what: value.to(parameter.device) if isinstance(value, torch.Tensor) else value
                        for what, value in remembered[name].items()
                    }
        return int(facts["step"]), facts["state"]
    return None


def _newest_first(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.glob("step-????????"), reverse=True))


def _checked(checkpoint: Path) -> dict[str, Any]:
    facts: dict[str, Any] = read_json(checkpoint / "checkpoint.json")
    for name, digest in facts["sha256"].items():
        file = checkpoint / name
        if not file.is_file() or sha256_file(file) != digest:
            raise ArtifactError(str(file), "is damaged", "It is not used")
    return facts
