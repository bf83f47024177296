"""Training on weights as they will be stored, so that a file of few bits loses nothing against the checkpoint.

Quantisation-aware training with the straight-through estimator (Bengio et al. 2013, arXiv 1308.3432; Jacob et al.
2018, arXiv 1712.05877, section 3): a step's loss and gradient are those of the rounded weights, and the gradient
moves the exact ones. The grid, one scale a block of 32 weights, is fitted once, to the weights it begins with.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Self

import torch
from transformers import PreTrainedModel

from metier.compress.blocks import BLOCK, fit_scales, rounded


class Grid:
    """The values that a model's matrices may have; vectors are stored exactly and left alone."""

    def __init__(self, scales: dict[str, torch.Tensor], kind: str) -> None:
        self._scales, self._kind = scales, kind

    @classmethod
    def fit(cls, model: PreTrainedModel, kind: str) -> Self:
        """Return the grid of a GGUF type (Q4_0 or Q5_0) that lies closest to a model's weights."""
        matrices = {n: p for n, p in model.named_parameters() if p.dim() > 1 and p.shape[-1] % BLOCK == 0}
        return cls({name: fit_scales(p.detach(), kind) for name, p in matrices.items()}, kind)

    @contextmanager
    def applied(self, model: PreTrainedModel) -> Iterator[None]:
        """Give the model its rounded weights inside the block, and the exact ones back after it."""
        exact = {}
        try:
            for name, parameter in model.named_parameters():
                if name in self._scales:
                    exact[name] = parameter.data
                    parameter.data = rounded(parameter.data, self._scales[name], self._kind)
            yield
        finally:
            for name, parameter in model.named_parameters():
                if name in exact:
                    parameter.data = exact[name]


def on_grid(model: PreTrainedModel, grid: Grid | None) -> AbstractContextManager[None]:
    """Give the model its rounded weights inside the block, where there is a grid."""
    return grid.applied(model) if grid else nullcontext()
