"""Write the model as a Hugging Face folder that Auto classes load without remote code."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    config = folder / "config.json"
    write_json(config, (written := json.loads(config.read_text(encoding="utf-8"))) | _older_names(written))
    if prompt:
        tokenizer.chat_template = prompt.chat_template(bos=begins_with_bos(tokenizer))
    tokenizer.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    # The name that every version of transformers since 4.0 knows.
    write_json(
        settings,
        json.loads(settings.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"},
    )


def _older_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what transformers before version 5 looks for under other names, and else takes its own defaults for."""
    older: dict[str, Any] = {}
    rope = config.get("rope_parameters") or {}
    full, window = rope.get("full_attention", rope), rope.get("sliding_attention")
    if "rope_theta" in full:
        older["rope_theta"] = full["rope_theta"]
    if "partial_rotary_factor" in full:
        older["partial_rotary_factor"] = full["partial_rotary_factor"]
    if window:
        older["rope_local_base_freq"] = window["rope_theta"]
    if full.get("rope_type", "default") != "default":
        older["rope_scaling"] = {key: value for key, value in full.items() if key != "rope_theta"}
    if "num_local_experts" in config and config["model_type"] == "qwen3_moe":
        older["num_experts"] = config["num_local_experts"]
    return older
