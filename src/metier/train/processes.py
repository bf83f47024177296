"""Training by several processes: what they share, what they add up, and what the first one decides for all.

torchrun (`torch.distributed.run`) starts the processes and tells them who they are. Each holds the whole model and
adds up its gradients with the others', or, where the model is sharded, a part of every weight (FSDP2: Zhao et al. 2023,
arXiv 2304.11277). A process that is alone is the first of one: nothing here costs it anything.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from types import MethodType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from metier.errors import RunError

T = TypeVar("T")

_BUCKET_VALUES = 1 << 23
"""Gradients added up at once: 32 MiB."""
_PATIENCE = timedelta(days=2)
"""How long others wait for what one does alone, such as a search. Of one that ends the launcher tells them at once."""

_alone: ContextVar[bool] = ContextVar("alone", default=False)
_waiting: ContextVar[dist.ProcessGroup | None] = ContextVar("waiting", default=None)
"""All processes, with patience; whatever else they do together is done at once, or ends in an error."""


@contextmanager
def joined() -> Iterator[None]:
    """Be one of the processes that torchrun started, each on an accelerator of its own where there are any.

    After an error the process is to end: it stays one of them.

    Raises:
        RunError: when there are fewer accelerators than processes, or they cannot work together.
    """
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is not None:
        local, found = int(os.environ["LOCAL_RANK"]), torch.accelerator.device_count()
        if local >= found:
            fix = f"Start at most {found} processes on this machine"
            raise RunError("training", f"{found} accelerators of type {device.type} for more processes", fix)
        torch.accelerator.set_device_index(local)
    accelerated = {"cuda": "cpu:gloo,cuda:nccl", "xpu": "cpu:gloo,xpu:xccl"}
    if device is not None and device.type not in accelerated:
        alone = f"processes cannot share a training on accelerators of type {device.type}"
        raise RunError("training", alone, "Train in one process")
    dist.init_process_group(accelerated[device.type] if device else "gloo")
    token = _waiting.set(dist.new_group(backend="gloo", timeout=_PATIENCE))
    yield
    _waiting.reset(token)
    dist.destroy_process_group()  # not after an error: NCCL would wait for processes that do not come


@contextmanager
def alone() -> Iterator[None]:
    """Let the first process do what is inside as if it were alone, with the threads of the others, which wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(threads * int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)
        torch.set_num_threads(threads)


def world_size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() and not _alone.get() else 1


def rank() -> int:
    """Return which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the process that writes, talks and decides."""
    return rank() == 0


def barrier() -> None:
    """Go on when all processes have come here."""
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1), group=_waiting.get())


def broadcast_object(value: T) -> T:
    """Return the first process's value, made of JSON values, in all of them."""
    if world_size() == 1:
        return value
    text = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
    length = torch.tensor(len(text))
    dist.broadcast(length, 0)
    if not is_main():
        text = torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(text, 0)
    found: T = json.loads(bytes(text.tolist()))
    return found


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """Return the sum of the processes' values."""
    if world_size() > 1:
        dist.all_reduce(values := values.contiguous().clone())
    return values


def add_gradients(model: torch.nn.Module) -> None:
    """Give every process the sum of all their gradients; a sharded model's backward pass has done so already."""
    if world_size() == 1 or is_sharded(model):
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    start, values = 0, 0
    for end, gradient in enumerate(gradients, 1):
        values += gradient.numel()
        if values >= _BUCKET_VALUES or end == len(gradients):
            bucket = gradients[start:end]
            sums = torch.cat([one.flatten() for one in bucket])
            dist.all_reduce(sums)
            for one, its_sum in zip(bucket, sums.split([one.numel() for one in bucket]), strict=True):
                one.copy_(its_sum.view_as(one))
            start, values = end, 0


def shard(model: PreTrainedModel, forward: Callable[..., Any]) -> None:
    """Leave every process a part of each weight; a layer's whole weights are there while it computes.

    Args:
        model: a model with the same weights in every process, on the CPU.
        forward: a function of the model that computes with its layers; the model gets it as a method, which gathers
            the weights outside the layers, too.
    """
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    mesh = init_device_mesh(device.type, (world_size(),))
    for layer in [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)  # else a validation would leave it with whole weights
    for module in model.modules():
        if isinstance(module, FSDPModule):  # a loss is a sum of the processes' shares, and so is its gradient
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    setattr(model, forward.__name__, MethodType(forward, model))
    register_fsdp_forward_method(model, forward.__name__)


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether the processes each hold a part of this model."""
    return isinstance(model, FSDPModule)


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return the whole of a tensor that may be sharded; all processes must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def to_local(tensor: torch.Tensor) -> torch.Tensor:
    """Return what this process has of a tensor, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(parameters: dict[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    """Return all of these weights in the first process, and nothing in the others; all must ask."""
    found = {}
    for name, parameter in parameters.items():
        weight = full_tensor(parameter.detach())
        if is_main():
            found[name] = weight.cpu() if isinstance(parameter, DTensor) else weight
    return found


def placed_like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return a tensor sharded as another one is."""
    if isinstance(tensor, DTensor) and isinstance(other, DTensor):
        return tensor.redistribute(placements=other.placements)
    return tensor
