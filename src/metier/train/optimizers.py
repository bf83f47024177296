"""The optimisers: AdamW, and Adafactor as OpenMoE was trained with; which parameters they move, and how fast."""

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch

from metier.spec.training import ADAPTERS_RATE, Training
from metier.train.lora import is_adapter
from metier.train.processes import placed_like
from metier.train.router import is_router

_SQUARE_FLOOR = 1e-30
_SCALE_FLOOR = 1e-3


def optimizer_for(model: torch.nn.Module, settings: Training) -> torch.optim.Optimizer:
    """Return the optimiser that the settings name, for all parameters of the model that are not frozen.

    Each of its groups has a ``rate_share``: of the rate of a step, what the group's parameters move at.
    """
    return adafactor(model) if settings.optimizer == "adafactor" else adamw(model, settings)


def adamw(model: torch.nn.Module, settings: Training) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) whose weight decay spares the norms."""
    groups = _groups(model, lambda _, p: {"weight_decay": settings.weight_decay if p.dim() > 1 else 0.0})
    return torch.optim.AdamW(groups, lr=0.0, fused=True)


def adafactor(model: torch.nn.Module) -> torch.optim.Optimizer:
    """Adafactor with OpenMoE's choices: a router's second moment is not factored."""
    return Adafactor(_groups(model, lambda name, _: {"factored": not is_router(name)}))


def trained_parameters(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.nn.Parameter]:
    """Return by name the parameters of a model that belong to the optimiser: what a training changes and must keep."""
    moved = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in moved}


def _groups(
    model: torch.nn.Module, settings_of: Callable[[str, torch.nn.Parameter], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the parameters that are not frozen, those of equal settings together.

    Beside adapters, weights that learn themselves keep the rate they would have without.
    """
    learning = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    adapters = any(is_adapter(name) for name, _ in learning)
    groups: dict[Hashable, dict[str, Any]] = {}
    for name, parameter in learning:
        share = 1 / ADAPTERS_RATE if adapters and not is_adapter(name) else 1.0
        settings = settings_of(name, parameter) | {"rate_share": share}
        groups.setdefault(tuple(settings.items()), {"params": [], **settings})["params"].append(parameter)
    return list(groups.values())


class Adafactor(torch.optim.Optimizer):
    """Adafactor (Shazeer and Stern 2018, arXiv 1804.04235): no momentum, steps relative to the parameter's scale.

    The second moment of a matrix is kept as the means of its rows and columns and decays with 1 - t^-0.8; an update is
    scaled down to a root mean square of 1, then multiplied by the rate and by the parameter's own root mean square
    (1e-3 at least). As in T5X, dimensions before the last two count matrices: every expert of a stack has a second
    moment, a clipping and a scale of its own, where transformers' Adafactor has one clipping and one scale for all.
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "factored": True, "rate_share": 1.0})

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
