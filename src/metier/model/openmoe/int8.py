"""Eight-bit weights: one scale an output row.

O = outputs (rows), I = inputs, N = tokens.
"""

import math

import torch
from torch import Tensor, nn

BLOCK_NUMBERS = 2**19
"""How many weights become floating-point numbers at once: 2 MiB of float32, which stay in a core's own cache."""

PACKED_TOKENS = 4
"""Up to so many bfloat16 tokens torch's own product is faster on a CPU.

Measured for a matrix of 8192 x 2048, in ms of processor time: one token 2.2 against 5.6, four 2.7 against 5.5,
64 tokens 40 against 15; in float32 14 against 4 for a single token.
"""


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


def int8_product(x_NI: Tensor, int8_OI: Tensor, scale_O: Tensor) -> Tensor:
    """Return ``x @ weight.T``, ``[N, O]``, in the dtype of ``x``; the matrix itself stays int8.

    Rows become floating-point numbers a block at a time, in one small buffer. The scales are applied to the outputs.
    """
    scale_O = scale_O.to(x_NI.device, x_NI.dtype)
    if _can_be_packed(x_NI, int8_OI):
        return torch._weight_int8pack_mm(x_NI, int8_OI, scale_O)
    (outputs, inputs), tokens = int8_OI.shape, len(x_NI)
    rows = min(max(BLOCK_NUMBERS // inputs, 1), outputs)
    block_RI, y_NO = x_NI.new_empty(rows, inputs), x_NI.new_empty(tokens, outputs)
    for start in range(0, outputs, rows):
        stop = min(start + rows, outputs)
        y_NO[:, start:stop] = x_NI @ block_RI[: stop - start].copy_(int8_OI[start:stop]).T
    return y_NO.mul_(scale_O)


def _can_be_packed(x_NI: Tensor, int8_OI: Tensor) -> bool:
    """Say whether torch's product is right and faster; for ragged widths it reads past the end and crashes."""
    even = int8_OI.shape[0] % 64 == int8_OI.shape[1] % 64 == 0
    on_cpu = x_NI.device.type == int8_OI.device.type == "cpu"
    return even and on_cpu and x_NI.dtype == torch.bfloat16 and len(x_NI) <= PACKED_TOKENS


class Int8Linear(nn.Module):
    """A linear map without bias whose matrix stays int8; it answers and does not learn."""

    def __init__(self, int8_OI: Tensor, scale_O: Tensor) -> None:
        super().__init__()
        self.register_buffer("int8", int8_OI)
        self.register_buffer("scale", scale_O)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[..., O]`` for ``[..., I]``."""
        y_NO = int8_product(x.reshape(-1, x.shape[-1]), self.get_buffer("int8"), self.get_buffer("scale"))
        return y_NO.view(*x.shape[:-1], y_NO.shape[1])


class Int8Embedding(nn.Module):
    """An embedding whose rows stay int8 until they are looked up; it answers and does not learn."""

    def __init__(self, int8_VH: Tensor, scale_V: Tensor) -> None:
        super().__init__()
        self.register_buffer("int8", int8_VH)
        self.register_buffer("scale", scale_V)

    def forward(self, ids: Tensor) -> Tensor:
        """Return ``[..., H]``, in the dtype of the scales."""
        scale = self.get_buffer("scale")[ids]
        return self.get_buffer("int8")[ids].to(scale.dtype) * scale[..., None]
