"""What this machine can do, asked without torch: memory, a graphics card's too, cores, speed of matrix products."""

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PROBE_SECONDS = 0.5
_PROBE_WIDTH = 1024
"""Wide enough for the peak, narrow enough for a dozen products even on a slow core."""

_PATIENCE_SECONDS = 10
"""How long the driver of graphics cards is waited for: a sleeping card takes seconds to wake."""


@dataclass(frozen=True)
class Machine:
    """A machine to train on."""

    cores: int
    memory_mib: float | None
    """All its memory; None where the system does not say."""
    gflop_per_s: float
    """Float32 matrix products of all cores together: the best of half a second."""
    multiplies_bfloat16: bool
    """Whether the processor has instructions for products of bfloat16."""
    busy: bool = False
    """Whether other programs wanted half of the cores or more in the last minute: the speed is what they left."""
    card_mib: float | None = None
    """Memory of the graphics card, of the smallest of several; None where no NVIDIA driver tells of one."""

    @property
    def training_mib(self) -> float | None:
        """The memory that a training must fit into: the card's, if there is one."""
        return self.memory_mib if self.card_mib is None else self.card_mib


def this_machine() -> Machine:
    """Measure this machine."""
    busy = hasattr(os, "getloadavg") and os.getloadavg()[0] >= cores() / 2  # before the probe adds to it
    return Machine(cores(), _memory_mib(), product_speed(), _multiplies_bfloat16(), busy, _card_mib())


def product_speed(seconds: float = PROBE_SECONDS) -> float:
    """Return the speed of float32 matrix products in GFLOP/s: the best, because other programs only slow it down."""
    left = np.random.default_rng(0).random((_PROBE_WIDTH, _PROBE_WIDTH), dtype=np.float32)
    product = np.empty_like(left)
    best, end = float("inf"), time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        np.matmul(left, left, out=product)
        best = min(best, time.perf_counter() - start)
    return 2 * _PROBE_WIDTH**3 / best / 1e9


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_mib() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None


def _card_mib() -> float | None:
    command = shutil.which("nvidia-smi")
    if command is None or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):  # none, or hidden from torch
        return None
    asked = [command, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=True).stdout
        return min(map(float, told.split()), default=None)
    except (OSError, subprocess.SubprocessError, ValueError):  # no driver, or a card that does not say
        return None


def _multiplies_bfloat16() -> bool:
    described = Path("/proc/cpuinfo")
    return described.is_file() and bool(re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", described.read_text("utf-8")))
