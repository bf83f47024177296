"""Where the time of a metier training step goes, and how much of the processor it uses; ``training.py`` prints it."""

import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from training_contestants import numerics

from metier.model.loading import load
from metier.spec.training import Train
from metier.train.batches import Example, collate
from metier.train.objective import Objective, update
from metier.train.optimizers import optimizer_for

GROUPS = ("body: matrix products", "output head", "attention", "norms and elementwise", "optimizer", "data", "the rest")
_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::matmul", "aten::linear", "mkldnn::")
_OPTIMISER = ("aten::_fused_adam", "aten::_foreach_", "aten::linalg_vector_norm")
"""AdamW, and what scales the gradients down."""


def profile_steps(folder: Path, batches: list[list[Example]], settings: Train, peak_lr: float) -> dict[str, Any]:
    """Time, profile and count the same steps.

    Returns:
        Median seconds of a step without the profiler; shares of the profiled time by group; floating-point operations
        of a step as torch counts them (products, forward and backward); and the best speed of large square products,
        measured before and after.
    """
    model, tokenizer = load(folder)
    optimizer, pad = optimizer_for(model, settings), int(tokenizer.pad_token_id)
    pieces = model.get_parameter("model.embed_tokens.weight").shape[0]
    peaks = [product_speeds()]

    def step(rows: list[Example]) -> tuple[float, float]:
        start = time.perf_counter()
        batch = collate(rows, pad)
        collated = time.perf_counter()
        update(model, optimizer, batch, peak_lr, settings.clip_norm, Objective(numerics=numerics()))
        return collated - start, time.perf_counter() - collated

    step(batches[0])
    times = [step(rows) for rows in batches]
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        start = time.perf_counter()
        for rows in batches:
            step(rows)
        profiled_us = 1e6 * (time.perf_counter() - start)
    with FlopCounterMode(display=False) as counter:
        for rows in batches:
            step(rows)
    peaks.append(product_speeds())
    shares: dict[str, float] = defaultdict(float)
    for event in recorded.key_averages(group_by_input_shape=True):
        shares[group_of(event.key, event.input_shapes, pieces)] += event.self_cpu_time_total / profiled_us
    collating = sum(collated for collated, _ in times) / sum(map(sum, times))
    shares["data"] = collating
    shares["the rest"] = 1 - sum(share for name, share in shares.items() if name != "the rest")
    return {
        "step_seconds": statistics.median(map(sum, times)),
        "mean_step_seconds": statistics.mean(map(sum, times)),
        "gflop_a_step": counter.get_total_flops() / len(batches) / 1e9,
        "shares": {name: round(shares[name], 4) for name in GROUPS},
        "peak_gflop_per_s": {kind: max(peak[kind] for peak in peaks) for kind in peaks[0]},
        "products_in": "bfloat16" if numerics().bfloat16 else "float32",
    }


def group_of(name: str, shapes: list[Any], pieces: int) -> str:
    """Return the group of an operation; whatever has the vocabulary among its sizes belongs to the output head."""
    if name.startswith(_OPTIMISER):
        return "optimizer"
    if not name.startswith(("aten::", "mkldnn::")):
        return "the rest"
    if "scaled_dot_product" in name or "flash_attention" in name:
        return "attention"
    if any(pieces in shape for shape in shapes if shape) and "embedding" not in name:
        return "output head"
    return "body: matrix products" if name.startswith(_PRODUCTS) else "norms and elementwise"


def product_speeds(repeats: int = 4) -> dict[str, float]:
    """Return the best speed of large square matrix products in GFLOP/s; of bfloat16 where the processor has them."""
    width, found = 2048, {}
    for dtype in (torch.float32, *([torch.bfloat16] if numerics().bfloat16 else [])):
        left = torch.rand(width, width).to(dtype)
        best = float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            left @ left
            best = min(best, time.perf_counter() - start)
        found[str(dtype).removeprefix("torch.")] = 2 * width**3 / best / 1e9
    return found
