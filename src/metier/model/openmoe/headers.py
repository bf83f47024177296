"""What a weight file says it holds, and where each tensor's numbers lie; no weight is read.

A safetensors header is JSON. A .bin file is a pickle: it is opened by torch's unpickler that builds tensors and nothing
else, with tensors that have no data. Neither is mapped into memory: a mapping of a file larger than memory may be
refused, and its pages would count as resident.
"""

import json
import math
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from metier.errors import ArtifactError

FETCH = "Fetch the checkpoint again"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
}
_LONGEST_HEADER = 100 * 2**20


class Stored(NamedTuple):
    """Where a tensor lies."""

    file: Path
    name: str
    """Its name in the file."""
    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int
    """Its first byte."""
    strides: tuple[int, ...]
    """In numbers: a pickled matrix may lie transposed."""


def header_of(file: Path) -> list[Stored]:
    """Return all tensors of a weight file.

    Raises:
        ArtifactError: when it is damaged, or holds anything but named tensors of numbers that lie inside it.
    """
    found = _of_safetensors(file) if file.suffix == ".safetensors" else _of_pickle(file)
    size = file.stat().st_size
    for stored in found:
        last = sum((length - 1) * stride for length, stride in zip(stored.shape, stored.strides, strict=True))
        end = stored.start + (last + 1) * stored.dtype.itemsize if 0 not in stored.shape else stored.start
        if not 0 <= stored.start <= end <= size:
            raise ArtifactError(
                str(file),
                f"tensor {stored.name} is cut short: it lies from byte {stored.start} to {end}, of {size}",
                FETCH,
            )
    return found


def _of_safetensors(file: Path) -> list[Stored]:
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > min(_LONGEST_HEADER, file.stat().st_size):
                raise ValueError(f"its header cannot be {length} bytes long")
            header = json.loads(opened.read(length))
        header.pop("__metadata__", None)
        return [_entry(file, name, entry, 8 + length) for name, entry in header.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(str(file), f"cannot be read as safetensors ({error!r:.200})", FETCH) from error


def _entry(file: Path, name: str, entry: dict[str, Any], first: int) -> Stored:
    kind, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if kind not in _DTYPES:
        raise ArtifactError(str(file), f"tensor {name} is of kind {kind}", "Weights are floating-point numbers")
    if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
        raise ArtifactError(str(file), f"tensor {name} has shape {shape} and lies at {start}, {end}", FETCH)
    if end - start != math.prod(shape) * _DTYPES[kind].itemsize:
        raise ArtifactError(str(file), f"tensor {name} of shape {shape} cannot be {end - start} bytes of {kind}", FETCH)
    strides = tuple(math.prod(shape[place + 1 :]) for place in range(len(shape)))
    return Stored(file, name, tuple(shape), _DTYPES[kind], first + start, strides)


def _of_pickle(file: Path) -> list[Stored]:
    advice = "Fetch the checkpoint from its authors, as safetensors if there is a choice"
    if not zipfile.is_zipfile(file):
        raise ArtifactError(str(file), "is refused: it is damaged, or was written by torch before 1.6", advice)
    try:
        with FakeTensorMode():
            held = torch.load(file, weights_only=True)
    except Exception as error:
        raise ArtifactError(
            str(file),
            f"is refused: it is damaged or would build more than tensors ({_what_was_wrong(error)})",
            advice,
        ) from error
    if not isinstance(held, dict):
        raise ArtifactError(str(file), f"holds a {type(held).__name__}, not named tensors", FETCH)
    return [_pickled(file, name, tensor) for name, tensor in held.items()]


def _pickled(file: Path, name: object, tensor: object) -> Stored:
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        kind = "tensor" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ArtifactError(str(file), f"{name!r} is a {kind}, not a tensor with a name", FETCH)
    if tensor.dtype not in _DTYPES.values() or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise ArtifactError(
            str(file),
            f"tensor {name} is of kind {tensor.dtype}, {tensor.layout}, on {tensor.device}",
            "Weights are dense floating-point numbers",
        )
    storage: Any = tensor.untyped_storage()
    start = storage._checkpoint_offset + tensor.storage_offset() * tensor.dtype.itemsize
    return Stored(file, name, tuple(tensor.shape), tensor.dtype, start, tensor.stride())


def _what_was_wrong(error: Exception) -> str:
    """Return the sentence of the library's long text that says what it refused."""
    text = " ".join(str(error).split()) or repr(error)
    marks = [mark for mark in ("Trying to load unsupported", "WeightsUnpickler error:", "Unsupported") if mark in text]
    return f"{text[text.index(marks[0]) :].split('. ')[0]:.150}" if marks else f"{text:.150}"
