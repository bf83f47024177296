"""Convert a checkpoint of any size and layout to safetensors, a piece of a tensor at a time."""

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from rich.progress import Progress, TaskID
from torch import Tensor

from metier.artifact import key_in, key_of, run_step, write_json
from metier.errors import ArtifactError, RunError, SpecError
from metier.model.openmoe.checkpoint import EXPERT_PROJECTIONS, PIECE_BYTES, Checkpoint, open_checkpoint
from metier.model.openmoe.files import weight_files
from metier.model.openmoe.int8 import quantise_rows
from metier.progress import bar

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "I8"}
"""What can be asked for, and the name in a safetensors header."""

SHARD_BYTES = 4 * 2**30
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1}
_BESIDE = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"),
    *("tokenizer.model", "spiece.model", "generation_config.json"),
)


@dataclass
class Entry:
    """A tensor to be written: where it goes in its file."""

    name: str
    kind: str
    shape: tuple[int, ...]
    start: int = 0
    """First byte after the header."""

    @property
    def size(self) -> int:
        """How many bytes it takes."""
        return math.prod(self.shape) * _ITEM_BYTES[self.kind]


def convert_checkpoint(
    source: Path,
    target: Path,
    dtype: str = "bfloat16",
    *,
    piece_bytes: int = PIECE_BYTES,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write a checkpoint as safetensors with the canonical stacked names, or as int8.

    Memory holds one piece of one tensor: at most ``piece_bytes``, or one expert's matrix if that is larger, and a
    few copies of it. int8 keeps routers and norms in float32; every other matrix ``x.weight`` becomes ``x.int8`` and
    ``x.scale``, a scale for each output row. Stacked experts then lie as (expert, output, input).

    Killed, the same call goes on after the last finished file. Finished, it does nothing.

    Args:
        source: a folder with config.json and weights in any published layout.
        target: a folder that is new, empty, or holds the beginning of this conversion.
        dtype: float32, float16, bfloat16 or int8.
        piece_bytes: how much of a tensor is read at once, in float32.
        shard_bytes: how large a file may become before the next is begun.

    Returns:
        The target.

    Raises:
        ArtifactError: when the source is damaged, foreign or hostile, or the target holds something else.
        RunError: when the disk is too small.
        SpecError: when the dtype is none of these.
    """
    if dtype not in DTYPES:
        raise SpecError("dtype", f"{dtype!r} is not one of {', '.join(DTYPES)}", "Choose one of them")
    checkpoint = open_checkpoint(source)
    shards = _shards(checkpoint, DTYPES[dtype], shard_bytes)
    inputs: dict[str, Any] = {
        "files": _fingerprint(source),
        "dtype": dtype,
        "shards": [list(shard) for shard in shards],
    }
    _refuse_to_overwrite(target, inputs)
    needed = sum(entry.size for shard in shards for entries in shard.values() for entry in entries)
    _refuse_a_small_disk(target, needed)

    def work(folder: Path) -> dict[str, int]:
        with bar() as progress:
            task = progress.add_task(f"converting to {dtype}", total=len(checkpoint.shapes))
            for number, shard in enumerate(shards, 1):
                path = folder / _file_name(number, len(shards))
                if path.exists():
                    progress.advance(task, len(shard))
                else:
                    _write_shard(path, checkpoint, shard, piece_bytes, progress, task)
        checkpoint.config.dtype = getattr(torch, dtype if dtype != "int8" else "float32")
        _write_the_rest(folder, source, checkpoint, shards)
        return {"tensors": len(checkpoint.shapes), "bytes": needed}

    return run_step(target, inputs, work, packages=("torch", "safetensors", "transformers")).folder


def entries_of(name: str, shape: tuple[int, ...], kind: str) -> list[Entry]:
    """Return what a canonical tensor becomes."""
    if kind != "I8":
        return [Entry(name, kind, shape)]
    stem, _, last = name.rpartition(".")
    if last in EXPERT_PROJECTIONS:
        stem, shape = f"{stem}.{EXPERT_PROJECTIONS[last]}", (shape[0], shape[2], shape[1])
    elif len(shape) == 1 or last == "gate_weight":
        return [Entry(name, "F32", shape)]
    return [Entry(f"{stem}.int8", "I8", shape), Entry(f"{stem}.scale", "F32", shape[:-1])]


def _shards(checkpoint: Checkpoint, kind: str, shard_bytes: int) -> list[dict[str, list[Entry]]]:
    """Share the tensors out to files, in order; within a file wide numbers come first, so that all are aligned."""
    shards: list[dict[str, list[Entry]]] = [{}]
    filled = 0
    for name, shape in checkpoint.shapes.items():
        entries = entries_of(name, shape, kind)
        size = sum(entry.size for entry in entries)
        if shards[-1] and filled + size > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = entries
        filled += size
    for shard in shards:
        end = 0
        for entry in sorted((e for entries in shard.values() for e in entries), key=lambda e: -_ITEM_BYTES[e.kind]):
            entry.start, end = end, end + entry.size
    return shards


def _write_shard(
    path: Path,
    checkpoint: Checkpoint,
    shard: dict[str, list[Entry]],
    piece_bytes: int,
    progress: Progress,
    task: TaskID,
) -> None:
    part = path.with_suffix(".part")
    header = {
        entry.name: {
            "dtype": entry.kind,
            "shape": entry.shape,
            "data_offsets": [entry.start, entry.start + entry.size],
        }
        for entries in shard.values()
        for entry in entries
    }
    text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    text += b" " * (-len(text) % 8)
    try:
        with part.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name, entries in shard.items():
                for rows, piece in checkpoint.pieces(name, piece_bytes):
                    for entry, data in zip(entries, _converted(name, piece, entries), strict=True):
                        _write_rows(file, 8 + len(text), entry, rows, data)
                progress.advance(task)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        fix = "Free disk space, and run the command again"
        raise RunError(str(part), f"cannot be written ({error})", fix) from error
    part.replace(path)


def _converted(name: str, piece: Tensor, entries: list[Entry]) -> list[Tensor]:
    kind = entries[0].kind
    if kind == "I8":
        return list(quantise_rows(piece.transpose(-1, -2) if piece.dim() == 3 else piece))
    if kind == "F32":
        return [piece]
    small = piece.to(torch.float16 if kind == "F16" else torch.bfloat16)
    if not small.isfinite().all():
        raise ArtifactError(name, "holds weights too large for float16", "Convert to bfloat16")
    return [small]


def _write_rows(file: BinaryIO, first_byte: int, entry: Entry, rows: slice, data: Tensor) -> None:
    row_bytes = entry.size // entry.shape[0]
    file.seek(first_byte + entry.start + rows.start * row_bytes)
    file.write(data.contiguous().view(torch.uint8).numpy().data)


def _write_the_rest(folder: Path, source: Path, checkpoint: Checkpoint, shards: list[dict[str, list[Entry]]]) -> None:
    if len(shards) > 1:
        names = {
            entry.name: _file_name(number, len(shards))
            for number, shard in enumerate(shards, 1)
            for entries in shard.values()
            for entry in entries
        }
        total = sum(entry.size for shard in shards for entries in shard.values() for entry in entries)
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": names})
    for name in _BESIDE:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    checkpoint.config.architectures = ["OpenMoeForCausalLM"]
    checkpoint.config.save_pretrained(folder)


def _file_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"


def _fingerprint(source: Path) -> list[list[str | int]]:
    """Return what tells one source from another without reading all of it: names, sizes, times."""
    files = [source / "config.json", *weight_files(source)]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _refuse_to_overwrite(target: Path, inputs: dict[str, Any]) -> None:
    """Let a target pass that is new, empty, or ours; anything else would be cleared away."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if key_of(inputs) in (key_in(target / record) for record in ("manifest.json", "begun.json")):
        return
    raise ArtifactError(str(target), "holds something other than the beginning of this conversion", "Name a new folder")


def _refuse_a_small_disk(target: Path, needed: int) -> None:
    there = next(folder for folder in (target, *target.absolute().parents) if folder.exists())
    written = sum(file.stat().st_size for file in target.glob("*.safetensors"))
    free = shutil.disk_usage(there).free + written
    if free < needed:
        raise RunError(
            str(target), f"{needed / 2**30:.1f} GiB are needed and {free / 2**30:.1f} GiB are free", "Free disk space"
        )
