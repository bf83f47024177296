"""Weights in blocks of 32: GGUF's types with a scale each (Q4_0, Q5_0) or a scale and a least value (Q4_1, Q5_1).

The reference quantiser of llama.cpp takes them from a block's extreme weights. Here several are tried and those with
the least squared error are kept, as llama.cpp's ``make_qx_quants`` and ``make_qkx2_quants`` do; the files are read the
same. A weight that already is a whole multiple of its block's scale is stored exactly.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import gguf
import numpy as np
import numpy.typing as npt
import torch

from metier.spec.quantisation import BLOCK as BLOCK

LOWEST = {"Q4_0": -8, "Q5_0": -16}
"""Types of levels around zero, and their lowest; the highest is one less, positive."""
HIGHEST = {"Q4_1": 15, "Q5_1": 31}
"""Types of levels above a least value, and their highest; the lowest is 0."""

_NEAR = (-0.6, -0.3, 0.3, 0.6)
"""Levels beside the lowest that a block's extreme weight is tried at."""
_NEAR_HIGHEST = tuple(step / 4 for step in range(-4, 5))
"""The same beside the highest, for a block's largest weight."""
_REFINEMENTS = 2
"""How often scale and least value are fitted to levels, and levels rounded anew."""
_CHUNK_BLOCKS, _ACCELERATED_BLOCKS = 1 << 12, 1 << 20
"""Half a MiB of weights at a time stays in a processor's cache: four times faster than 8 MiB. On an accelerator it is
the number of calls that costs."""


def quantise(weight: npt.NDArray[np.float32], kind: gguf.GGMLQuantizationType) -> npt.NDArray[np.generic]:
    """Return a weight as GGUF stores it in a type: the bytes of each row's blocks, or the plain values.

    Args:
        weight: any shape; rows of a block type divide into its blocks.
        kind: F32, F16 or a type of `gguf.quantize`.
    """
    blocks = _BLOCK_TYPES.get(kind.name)
    if blocks is None:
        stored: npt.NDArray[np.generic] = gguf.quantize(weight, kind)
        return stored
    packed = [blocks(chunk_BW) for chunk_BW in _chunks(torch.from_numpy(np.ascontiguousarray(weight)))]
    return np.concatenate(packed).reshape(*weight.shape[:-1], -1)


@torch.no_grad()
def fit_scales(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """Return the scale of each block, float32 values that F16 holds exactly; shape (blocks, 1)."""
    return torch.cat([_best_scales(block_BW, LOWEST[kind]) for block_BW in _chunks(weight)])


@torch.no_grad()
def rounded(weight: torch.Tensor, scales: torch.Tensor, kind: str) -> torch.Tensor:
    """Return a weight rounded to whole multiples of its blocks' scales, within the type's levels."""
    result = torch.empty_like(weight)
    chunks = zip(_chunks(weight), scales.split(_at_once(weight)), _chunks(result), strict=True)
    for block_BW, scale_B1, result_BW in chunks:
        torch.mul(_levels(block_BW, scale_B1, LOWEST[kind]), scale_B1, out=result_BW)
    return result


def _chunks(weight: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield views of a contiguous weight's blocks, shape (blocks, 32), few enough at a time for the caches."""
    return iter(weight.view(-1, BLOCK).split(_at_once(weight)))


def _at_once(weight: torch.Tensor) -> int:
    return _CHUNK_BLOCKS if weight.device.type == "cpu" else _ACCELERATED_BLOCKS


def _levels(block_BW: torch.Tensor, scale_B1: torch.Tensor, lowest: int) -> torch.Tensor:
    inverse_B1 = torch.where(scale_B1 == 0, 0.0, 1 / scale_B1)
    return (block_BW * inverse_B1).round_().clamp_(lowest, -lowest - 1)


def _best_scales(block_BW: torch.Tensor, lowest: int) -> torch.Tensor:
    """Return for each block the scale of least squared error, as F16 rounds it."""
    extreme_B1 = block_BW.gather(1, block_BW.abs().argmax(1, keepdim=True))
    best_B1, least_B1 = torch.zeros_like(extreme_B1), torch.full_like(extreme_B1, float("inf"))
    # whole levels find the scale of weights that are rounded already
    whole = [level for level in range(lowest, -lowest) if level]
    for level in (*whole, *(lowest + near for near in _NEAR)):
        refined = not isinstance(level, int)
        scale_B1 = extreme_B1 / level
        if refined:
            level_BW = _levels(block_BW, scale_B1, lowest)
            squares_B1 = level_BW.square().sum(1, keepdim=True).clamp_(min=1)
            scale_B1 = (block_BW * level_BW).sum(1, keepdim=True) / squares_B1
        scale_B1 = scale_B1.half().float()
        error_B1 = (_levels(block_BW, scale_B1, lowest) * scale_B1 - block_BW).square_().sum(1, keepdim=True)
        better_B1 = error_B1 < least_B1
        best_B1, least_B1 = torch.where(better_B1, scale_B1, best_B1), torch.where(better_B1, error_B1, least_B1)
    return best_B1


def _best_lines(block_BW: torch.Tensor, highest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for each block the scale and the least value of least squared error, as F16 rounds them."""
    low_B1, high_B1 = block_BW.amin(1, keepdim=True), block_BW.amax(1, keepdim=True)
    sum_B1 = block_BW.sum(1, keepdim=True)
    best = [torch.zeros_like(low_B1), low_B1.half().float()]
    least_B1 = torch.full_like(low_B1, float("inf"))
    for near in (None, *_NEAR_HIGHEST):  # first as the reference quantiser has them
        scale_B1, offset_B1 = (high_B1 - low_B1) / (highest + (near or 0)), low_B1
        for _ in range(0 if near is None else _REFINEMENTS):
            level_BW = _levels_above(block_BW, scale_B1, offset_B1, highest)
            levels_B1, squares_B1 = level_BW.sum(1, keepdim=True), level_BW.square().sum(1, keepdim=True)
            products_B1 = (block_BW * level_BW).sum(1, keepdim=True)
            spread_B1 = (BLOCK * squares_B1 - levels_B1.square()).clamp_(min=1)  # 0 only where all levels are equal
            scale_B1 = (BLOCK * products_B1 - sum_B1 * levels_B1) / spread_B1
            offset_B1 = (sum_B1 - scale_B1 * levels_B1) / BLOCK
        scale_B1, offset_B1 = scale_B1.half().float(), offset_B1.half().float()
        stored_BW = _levels_above(block_BW, scale_B1, offset_B1, highest) * scale_B1 + offset_B1
        error_B1 = (stored_BW - block_BW).square_().sum(1, keepdim=True)
        better_B1 = error_B1 < least_B1
        best = [torch.where(better_B1, new, old) for new, old in zip((scale_B1, offset_B1), best, strict=True)]
        least_B1 = torch.where(better_B1, error_B1, least_B1)
    return best[0], best[1]


def _levels_above(
    block_BW: torch.Tensor, scale_B1: torch.Tensor, offset_B1: torch.Tensor, highest: int
) -> torch.Tensor:
    inverse_B1 = torch.where(scale_B1 == 0, 0.0, 1 / scale_B1)
    return ((block_BW - offset_B1) * inverse_B1).round_().clamp_(0, highest)


def _around_zero(block_BW: torch.Tensor, lowest: int) -> npt.NDArray[np.uint8]:
    scale_B1 = _best_scales(block_BW, lowest)
    return _packed([scale_B1], _levels(block_BW, scale_B1, lowest) - lowest, -2 * lowest - 1)


def _above_a_least_value(block_BW: torch.Tensor, highest: int) -> npt.NDArray[np.uint8]:
    scale_B1, offset_B1 = _best_lines(block_BW, highest)
    return _packed([scale_B1, offset_B1], _levels_above(block_BW, scale_B1, offset_B1, highest), highest)


def _packed(halves: Sequence[torch.Tensor], level_BW: torch.Tensor, highest: int) -> npt.NDArray[np.uint8]:
    """Return blocks as bytes (ggml-quants.c): scale and least value in F16, fifth bits, nibbles of the two halves."""
    level = level_BW.to(torch.uint8).numpy()
    numbers = [half_B1.numpy().astype("<f2").view(np.uint8) for half_B1 in halves]
    fifth = [np.packbits(level >> 4, axis=-1, bitorder="little")] if highest > 15 else []
    nibbles = (level[:, : BLOCK // 2] & 15) | (level[:, BLOCK // 2 :] << 4)
    return np.concatenate([*numbers, *fifth, nibbles], axis=-1, dtype=np.uint8)


_BLOCK_TYPES: dict[str, Callable[[torch.Tensor], npt.NDArray[np.uint8]]] = {
    **{kind: partial(_around_zero, lowest=lowest) for kind, lowest in LOWEST.items()},
    **{kind: partial(_above_a_least_value, highest=highest) for kind, highest in HIGHEST.items()},
}
