"""LoRA: small matrices learn beside the frozen ones, and are added to them when the training is done.

Hu et al. 2021 (arXiv 2106.09685): a matrix W becomes W + alpha / rank * B A. A begins random and B at zero, so that a
training begins with the model as it was. Adapters and merge are those of the package peft, which only the extra
``lora`` brings.
"""

import importlib
import warnings
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from metier.errors import ArtifactError, not_installed
from metier.spec.training import Lora
from metier.spec.weights import EXPERTS, part_of
from metier.train.router import is_mixture, is_router


def load_peft() -> Any:
    """Return the package peft.

    Raises:
        RunError: when it is not installed.
    """
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise not_installed("train.lora", "peft", "lora") from error


def with_adapters(model: PreTrainedModel, lora: Lora, seed: int) -> PreTrainedModel:
    """Freeze a model and give it adapters; what it computes stays the same.

    Weights that learn themselves are the model's own and no copies: an embedding that is the output matrix, too, stays
    so.

    Args:
        model: any causal language model; it is changed.
        lora: size and place of the adapters.
        seed: of the adapters' random half.

    Returns:
        The model in peft's wrapper, which passes on whatever it is asked; `merged` takes it out.

    Raises:
        ArtifactError: when the model has no matrices to put them beside, or hides its experts.
        RunError: when peft is not installed.
    """
    peft = load_peft()
    modules, parameters = _targets(model, lora.targets)
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=modules, target_parameters=parameters or None
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for what it calls differently now
        torch.manual_seed(seed)
        adapted = cast("PreTrainedModel", peft.get_peft_model(model, config))
    for module in _learning_themselves(model, lora):
        module.requires_grad_(True)
    return adapted


def merged(adapted: PreTrainedModel) -> PreTrainedModel:
    """Return a model of `with_adapters` out of its wrapper, every adapter added to its matrix."""
    model: PreTrainedModel = cast("Any", adapted).merge_and_unload()
    return model.requires_grad_(True)


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return "lora_" in name


def _targets(model: PreTrainedModel, targets: str) -> tuple[list[str], list[str]]:
    """Return what gets adapters: names of modules that are a matrix, and of parameters, such as stacks of experts."""
    output = model.get_output_embeddings()
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not output]
    attention = [name for name in linear if part_of(name) == "attention"]
    others = [name for name in linear if name not in attention and not is_router(f"{name}.weight")]
    stacks = [name for name, p in model.named_parameters() if p.dim() == 3 and part_of(name) == EXPERTS]
    hidden = is_mixture(model) and not any(part_of(name) == EXPERTS for name in others + stacks)
    if targets == "attention":
        modules, parameters, hidden = attention, [], False
    elif stacks:  # peft takes the module names of dense layers beside experts for the experts'
        modules, parameters = attention, stacks + [f"{name}.weight" for name in others]
    else:
        modules, parameters = attention + others, []
    if hidden or not modules:
        raise ArtifactError(
            f"a base of type {model.config.model_type!r}",
            f"it does not show the matrices that targets = {targets!r} puts adapters beside",
            "Remove [train.lora], or choose another base",
        )
    return modules, parameters


def _learning_themselves(model: PreTrainedModel, lora: Lora) -> Iterator[nn.Module]:
    if "embedding" in lora.also:
        yield from (model.get_input_embeddings(), model.get_output_embeddings())
    if "norms" in lora.also:
        yield from (module for module in model.modules() if "norm" in type(module).__name__.lower())
