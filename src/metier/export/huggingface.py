"""Write the model as a Hugging Face folder that Auto classes load without remote code."""

import json
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from metier.artifact import write_json
from metier.tasks.prompt import PromptFormat
from metier.tokenizer.read import begins_with_bos


def write_folder(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompt: PromptFormat | None = None,
) -> None:
    """Write config, safetensors and tokenizer; a prompt becomes the chat template, which wraps a plain message in it.

    Special ids are set in the configuration, so that generation stops where the model was taught to.
    """
    for name in ("bos", "eos", "pad"):
        setattr(model.config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
        setattr(model.generation_config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
    model.save_pretrained(folder)
    if prompt:
        tokenizer.chat_template = prompt.chat_template(bos=begins_with_bos(tokenizer))
    tokenizer.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    # The name that every version of transformers since 4.0 knows.
    write_json(
        settings,
        json.loads(settings.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"},
    )
