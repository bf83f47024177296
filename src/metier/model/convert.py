"""A GGUF file as a Hugging Face folder: dequantised to float32, tokenizer included."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from metier.errors import ArtifactError
from metier.model.architectures import architecture_of_file
from metier.model.gguf_names import from_gguf, gguf_names, to_gguf
from metier.progress import track
from metier.run.gguf_header import read_header
from metier.tokenizer.pieces import Kind, Pieces


def gguf_to_folder(path: Path, folder: Path) -> None:
    """Write a GGUF file as a Hugging Face folder of float32 weights.

    Raises:
        ArtifactError: when the file is truncated, no GGUF, or of another architecture.
    """
    header = read_header(path)
    architecture = architecture_of_file(header.metadata, str(path))
    reader = gguf.GGUFReader(path)
    tokenizer_of(reader, path).save_pretrained(folder)
    prefix = f"{architecture.name}."
    field = {name.removeprefix(prefix): f.contents() for name, f in reader.fields.items() if name.startswith(prefix)}
    stored = {tensor.name: tensor for tensor in reader.tensors}
    try:
        pieces = len(reader.fields["tokenizer.ggml.tokens"].data)
        config = architecture.config(field, pieces, tied="output.weight" not in stored)
    except KeyError as error:
        raise ArtifactError(
            str(path), f"its metadata lacks {prefix}{error.args[0]}", "Fetch the file again, or another base"
        ) from error
    except (StrictDataclassError, TypeError, ValueError) as error:
        found = f"its metadata is no {architecture.name} ({str(error).strip().splitlines()[-1]:.200})"
        raise ArtifactError(str(path), found, "Fetch the file again, or another base") from error
    if field.get("rope.scaling.type", "none") != "none":
        found = f"its rotation is scaled ({field['rope.scaling.type']}), which is not supported so far"
        raise ArtifactError(str(path), found, "Choose another base")
    for name in ("bos", "eos", "pad"):
        id_field = "padding" if name == "pad" else name
        setattr(config, f"{name}_token_id", reader.fields[f"tokenizer.ggml.{id_field}_token_id"].contents())
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    shapes = model.state_dict()
    names = gguf_names(shapes, architecture, config)
    if foreign := sorted(stored.keys() - {other for others in names.values() for other in others}):
        found = f"tensor {foreign[0]} has no place in a {architecture.name} of its metadata"
        raise ArtifactError(str(path), found, "Choose another base")
    weights = {}
    for name, others in track(names.items(), "dequantising", total=len(names)):
        wanted = [tuple(part.shape) for part in to_gguf(name, shapes[name], architecture, config)]
        parts = [_tensor(stored, other, shape, path) for other, shape in zip(others, wanted, strict=True)]
        weights[name] = from_gguf(name, parts, architecture, config).contiguous()
    config.dtype = torch.float32
    config.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _tensor(stored: Mapping[str, gguf.ReaderTensor], name: str, wanted: tuple[int, ...], path: Path) -> torch.Tensor:
    if name not in stored:
        raise ArtifactError(str(path), f"tensor {name} is missing", "Fetch the file again, or another base")
    values = gguf.dequantize(stored[name].data, stored[name].tensor_type)
    if values.shape != wanted:
        raise ArtifactError(
            str(path),
            f"tensor {name} has shape {tuple(values.shape)}, its metadata asks for {wanted}",
            "Fetch the file again, or another base",
        )
    return torch.from_numpy(values.copy()).float()


def tokenizer_of(reader: gguf.GGUFReader, path: Path) -> Any:
    """Return the fast tokenizer of a GGUF file whose vocabulary is SentencePiece-style."""
    field = {name: f for name, f in reader.fields.items() if name.startswith("tokenizer.ggml.")}
    kind = field["tokenizer.ggml.model"].contents() if "tokenizer.ggml.model" in field else None
    if kind != "llama":
        raise ArtifactError(
            str(path),
            f"its tokenizer is of kind {kind!r}; only SentencePiece-style ('llama', Gemma's kind) is supported",
            "Choose a Gemma base",
        )

    def value(name: str) -> Any:
        if f"tokenizer.ggml.{name}" not in field:
            raise ArtifactError(
                str(path), f"its metadata lacks tokenizer.ggml.{name}", "Fetch the file again, or another base"
            )
        return field[f"tokenizer.ggml.{name}"].contents()

    return Pieces(
        texts=value("tokens"),
        scores=value("scores"),
        kinds=[Kind(k) for k in value("token_type")],
        bos=value("bos_token_id"),
        eos=value("eos_token_id"),
        unk=value("unknown_token_id"),
        pad=value("padding_token_id"),
    ).tokenizer()
