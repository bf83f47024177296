"""Eight-bit weights: one scale an output row.

O = outputs (rows), I = inputs.
"""

import math

import torch
from torch import Tensor


def quantise_rows(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 weights and a float32 scale for each row; leading dimensions are kept.

    Symmetric, the row's largest weight becomes 127: ``weight ~ int8 * scale`` to within half a scale.
    """
    weight_OI = weight_OI.float()
    scale_O = torch.linalg.vector_norm(weight_OI, ord=math.inf, dim=-1) / 127
    divisor_O = torch.where(scale_O > 0, scale_O, 1.0)
    return (weight_OI / divisor_O[..., None]).round_().clamp_(-127, 127).to(torch.int8), scale_O


def dequantise_rows(int8_OI: Tensor, scale_O: Tensor) -> Tensor:
    """Return float32 weights."""
    return int8_OI.float() * scale_O[..., None]
