"""A large checkpoint on a small machine: matrices stay int8, experts stay on disk until a token needs them."""

from pathlib import Path

import torch
from torch import Tensor, nn

from metier.errors import ArtifactError
from metier.model.openmoe.checkpoint import (
    EXPERT_PROJECTIONS,
    Checkpoint,
    Part,
    open_checkpoint,
    read_part,
    ready_to_answer,
)
from metier.model.openmoe.expert_cache import CachedExperts, ExpertCache
from metier.model.openmoe.files import read_rows
from metier.model.openmoe.headers import Stored
from metier.model.openmoe.int8 import Int8Embedding, Int8Linear
from metier.model.openmoe.layers import OpenMoeExperts
from metier.model.openmoe.modeling import OpenMoeForCausalLM
from metier.progress import track


def load_int8(folder: Path, *, expert_cache_mib: float, dtype: torch.dtype = torch.float32) -> OpenMoeForCausalLM:
    """Load an int8 folder that ``metier convert --dtype int8`` wrote, to answer with little memory.

    Resident are the int8 matrices of attention, feed-forward layers, embedding and head, all scales, routers and
    norms, and as many experts as fit into the cache. Answers are those of `metier.model.load` for the same folder, up
    to rounding. The model does not learn, and answers one call at a time.

    Args:
        folder: config.json and int8 safetensors files, which have to stay while the model is used.
        expert_cache_mib: memory for experts, in MiB; at least one has to fit. `expert_cache` tells how it serves.
        dtype: of activations, norms and scales; routers and rotary positions are float32 in any case.

    Raises:
        ArtifactError: with the tensor's name, when the folder is damaged, foreign, or not int8.
        SpecError: when the cache is too small for one expert.
    """
    checkpoint = open_checkpoint(folder)
    with torch.device("meta"):
        model = OpenMoeForCausalLM(checkpoint.config)
    expert_layers = [name for name, module in model.named_modules() if isinstance(module, OpenMoeExperts)]
    stored = [_matrices_of(checkpoint, name) for name in expert_layers]
    cache = ExpertCache(stored, expert_cache_mib) if stored else None
    for name, module in track(list(model.named_modules()), "reading weights"):
        if isinstance(module, nn.Linear):
            model.set_submodule(name, Int8Linear(*_read_int8(checkpoint, f"{name}.weight", dtype)))
        elif isinstance(module, nn.Embedding):
            model.set_submodule(name, Int8Embedding(*_read_int8(checkpoint, f"{name}.weight", dtype)))
        elif isinstance(module, OpenMoeExperts) and cache is not None:
            gate, up, down = (_scale(_int8_part(checkpoint, f"{name}.{last}"), dtype) for last in EXPERT_PROJECTIONS)
            model.set_submodule(name, CachedExperts(cache, expert_layers.index(name), (gate, up, down)))
    for name, _ in list(model.named_parameters()):  # routers and norms are what is left
        module_name, _, last = name.rpartition(".")
        value = torch.cat([piece for _, piece in checkpoint.pieces(name)])
        value = value if last == "gate_weight" else value.to(dtype)
        setattr(model.get_submodule(module_name), last, nn.Parameter(value, requires_grad=False))
    return ready_to_answer(model, folder)


def expert_cache(model: OpenMoeForCausalLM) -> ExpertCache | None:
    """Return the cache of a model that `load_int8` loaded: its counts tell how it serves. None without experts."""
    return next((module.cache for module in model.modules() if isinstance(module, CachedExperts)), None)


def _matrices_of(checkpoint: Checkpoint, name: str) -> tuple[Stored, Stored, Stored]:
    gate, up, down = (_int8_part(checkpoint, f"{name}.{last}").stored for last in EXPERT_PROJECTIONS)
    return gate, up, down


def _int8_part(checkpoint: Checkpoint, name: str) -> Part:
    part = checkpoint.parts[name][0]
    kind = str(part.stored.dtype).removeprefix("torch.")
    if part.scale is None or part.stored.file.suffix != ".safetensors":  # a pickled matrix may lie transposed
        raise ArtifactError(
            str(part.stored.file),
            f"tensor {part.stored.name} is {kind} in a {part.stored.file.suffix} file, not int8 in a .safetensors file",
            "Convert the checkpoint with 'metier convert FOLDER NEW --dtype int8' and load that",
        )
    return part


def _read_int8(checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    part = _int8_part(checkpoint, name)
    return read_rows(part.stored, 0, part.stored.shape[0]), _scale(part, dtype)


def _scale(part: Part, dtype: torch.dtype) -> Tensor:
    assert part.scale is not None
    return read_part(Part(part.scale), slice(0, part.scale.shape[0])).to(dtype)
