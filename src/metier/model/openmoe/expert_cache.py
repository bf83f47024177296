"""Experts that stay on disk: read when a token needs them, the least recently used make room.

N = tokens, E = experts, H = model width, F = width of an expert, O = outputs, I = inputs.

Why reads and not a memory map: the pages of a map count as the process's resident memory for as long as the kernel
likes, so no budget could be kept or proved. Here an expert is read into memory of our own, whose size is the budget.
The kernel's page cache may still hold the file where memory is free; that memory is given up as soon as it is needed.
"""

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metier.errors import ArtifactError, SpecError
from metier.model.openmoe.headers import FETCH, Stored
from metier.model.openmoe.int8 import int8_product
from metier.model.openmoe.routing import Routing, gated_ffn, mixed


class ExpertMatrices(NamedTuple):
    """One expert, in int8, rows being outputs."""

    gate_OI: Tensor
    """2F outputs."""
    up_OI: Tensor
    down_OI: Tensor


class ExpertCache:
    """Whole experts of all layers in a fixed number of places, of which the least recently used is given away.

    Args:
        layers: for each MoE layer its stacked int8 matrices gate, up and down, ``[E, O, I]``, as they lie on disk.
        budget_mib: how much memory the experts may take, in MiB. It is taken as experts come, and never exceeded.

    Raises:
        SpecError: when not one expert fits.
    """

    def __init__(self, layers: Sequence[tuple[Stored, Stored, Stored]], budget_mib: float) -> None:
        self.layers = layers
        self.expert_bytes = sum(stored.shape[1] * stored.shape[2] for stored in layers[0])
        if not budget_mib * 2**20 >= self.expert_bytes:  # nor NaN
            least = -(-self.expert_bytes // 2**20)
            raise SpecError(
                "expert_cache_mib",
                f"one expert takes {self.expert_bytes / 2**20:.1f} MiB, more than {budget_mib:g}",
                f"Write {least} or more",
            )
        total = sum(stored.shape[0] for stored, _, _ in layers)
        self.places = int(min(budget_mib * 2**20 / self.expert_bytes, total))
        """How many experts fit."""
        self.hits = self.misses = self.evictions = 0
        self.lock = Lock()
        """To be held while matrices are used: the next ones may be read into the same memory."""
        self._held: OrderedDict[tuple[int, int], ExpertMatrices] = OrderedDict()

    @property
    def held_bytes(self) -> int:
        """How much memory the cached experts take."""
        return len(self._held) * self.expert_bytes

    @property
    def read_bytes(self) -> int:
        """How much has been read from the files."""
        return self.misses * self.expert_bytes

    def matrices(self, layer: int, expert: int) -> ExpertMatrices:
        """Return an expert, read if need be; what it returns holds until the next call.

        Args:
            layer: which of the MoE layers, from 0.
            expert: which of its experts.

        Raises:
            ArtifactError: when the file was cut short meanwhile.
        """
        key = (layer, expert)
        if key in self._held:
            self.hits += 1
            self._held.move_to_end(key)
            return self._held[key]
        if len(self._held) == self.places:
            _, matrices = self._held.popitem(last=False)  # its memory is used again
            self.evictions += 1
        else:
            matrices = ExpertMatrices(*(torch.empty(*at.shape[1:], dtype=torch.int8) for at in self.layers[layer]))
        for stored, matrix_OI in zip(self.layers[layer], matrices, strict=True):
            _read_expert(stored, expert, matrix_OI)
        self.misses += 1
        self._held[key] = matrices
        return matrices


class CachedExperts(nn.Module):
    """All experts of a layer, on disk and in the cache that the layers share; in place of `OpenMoeExperts`."""

    def __init__(self, cache: ExpertCache, layer: int, scales_EO: tuple[Tensor, Tensor, Tensor]) -> None:
        super().__init__()
        self.cache, self.layer = cache, layer
        for name, scale_EO in zip(ExpertMatrices._fields, scales_EO, strict=True):
            self.register_buffer(f"{name.removesuffix('_OI')}_scale", scale_EO)

    def forward(self, x_NH: Tensor, routing: Routing) -> Tensor:
        """Return the weighted sum of the kept experts' answers."""
        gate_EO, up_EO, down_EO = (self.get_buffer(f"{name}_scale") for name in ("gate", "up", "down"))

        def answers(x_AH: Tensor, counts_E: Tensor) -> Tensor:
            parts = enumerate(x_AH.split(counts_E.tolist()))
            found = [answer(expert, part) for expert, part in parts if len(part)]
            return torch.cat(found) if found else x_AH

        def answer(expert: int, part: Tensor) -> Tensor:
            with self.cache.lock:
                gate_OI, up_OI, down_OI = self.cache.matrices(self.layer, expert)
                gate = int8_product(part, gate_OI, gate_EO[expert])
                y = gated_ffn(gate, int8_product(part, up_OI, up_EO[expert]))
                return int8_product(y, down_OI, down_EO[expert])

        return mixed(x_NH, routing.expert_NK, routing.weight_NK, routing.kept_NK, len(down_EO), answers)


def _read_expert(stored: Stored, expert: int, matrix_OI: Tensor) -> None:
    size = matrix_OI.numel()
    with stored.file.open("rb") as file:
        file.seek(stored.start + expert * size)
        if file.readinto(matrix_OI.numpy().data) != size:
            raise ArtifactError(str(stored.file), f"tensor {stored.name} is cut short", FETCH)
