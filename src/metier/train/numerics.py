"""The numbers a step computes with: weights as they will be stored, products in the precision a machine is fast at.

Quantisation-aware training with the straight-through estimator (Bengio et al. 2013, arXiv 1308.3432; Jacob et al.
2018, arXiv 1712.05877, section 3): a step's loss and gradient are those of the rounded weights, and the gradient
moves the exact ones, so that a file of few bits loses nothing against the checkpoint. The grid, one scale a block of
32 weights, is fitted once, to the weights a training begins with.

Mixed precision (Micikevicius et al. 2018, arXiv 1710.03740): matrix products take bfloat16 factors; weights, moments,
norms and losses stay float32.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Self

import torch
from transformers import PreTrainedModel

from metier.compress.blocks import BLOCK, fit_scales, rounded
from metier.progress import say
from metier.spec.training import Training
from metier.spec.weights import is_router
from metier.train import processes
from metier.train.processes import to_local


class Grid:
    """The values that a model's matrices may have; vectors and routers are stored exactly and left alone."""

    def __init__(self, scales: dict[str, torch.Tensor], kind: str) -> None:
        self._scales, self._kind = scales, kind

    @classmethod
    def fit(cls, model: PreTrainedModel, kind: str) -> Self:
        """Return the grid of a GGUF type (Q4_0 or Q5_0) that lies closest to a model's weights.

        A sharded model's processes each fit the blocks they have: shards are whole rows.
        """
        stored = ((n, p) for n, p in model.named_parameters() if p.dim() > 1 and not is_router(n))
        matrices = {n: p for n, p in stored if p.shape[-1] % BLOCK == 0}
        return cls({name: fit_scales(to_local(p.detach()), kind) for name, p in matrices.items()}, kind)

    @contextmanager
    def applied(self, model: PreTrainedModel) -> Iterator[None]:
        """Give the model its rounded weights inside the block, and the exact ones back after it."""
        matrices = [(to_local(p.detach()), self._scales[n]) for n, p in model.named_parameters() if n in self._scales]
        exact: list[torch.Tensor] = []
        try:
            for weight, scales in matrices:
                exact.append(weight.clone())
                weight.copy_(rounded(weight, scales, self._kind))  # in place: FSDP gathers what is in this memory
            yield
        finally:
            for (weight, _), value in zip(matrices, exact, strict=False):  # fewer, when there was no memory for more
                weight.copy_(value)


@dataclass(frozen=True)
class Numerics:
    """How losses are computed: by default at once and exactly, in the precision the weights are in."""

    grid: Grid | None = None
    bfloat16: bool = False
    micro_tokens: int | None = None
    """Most padded tokens that a process computes at once; None for its whole share of a batch."""

    @classmethod
    def of(
        cls, model: PreTrainedModel, settings: Training, quantisation: str | None, begun_in: str | None = None
    ) -> Self:
        """Return what the settings ask for, with a grid that is fitted to the model as it is.

        Args:
            model: as it is before the first step.
            settings: the training's.
            quantisation: the GGUF type of the grid, if any.
            begun_in: the precision that "auto" chose when the training began, to go on in it; None to choose.
        """
        grid = Grid.fit(model, quantisation) if quantisation else None
        precision: str = settings.precision
        if precision == "auto":
            able = processes.broadcast_object(multiplies_bfloat16(model.device))
            precision = begun_in or ("bfloat16" if able else "float32")
        return cls(grid, precision == "bfloat16", settings.micro_batch_tokens)

    @property
    def precision(self) -> str:
        """That of the factors of matrix products."""
        return "bfloat16" if self.bfloat16 else "float32"

    @contextmanager
    def weights(self, model: PreTrainedModel) -> Iterator[None]:
        """Give the model the weights it is judged by inside the block; a gradient is taken in here, too."""
        if self.grid is None:
            yield
            return
        with self.grid.applied(model):
            yield

    def is_slow_on(self, accelerator: torch.device | None) -> bool:
        """Return whether a machine's accelerator, if any, is left to multiply float32 though it has bfloat16."""
        return accelerator is not None and not self.bfloat16 and multiplies_bfloat16(accelerator)

    def products(self, device: torch.device) -> torch.autocast:
        """Return the context of a forward pass."""
        # without a cache, which would keep a bfloat16 copy of all weights: a forward pass uses each of them once
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bfloat16, cache_enabled=False)


EXACT = Numerics()


def tell_precision(numerics: Numerics, settings: Training, device: torch.device) -> None:
    """Say where another precision would be faster, or was chosen on other hardware."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if settings.precision == "auto" and numerics.bfloat16 != multiplies_bfloat16(device):
        say(f"  in {numerics.precision}, as the training began: this hardware alone would choose the other precision")
    elif numerics.is_slow_on(accelerator):
        key = settings.key("precision")
        say(f'  in float32, which is slow on {accelerator}: {key} = "auto" is several times as fast')


def route_exactly(model: PreTrainedModel) -> None:
    """Let a mixture's routers compute in float32 whatever else does not: with few bits near ties route otherwise.

    So do Switch Transformers (Fedus et al. 2022, arXiv 2101.03961, section 2.4), and exams and files.
    """
    for name, module in model.named_modules():
        own = [f"{name}.{parameter}" for parameter, _ in module.named_parameters()]
        if own and all(
            map(is_router, own)
        ):  # OpenMoE's layers hold theirs beside the experts, and see to it themselves
            module.forward = _exactly(module.forward)


def _exactly(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def exact(hidden: torch.Tensor, *others: Any, **named: Any) -> Any:
        with torch.autocast(hidden.device.type, enabled=False):
            return forward(hidden.float(), *others, **named)

    return exact


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 matrices in hardware, where it is about twice as fast."""
    if device.type == "cpu":
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return False
