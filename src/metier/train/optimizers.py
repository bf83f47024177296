"""The optimisers: AdamW, and Adafactor as OpenMoE was trained with."""

from collections.abc import Iterable
from typing import Any

import torch

from metier.spec.training import Training
from metier.train.processes import placed_like
from metier.train.router import is_router

_SQUARE_FLOOR = 1e-30
_SCALE_FLOOR = 1e-3


def optimizer_for(model: torch.nn.Module, settings: Training) -> torch.optim.Optimizer:
    """Return the optimiser that the settings name, for all parameters of the model."""
    return adafactor(model) if settings.optimizer == "adafactor" else adamw(model, settings)


def adamw(model: torch.nn.Module, settings: Training) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) whose weight decay spares the norms."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, fused=True)


def adafactor(model: torch.nn.Module) -> torch.optim.Optimizer:
    """Adafactor with OpenMoE's choices: a router's second moment is not factored."""
    named = list(model.named_parameters())
    return Adafactor(
        [
            {"params": [p for name, p in named if not is_router(name)], "factored": True},
            {"params": [p for name, p in named if is_router(name)], "factored": False},
        ]
    )


class Adafactor(torch.optim.Optimizer):
    """Adafactor (Shazeer and Stern 2018, arXiv 1804.04235): no momentum, steps relative to the parameter's scale.

    The second moment of a matrix is kept as the means of its rows and columns and decays with 1 - t^-0.8; an update is
    scaled down to a root mean square of 1, then multiplied by the rate and by the parameter's own root mean square
    (1e-3 at least). As in T5X, dimensions before the last two count matrices: every expert of a stack has a second
    moment, a clipping and a scale of its own, where transformers' Adafactor has one clipping and one scale for all.
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "factored": True})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make one step on every parameter that has a gradient."""
        assert closure is None, "no closures here"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad.float(), group["lr"], group["factored"])

    def _move(self, parameter: torch.Tensor, gradient: torch.Tensor, rate: float, factored: bool) -> None:
        state: dict[str, torch.Tensor] = self.state[parameter]
        factored = factored and gradient.dim() > 1
        squared = gradient.square() + _SQUARE_FLOOR
        if not state:
            state["step"] = torch.tensor(0.0)
            if factored:
                state["rows"], state["columns"] = torch.zeros_like(squared.mean(-1)), torch.zeros_like(squared.mean(-2))
            else:
                state["squares"] = torch.zeros_like(squared)
        state["step"] += 1
        news = float(state["step"]) ** -0.8
        if factored:
            state["rows"].lerp_(squared.mean(-1), news)
            state["columns"].lerp_(squared.mean(-2), news)
            rows, columns = state["rows"], state["columns"]
            scaled = (rows / rows.mean(-1, keepdim=True)).rsqrt().unsqueeze(-1) * columns.rsqrt().unsqueeze(-2)
        else:
            state["squares"].lerp_(squared, news)
            scaled = state["squares"].rsqrt()
        change = gradient * scaled
        change = change / _rms(change).clamp(min=1) * (rate * _rms(parameter.float()).clamp(min=_SCALE_FLOOR))
        parameter.sub_(placed_like(change.to(parameter.dtype), parameter))


def _rms(values: torch.Tensor) -> torch.Tensor:
    """Return the root mean square, of each matrix of a stack apart."""
    dims = (-2, -1) if values.dim() > 2 else tuple(range(values.dim()))
    return values.square().mean(dim=dims, keepdim=True).sqrt()
