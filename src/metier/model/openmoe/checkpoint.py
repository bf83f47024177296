"""OpenMoE checkpoints: every published layout, read a piece at a time under the canonical names.

E = experts, F = width of a feed-forward layer, H = model width.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from metier.errors import ArtifactError
from metier.model.openmoe.config import OpenMoeConfig
from metier.model.openmoe.files import read_rows, stored_tensors
from metier.model.openmoe.headers import Stored
from metier.model.openmoe.int8 import dequantise_rows
from metier.model.openmoe.modeling import OpenMoeForCausalLM
from metier.progress import bar
from metier.spec.folder import describes_openmoe

PIECE_BYTES = 128 * 2**20
"""How much of a tensor, in float32, is in memory at once; one expert's matrix is never cut."""

EXPERT_PROJECTIONS = {"wi_gate": "gate_proj", "wi_up": "up_proj", "wo": "down_proj"}
"""Stacked experts' names, and what a single expert's matrix, transposed, is called."""

_RENAMED = ((re.compile(r"\.mlp\.gate\.weight$"), ".mlp.gate_weight"),)
_NO_WEIGHTS = re.compile(r"\.rotary_emb\.(inv_freq|cos_cached|sin_cached)$")


class Part(NamedTuple):
    """A stored tensor that makes a canonical one, or one expert of it."""

    stored: Stored
    transposed: bool = False
    scale: Stored | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose names and shapes have been checked; no weight has been read."""

    config: OpenMoeConfig
    shapes: dict[str, tuple[int, ...]]
    """The canonical names and shapes, in the model's order."""
    parts: dict[str, list[Part]]
    """What each canonical tensor is made of: itself, or one part an expert."""

    def pieces(self, name: str, piece_bytes: int = PIECE_BYTES) -> Iterator[tuple[slice, Tensor]]:
        """Yield a canonical tensor in float32, some rows of its first dimension at a time, in order.

        Raises:
            ArtifactError: when it holds NaN or infinity, or cannot be read.
        """
        shape, parts = self.shapes[name], self.parts[name]
        if len(shape) == 3:
            for expert in range(shape[0]):
                row = slice(expert, expert + 1)
                single = len(parts[0].stored.shape) == 2
                matrix = (
                    read_part(parts[expert], slice(0, shape[1] if not parts[0].transposed else shape[2]))[None]
                    if single
                    else read_part(parts[0], row)
                )
                yield row, matrix.transpose(1, 2) if parts[0].transposed else matrix
            return
        width = 4 * (shape[1] if len(shape) == 2 else 1)
        step = max(piece_bytes // width, 1)
        for start in range(0, shape[0], step):
            rows = slice(start, min(start + step, shape[0]))
            yield rows, read_part(parts[0], rows)


def is_openmoe(folder: Path) -> bool:
    """Say whether a folder's config.json describes an OpenMoE model, by our model type or by the published one."""
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(settings, dict) and describes_openmoe(settings)


def read_config(folder: Path) -> OpenMoeConfig:
    """Read a folder's config.json, in our form or a published one.

    Raises:
        ArtifactError: when it cannot be read, or describes no possible OpenMoE model.
    """
    path = folder / "config.json"
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return OpenMoeConfig(**settings)
    # The library's validation has exceptions of its own for wrong types.
    except Exception as error:
        raise ArtifactError(
            str(path), f"describes no OpenMoE model ({' '.join(str(error).split()):.300})", "Correct config.json"
        ) from error


def open_checkpoint(folder: Path) -> Checkpoint:
    """Find every tensor of a checkpoint and check names, kinds and shapes, reading headers only.

    Raises:
        ArtifactError: with the tensor's name, when anything is missing, foreign, damaged or of a wrong shape.
    """
    config = read_config(folder)
    with torch.device("meta"):
        shapes = {name: tuple(weight.shape) for name, weight in OpenMoeForCausalLM(config).state_dict().items()}
    stored = _canonical_names(folder)
    parts = {name: _parts(name, shape, stored) for name, shape in shapes.items()}
    missing = [name for name, found in parts.items() if not found]
    if missing or stored:
        told = [_listed("missing", missing), _listed("foreign", sorted(stored))]
        raise ArtifactError(
            str(folder),
            f"is no OpenMoE checkpoint of this shape: {'; '.join(part for part in told if part)}",
            "Fetch the checkpoint again, or correct config.json",
        )
    return Checkpoint(config, shapes, parts)


def load_checkpoint(folder: Path) -> OpenMoeForCausalLM:
    """Load an OpenMoE model in float32, in evaluation mode; every weight is checked to be finite.

    Raises:
        ArtifactError: when the checkpoint is damaged, foreign or hostile.
    """
    checkpoint = open_checkpoint(folder)
    with torch.device("meta"):
        model = OpenMoeForCausalLM(checkpoint.config)
    weights: dict[str, Tensor] = {}
    with bar() as progress:
        task = progress.add_task("reading weights", total=len(checkpoint.shapes))
        for name, shape in checkpoint.shapes.items():
            weights[name] = torch.empty(shape)
            for rows, piece in checkpoint.pieces(name):
                weights[name][rows] = piece
            progress.advance(task)
    model.load_state_dict(weights, assign=True)
    return ready_to_answer(model, folder)


def ready_to_answer(model: OpenMoeForCausalLM, folder: Path) -> OpenMoeForCausalLM:
    """Give a model that was made on the meta device what is in no checkpoint, and leave training mode."""
    model.model.rotary_emb = LlamaRotaryEmbedding(config=model.config)  # type: ignore[arg-type]
    if (folder / "generation_config.json").is_file():
        try:
            model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # the library has many ways to say "damaged"
            path, fix = folder / "generation_config.json", "Fetch the model again, or remove the file"
            raise ArtifactError(str(path), f"cannot be read ({str(error) or repr(error):.200})", fix) from error
    model.train(False)
    return model


def _canonical_names(folder: Path) -> dict[str, Stored]:
    """Return what is stored, under canonical spellings, without what is no weight."""
    found: dict[str, Stored] = {}
    for name, stored in stored_tensors(folder).items():
        if _NO_WEIGHTS.search(name):
            continue
        for old, new in _RENAMED:
            name = old.sub(new, name)
        if name in found:
            raise ArtifactError(
                str(stored.file), f"tensor {stored.name} is the same as {found[name].name}", "Remove one of the two"
            )
        found[name] = stored
    return found


def _parts(name: str, shape: tuple[int, ...], stored: dict[str, Stored]) -> list[Part]:
    """Take a canonical tensor's parts out of what is stored; none when it is missing."""
    if name in stored:
        return [Part(_shaped(stored.pop(name), shape))]
    stem, _, last = name.rpartition(".")
    if last == "weight" and f"{stem}.int8" in stored:
        return [_int8_part(stem, shape, stored)]
    if last not in EXPERT_PROJECTIONS:
        return []
    projection, (count, inputs, outputs) = EXPERT_PROJECTIONS[last], shape
    if f"{stem}.{projection}.int8" in stored:
        return [_int8_part(f"{stem}.{projection}", (count, outputs, inputs), stored, transposed=True)]
    names = [f"{stem}.{expert}.{projection}.weight" for expert in range(count)]
    if any(single not in stored for single in names):
        return []
    return [Part(_shaped(stored.pop(single), (outputs, inputs)), transposed=True) for single in names]


def _int8_part(stem: str, shape: tuple[int, ...], stored: dict[str, Stored], transposed: bool = False) -> Part:
    if f"{stem}.scale" not in stored:
        raise ArtifactError(str(stored[f"{stem}.int8"].file), f"tensor {stem}.scale is missing", "Convert again")
    matrix = _shaped(stored.pop(f"{stem}.int8"), shape, torch.int8)
    return Part(matrix, transposed, _shaped(stored.pop(f"{stem}.scale"), shape[:-1]))


def _shaped(stored: Stored, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Stored:
    where = str(stored.file)
    if stored.shape != shape:
        found = f"tensor {stored.name} has shape {stored.shape}, config.json asks for {shape}"
        raise ArtifactError(where, found, "Fetch the checkpoint again, or correct config.json")
    if (stored.dtype == torch.int8) != (dtype == torch.int8):
        raise ArtifactError(where, f"tensor {stored.name} is of kind {stored.dtype}", "Fetch the checkpoint again")
    return stored


def read_part(part: Part, rows: slice) -> Tensor:
    """Read rows of a part in float32 and refuse what is no number."""
    raw = read_rows(part.stored, rows.start, rows.stop)
    if part.scale is not None:
        raw = dequantise_rows(raw, read_rows(part.scale, rows.start, rows.stop).float())
    piece = raw.float()
    total = piece.sum()  # one pass without a mask; only infinity, NaN or overflow leave it infinite
    if not total.isfinite() and not piece.isfinite().all():
        kind = "NaN" if piece.isnan().any() else "infinity"
        raise ArtifactError(
            str(part.stored.file),
            f"tensor {part.stored.name} holds {kind} in rows {rows.start} to {rows.stop}",
            "Fetch the checkpoint again",
        )
    return piece


def _listed(what: str, names: list[str]) -> str:
    return f"{what}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}" if names else ""
