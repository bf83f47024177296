"""A GGUF file as a Hugging Face folder: dequantised to float32, tokenizer included."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedConfig

from metier.errors import ArtifactError
from metier.model.architectures import Architecture, architecture_of_file
from metier.model.gguf_names import from_gguf, gguf_names, to_gguf
from metier.model.rotation import FACTORS, rope_parameters
from metier.progress import track
from metier.run.gguf_header import Header, read_array, read_header
from metier.tokenizer.pieces import Pieces
from metier.tokenizer.read import pieces_of_metadata

_AGAIN = "Fetch the file again, or another base"


def gguf_to_folder(path: Path, folder: Path) -> None:
    """Write a GGUF file as a Hugging Face folder of float32 weights.

    Raises:
        ArtifactError: when the file is truncated, a part of one, no GGUF, or of another architecture.
    """
    header = read_header(path)
    _check_whole(path, header)
    architecture = architecture_of_file(header.metadata, str(path))
    pieces = read_pieces(path, header)
    tokenizer = pieces.tokenizer()
    tokenizer.chat_template = header.metadata.get("tokenizer.chat_template")
    tokenizer.save_pretrained(folder)
    config = _config(path, header, architecture, pieces)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    shapes = model.state_dict()
    names = gguf_names(shapes, architecture, config)
    wanted = {FACTORS, *(other for others in names.values() for other in others)}
    if foreign := sorted(header.shapes.keys() - wanted):
        found = f"tensor {foreign[0]} has no place in a {architecture.name} of its metadata"
        raise ArtifactError(str(path), found, "Choose another base")
    weights = {}
    for name, others in track(names.items(), "dequantising", total=len(names)):
        parts = to_gguf(name, shapes[name], architecture, config)
        stored = [_tensor(path, header, other, part.shape) for other, part in zip(others, parts, strict=True)]
        weights[name] = from_gguf(name, stored, architecture, config).contiguous()
    config.dtype = torch.float32
    config.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def read_pieces(path: Path, header: Header) -> Pieces:
    """Return the vocabulary of a GGUF file.

    Raises:
        ArtifactError: when it has none, or one of an unsupported kind.
    """
    prefix = "tokenizer.ggml."
    found = {
        key.removeprefix(prefix): read_array(path, header, key) if key in header.array_lengths else value
        for key, value in header.metadata.items()
        if key.startswith(prefix)
    }
    return pieces_of_metadata(found, str(path))


def _check_whole(path: Path, header: Header) -> None:
    parts = header.metadata.get("split.count")
    if isinstance(parts, int) and parts > 1:
        fix = "Merge them with 'llama-gguf-split --merge FIRST-PART.gguf WHOLE.gguf', and name the whole file"
        raise ArtifactError(str(path), f"is one of the {parts} parts of a split file", fix)


def _config(path: Path, header: Header, architecture: Architecture, pieces: Pieces) -> PreTrainedConfig:
    prefix = f"{architecture.name}."
    field: dict[str, Any] = {
        key.removeprefix(prefix): value for key, value in header.metadata.items() if key.startswith(prefix)
    }
    try:
        rope = None
        if FACTORS in header.shapes:
            stored = _tensor(path, header, FACTORS, header.shapes[FACTORS])
            rope = rope_parameters(stored, float(field["rope.freq_base"]), str(path))
        config = architecture.config(field, len(pieces), "output.weight" not in header.shapes, rope)
    except KeyError as error:
        raise ArtifactError(str(path), f"its metadata lacks {prefix}{error.args[0]}", _AGAIN) from error
    except (StrictDataclassError, TypeError, ValueError) as error:
        found = f"its metadata is no {architecture.name} ({str(error).strip().splitlines()[-1]:.200})"
        raise ArtifactError(str(path), found, _AGAIN) from error
    if field.get("rope.scaling.type", "none") != "none":
        found = f"its rotation is scaled ({field['rope.scaling.type']}), which is not supported so far"
        raise ArtifactError(str(path), found, "Choose another base")
    for role in ("bos", "eos", "pad"):
        setattr(config, f"{role}_token_id", getattr(pieces, role))
    return config


def _tensor(path: Path, header: Header, name: str, wanted: tuple[int, ...]) -> torch.Tensor:
    if name not in header.shapes:
        raise ArtifactError(str(path), f"tensor {name} is missing", _AGAIN)
    shape, (number, start) = header.shapes[name], header.stored[name]
    if shape != tuple(wanted):
        found = f"tensor {name} has shape {shape}, its metadata asks for {tuple(wanted)}"
        raise ArtifactError(str(path), found, _AGAIN)
    try:
        kind = gguf.GGMLQuantizationType(number)
        weights, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        rows = (*shape[:-1], shape[-1] // weights * block_bytes)
        data = np.memmap(path, np.uint8, mode="r", offset=start, shape=rows)
        return torch.from_numpy(np.array(gguf.dequantize(data, kind))).float()
    except (ValueError, NotImplementedError) as error:
        found = f"tensor {name} is of type {number}, which cannot be dequantised"
        raise ArtifactError(str(path), found, "Choose a file of another quantisation") from error
