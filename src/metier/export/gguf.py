"""Write the model as one GGUF file: weights, vocabulary, stop token, chat template, task."""

import json
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from metier.compress.blocks import quantise
from metier.errors import ArtifactError
from metier.model.architectures import Architecture, architecture_of
from metier.model.gguf_names import gguf_names, to_gguf
from metier.model.rotation import FACTORS, factors, is_scaled
from metier.progress import track
from metier.run.session import FILE_FORMAT, FORMAT_KEY, TASK_KEY
from metier.spec.quantisation import Quantisation
from metier.spec.weights import kind_of
from metier.tasks.prompt import PromptFormat
from metier.tokenizer.pieces import Pieces
from metier.tokenizer.read import pieces_of


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    quantisation: str,
    *,
    name: str,
    licence: str,
    prompt: PromptFormat,
    task: dict[str, Any],
) -> None:
    """Write a model as a GGUF file, whole or not at all, one tensor at a time.

    Matrices are stored in the types of the quantisation wherever their rows divide into its blocks, else in F16; norms
    and routers in F32.

    Args:
        path: the file to write.
        model: the model, float32.
        tokenizer: its tokenizer.
        quantisation: such as ``Q8_0``, or ``Q4_0-embed-Q8_0``.
        name: the model's name.
        licence: terms under which it may be passed on.
        prompt: the format that the chat template wraps the last user message in.
        task: what the runtime needs to know to split and join text.

    Raises:
        ArtifactError: when no GGUF file can hold the model's architecture, or its pieces have no rows.
    """
    architecture = architecture_of(model.config, name)
    settings = architecture.settings(model.config, name)
    part = path.with_suffix(".gguf.part")
    writer = gguf.GGUFWriter(part, architecture.name)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_license(licence)
    writer.add_uint32(FORMAT_KEY, FILE_FORMAT)
    writer.add_string(TASK_KEY, json.dumps(task, ensure_ascii=False))
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{Quantisation.of(quantisation).body}"])
    for key, value in settings.items():
        number = gguf.GGUFValueType.FLOAT32 if isinstance(value, float) else gguf.GGUFValueType.UINT32
        writer.add_key_value(f"{architecture.name}.{key}", value, number)
    pieces = pieces_of(tokenizer).padded(model.config.vocab_size)
    if len(pieces) > model.config.vocab_size:
        found = f"its tokenizer has {len(pieces)} pieces, its embedding {model.config.vocab_size} rows"
        raise ArtifactError(name, found, "Keep fewer pieces, or choose another base")
    _add_vocabulary(writer, pieces)
    writer.add_chat_template(prompt.chat_template(bos=pieces.add_bos))
    _write_tensors(writer, model, architecture, quantisation)
    writer.close()
    part.replace(path)


def _write_tensors(
    writer: gguf.GGUFWriter, model: PreTrainedModel, architecture: Architecture, quantisation: str
) -> None:
    """Write all that the writer was given, then the weights: none is held longer than it takes to write it."""
    weights, config = model.state_dict(), model.config
    names = gguf_names(weights, architecture, config)
    kinds = {}
    for ours, theirs in names.items():  # a file says where its tensors are before the first: their sizes are enough
        shapes = [tensor.shape for tensor in to_gguf(ours, weights[ours].to("meta"), architecture, config)]
        for other, shape in zip(theirs, shapes, strict=True):
            kinds[other] = kind_of(other, shape, quantisation)
            _announce(writer, other, shape, kinds[other])
    rotation = factors(config).numpy() if is_scaled(config) else None
    if rotation is not None:
        _announce(writer, FACTORS, rotation.shape, gguf.GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for ours, theirs in track(names.items(), f"writing {quantisation}", total=len(names)):
        tensors = to_gguf(ours, weights[ours].float().cpu(), architecture, config)
        for other, tensor in zip(theirs, tensors, strict=True):
            writer.write_tensor_data(quantise(tensor.numpy(), kinds[other]))
    if rotation is not None:
        writer.write_tensor_data(rotation)


def _announce(writer: gguf.GGUFWriter, name: str, shape: Sequence[int], kind: gguf.GGMLQuantizationType) -> None:
    weights, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    writer.add_tensor_info(name, shape, np.dtype(np.float32), prod(shape) // weights * block_bytes, raw_dtype=kind)


def _add_vocabulary(writer: gguf.GGUFWriter, pieces: Pieces) -> None:
    add: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        str: writer.add_string,
        list: writer.add_array,
    }
    for key, value in pieces.metadata().items():
        add[type(value)](f"tokenizer.ggml.{key}", value)
