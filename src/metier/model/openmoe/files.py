"""The files of a checkpoint: which there are, and a few rows of a tensor at a time."""

import json
import math
from pathlib import Path

import torch
from torch import Tensor

from metier.errors import ArtifactError
from metier.model.openmoe.headers import FETCH, Stored, header_of

_WEIGHTS = ("model.safetensors", "model-*.safetensors", "pytorch_model.bin", "pytorch_model-*.bin", "*.safetensors")


def weight_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint: those its index names, else the first kind found; other files are let be.

    Raises:
        ArtifactError: when there is none, or the index is damaged, names a file outside or one that is not there.
    """
    index = _index_of(folder)
    if index:
        return sorted({folder / name for name in _weight_map(index).values()})
    for pattern in _WEIGHTS:
        files = sorted(folder.glob(pattern))
        if files:
            return files
    raise ArtifactError(
        str(folder), f"holds no weights: none of {', '.join(_WEIGHTS)}", "Name a folder with config.json and weights"
    )


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Return every tensor of a checkpoint by its name in the files; only headers are read.

    Raises:
        ArtifactError: when a file is damaged, missing, foreign, or holds anything but tensors of numbers.
    """
    found: dict[str, Stored] = {}
    for file in weight_files(folder):
        for stored in header_of(file):
            if stored.name in found:
                raise ArtifactError(
                    str(file), f"tensor {stored.name} is in {found[stored.name].file.name}, too", "Remove one"
                )
            found[stored.name] = stored
    index = _index_of(folder)
    if index is None:
        return found
    named = _weight_map(index)
    for name, file_name in named.items():
        if name not in found or found[name].file.name != file_name:
            raise ArtifactError(str(index), f"tensor {name} is not in {file_name}, where the index has it", FETCH)
    return {name: found[name] for name in named}


def read_rows(stored: Stored, start: int, stop: int) -> Tensor:
    """Return some rows (indices of the first dimension) of a tensor, in its own dtype; nothing else is read.

    Raises:
        ArtifactError: when the tensor lies in a way that weights never do, or the file was changed meanwhile.
    """
    shape, item = (stop - start, *stored.shape[1:]), stored.dtype.itemsize
    row = math.prod(shape[1:])
    transposed = stored.strides != tuple(math.prod(shape[place + 1 :]) for place in range(len(shape)))
    if not transposed:
        runs, length = [stored.start + start * row * item], math.prod(shape)
    elif len(shape) == 2 and stored.strides == (1, stored.shape[0]):  # in each column a run of rows
        runs, length = [stored.start + (column * stored.shape[0] + start) * item for column in range(row)], shape[0]
    else:
        raise ArtifactError(
            str(stored.file), f"tensor {stored.name} of shape {stored.shape} has strides {stored.strides}", FETCH
        )
    data = bytearray(length * item * len(runs))
    with stored.file.open("rb") as file, memoryview(data) as whole:
        for number, first in enumerate(runs):
            file.seek(first)
            if file.readinto(whole[number * length * item : (number + 1) * length * item]) != length * item:
                raise ArtifactError(str(stored.file), f"tensor {stored.name} is cut short", FETCH)
    rows = torch.frombuffer(data, dtype=stored.dtype)
    return rows.view(row, length).T if transposed else rows.view(shape)


def _index_of(folder: Path) -> Path | None:
    names = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _weight_map(index: Path) -> dict[str, str]:
    """Read an index and check that it names plain files beside it."""
    suffix = "." + index.name.split(".")[1]
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(str(index), f"is no index of a checkpoint ({error!r})", FETCH) from error
    for tensor, name in named:
        if not isinstance(name, str) or name != Path(name).name or Path(name).suffix != suffix or "\\" in name:
            raise ArtifactError(str(index), f"tensor {tensor} is said to be in {name!r}: no {suffix} file here", FETCH)
        if not (index.parent / name).is_file():
            raise ArtifactError(str(index), f"tensor {tensor} is said to be in {name}, which is missing", FETCH)
    return dict(named)
