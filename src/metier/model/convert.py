"""A GGUF file of Gemma 3 as a Hugging Face folder: dequantised to float32, tokenizer included."""

from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import save_file
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from metier.errors import ArtifactError
from metier.model.gguf_names import ARCHITECTURE, from_gguf, gguf_names
from metier.progress import track
from metier.run.gguf_header import read_header
from metier.tokenizer.pieces import Kind, Pieces

SLIDING_PATTERN = 6
"""Every sixth layer of Gemma 3 attends to everything (Gemma 3 technical report, section 2)."""


def config_of(field: dict[str, Any], pieces: int) -> Gemma3TextConfig:
    """Return the configuration written in a GGUF file's metadata, without the architecture's prefix."""
    layers = int(field["block_count"])
    return Gemma3TextConfig(
        vocab_size=pieces,
        hidden_size=int(field["embedding_length"]),
        intermediate_size=int(field["feed_forward_length"]),
        num_hidden_layers=layers,
        num_attention_heads=int(field["attention.head_count"]),
        num_key_value_heads=int(field["attention.head_count_kv"]),
        head_dim=int(field["attention.key_length"]),
        query_pre_attn_scalar=int(field["attention.key_length"]),
        rms_norm_eps=float(field["attention.layer_norm_rms_epsilon"]),
        max_position_embeddings=int(field["context_length"]),
        sliding_window=int(field["attention.sliding_window"]),
        **attention_pattern(layers, full_theta=float(field["rope.freq_base"])),
        tie_word_embeddings=True,
    )


def attention_pattern(layers: int, full_theta: float) -> dict[str, Any]:
    """Return which layers of Gemma 3 attend to a window and which to everything, and the rotary base of each kind."""
    kinds = ["sliding_attention", "full_attention"]
    thetas = {"full_attention": full_theta, "sliding_attention": 1e4}
    return {
        "layer_types": [kinds[(i + 1) % SLIDING_PATTERN == 0] for i in range(layers)],
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()},
    }


def gguf_to_folder(path: Path, folder: Path) -> None:
    """Write a GGUF file as a Hugging Face folder of float32 weights.

    Raises:
        ArtifactError: when the file is truncated, no GGUF, or of another architecture.
    """
    header = read_header(path)
    found = header.metadata.get("general.architecture")
    if found != ARCHITECTURE:
        raise ArtifactError(
            str(path), f"its architecture is {found!r}", f"Choose a base of architecture {ARCHITECTURE!r}"
        )
    reader = gguf.GGUFReader(path)
    tokenizer_of(reader, path).save_pretrained(folder)
    prefix = f"{ARCHITECTURE}."
    field = {name.removeprefix(prefix): f.contents() for name, f in reader.fields.items() if name.startswith(prefix)}
    try:
        config = config_of(field, pieces=len(reader.fields["tokenizer.ggml.tokens"].data))
    except KeyError as error:
        raise ArtifactError(
            str(path), f"its metadata lacks {prefix}{error.args[0]}", "Fetch the file again, or another base"
        ) from error
    for name in ("bos", "eos", "pad"):
        id_field = "padding" if name == "pad" else name
        setattr(config, f"{name}_token_id", reader.fields[f"tokenizer.ggml.{id_field}_token_id"].contents())
    config.architectures = ["Gemma3ForCausalLM"]
    with torch.device("meta"):
        expected = {name: tuple(w.shape) for name, w in Gemma3ForCausalLM(config).state_dict().items()}
    stored = {tensor.name: tensor for tensor in reader.tensors}
    weights = {}
    names = gguf_names(expected, config.num_hidden_layers)
    for name, other in track(names.items(), "dequantising", total=len(names)):
        if other not in stored:
            raise ArtifactError(str(path), f"tensor {other} is missing", "Fetch the file again, or another base")
        tensor = stored[other]
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if values.shape != expected[name]:
            raise ArtifactError(
                str(path),
                f"tensor {other} has shape {tuple(values.shape)}, its metadata asks for {expected[name]}",
                "Fetch the file again, or another base",
            )
        weights[name] = from_gguf(name, torch.from_numpy(values.copy()).float()).contiguous()
    config.dtype = torch.float32
    config.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


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
