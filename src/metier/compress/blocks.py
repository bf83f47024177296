"""Weights in blocks of 32 with one scale each: GGUF's types Q4_0 and Q5_0, with the scales that fit best.

The reference quantiser of llama.cpp takes a block's scale from its extreme weight. Here several scales are tried and
the one with the least squared error is kept, as llama.cpp's ``make_qx_quants`` does; the files are read the same.
A weight that already is a whole multiple of its block's scale is stored exactly.
"""

from collections.abc import Iterator

import gguf
import numpy as np
import numpy.typing as npt
import torch

BLOCK = 32
LOWEST = {"Q4_0": -8, "Q5_0": -16}
"""The types fitted here, and their lowest level; the highest is one less, positive."""

_NEAR = (-0.6, -0.3, 0.3, 0.6)
"""Levels beside the lowest that a block's extreme weight is tried at."""
_CHUNK_BLOCKS = 1 << 12
"""Half a MiB of weights at a time stays in the processor's cache: four times faster than 8 MiB."""


def quantise(weight: npt.NDArray[np.float32], kind: gguf.GGMLQuantizationType) -> npt.NDArray[np.generic]:
    """Return a weight as GGUF stores it in a type: the bytes of each row's blocks, or the plain values.

    Args:
        weight: any shape; rows of a block type divide into its blocks.
        kind: F32, F16 or a type of `gguf.quantize`.
    """
    if kind.name not in LOWEST:
        stored: npt.NDArray[np.generic] = gguf.quantize(weight, kind)
        return stored
    lowest = LOWEST[kind.name]
    packed = [
        _packed(scale_B1, _levels(block_BW, scale_B1, lowest), lowest)
        for block_BW in _chunks(torch.from_numpy(np.ascontiguousarray(weight)))
        for scale_B1 in [_best_scales(block_BW, lowest)]
    ]
    bytes_a_row = weight.shape[-1] // BLOCK * (2 + (4 if kind.name == "Q5_0" else 0) + BLOCK // 2)
    return np.concatenate(packed).reshape(*weight.shape[:-1], bytes_a_row)


@torch.no_grad()
def fit_scales(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """Return the scale of each block, float32 values that F16 holds exactly; shape (blocks, 1)."""
    return torch.cat([_best_scales(block_BW, LOWEST[kind]) for block_BW in _chunks(weight)])


@torch.no_grad()
def rounded(weight: torch.Tensor, scales: torch.Tensor, kind: str) -> torch.Tensor:
    """Return a weight rounded to whole multiples of its blocks' scales, within the type's levels."""
    result = torch.empty_like(weight)
    chunks = zip(_chunks(weight), scales.split(_CHUNK_BLOCKS), _chunks(result), strict=True)
    for block_BW, scale_B1, result_BW in chunks:
        torch.mul(_levels(block_BW, scale_B1, LOWEST[kind]), scale_B1, out=result_BW)
    return result


def _chunks(weight: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield views of a contiguous weight's blocks, shape (blocks, 32), few enough at a time for the caches."""
    return iter(weight.view(-1, BLOCK).split(_CHUNK_BLOCKS))


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


def _packed(scale_B1: torch.Tensor, level_BW: torch.Tensor, lowest: int) -> npt.NDArray[np.uint8]:
    """Return blocks as bytes (ggml-quants.c): scale in F16, fifth bits if any, then nibbles of the two halves."""
    level = (level_BW - lowest).to(torch.uint8).numpy()
    scale = scale_B1.numpy().astype("<f2").view(np.uint8)
    fifth = [np.packbits(level >> 4, axis=-1, bitorder="little")] if lowest == LOWEST["Q5_0"] else []
    nibbles = (level[:, : BLOCK // 2] & 15) | (level[:, BLOCK // 2 :] << 4)
    return np.concatenate([scale, *fifth, nibbles], axis=-1, dtype=np.uint8)
