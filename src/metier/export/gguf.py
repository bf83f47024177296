"""Write the model as one GGUF file: weights, vocabulary, stop token, chat template, task."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from metier.compress.blocks import quantise
from metier.model.gguf_names import ARCHITECTURE, gguf_names, to_gguf
from metier.progress import track
from metier.tasks.prompt import PromptFormat
from metier.tokenizer.pieces import Pieces

FORMAT = 1
"""Version of the ``metier.*`` metadata keys."""


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
    """Write a Gemma 3 model as a GGUF file, whole or not at all.

    Matrices are stored in the quantisation wherever their rows divide into its blocks, else in F16; norms in F32.

    Args:
        path: the file to write.
        model: the model, float32.
        tokenizer: its tokenizer.
        quantisation: a GGUF type such as ``Q8_0``.
        name: the model's name.
        licence: terms under which it may be passed on.
        prompt: the format that the chat template wraps the last user message in.
        task: what the runtime needs to know to split and join text.
    """
    part = path.with_suffix(".gguf.part")
    writer = gguf.GGUFWriter(part, ARCHITECTURE)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_license(licence)
    writer.add_uint32("metier.format", FORMAT)
    writer.add_string("metier.task", json.dumps(task, ensure_ascii=False))
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{quantisation}"])
    _add_shape(writer, model.config)
    _add_vocabulary(writer, Pieces.of_tokenizer(tokenizer))
    writer.add_chat_template(prompt.chat_template())
    weights = model.state_dict()
    names = gguf_names(weights, model.config.num_hidden_layers)
    wanted = gguf.GGMLQuantizationType[quantisation]
    for ours, theirs in track(names.items(), f"writing {quantisation}", total=len(names)):
        values = to_gguf(ours, weights[ours].float().cpu()).numpy()
        kind = _kind_of(values, wanted)
        writer.add_tensor(theirs, quantise(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.replace(path)


def _kind_of(values: "np.ndarray[Any, Any]", wanted: gguf.GGMLQuantizationType) -> gguf.GGMLQuantizationType:
    if values.ndim < 2:
        return gguf.GGMLQuantizationType.F32
    block, _ = gguf.GGML_QUANT_SIZES[wanted]
    return wanted if values.shape[-1] % block == 0 else gguf.GGMLQuantizationType.F16


def _add_shape(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["full_attention"]["rope_theta"])
    writer.add_sliding_window(config.sliding_window)


def _add_vocabulary(writer: gguf.GGUFWriter, pieces: Pieces) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces.texts)
    writer.add_token_scores(pieces.scores)
    writer.add_token_types([int(kind) for kind in pieces.kinds])
    writer.add_bos_token_id(pieces.bos)
    writer.add_eos_token_id(pieces.eos)
    writer.add_unk_token_id(pieces.unk)
    writer.add_pad_token_id(pieces.pad)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
