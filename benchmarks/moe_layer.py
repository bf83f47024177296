"""Speed of a mixture's feed-forward layer on this machine, beside other ways to compute it and beside a dense layer.

    python benchmarks/moe_layer.py [--repeats 9]

Float32, width and expert width 512, two experts a token, 1,024 and 4,096 tokens, 8, 16 and 64 experts; forward, and
forward with backward. The same Qwen3-MoE experts module computes with each implementation in turn, on the same random
tokens and choices, so that a busy machine slows all. *dense* is a gated feed-forward layer of equal active size: the
width of two experts. Measured twice, in fresh processes: with memory in pages of 4 KiB, and in huge ones
(``THP_MEM_ALLOC_ENABLE=1``, which ``metier build`` sets): the gradients of many experts are large new tensors.
Printed: median [lowest, highest] milliseconds, and the medians as multiples of two of them.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3MoeConfig
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from metier.artifact import write_json
from metier.model.experts import SORTED
from metier.progress import track

WIDTH, CHOICES = 512, 2
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
SLOWEST = {"eager": 16, "batched_mm": 8}
"""Implementations measured up to so many experts: beyond them they take seconds a turn."""


def main() -> None:
    """Measure with small and with huge pages, print a table, and write the numbers to benchmarks/results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.measure:
        print(json.dumps(measured(wanted.repeats)))
        return
    found = []
    for pages in ("small", "huge"):
        command = [sys.executable, __file__, "--measure", "--repeats", str(wanted.repeats)]
        environment = os.environ | {HUGE_PAGES: str(int(pages == "huge"))}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        rows = [{"pages": pages, **row} for row in json.loads(done.stdout)]
        print("\n".join(map(line, rows)), flush=True)
        found += rows
    report = {
        "cores": os.cpu_count(),
        "machine": platform.platform(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "measured": found,
    }
    write_json(Path(__file__).parent / "results" / "moe_layer.json", report)


def measured(repeats: int) -> list[dict[str, Any]]:
    """Return the times of every way to compute every shape, in this process."""
    found = []
    shapes = [(tokens, experts, learning) for tokens in (1024, 4096) for experts in (8, 16, 64) for learning in (0, 1)]
    for tokens, experts, learning in track(shapes, "measuring"):
        layers = contestants(tokens, experts)
        turns = [{name: seconds(layer, bool(learning)) for name, layer in layers.items()} for _ in range(repeats + 1)]
        medians = {name: statistics.median(turn[name] for turn in turns[1:]) for name in layers}
        for name in layers:
            times = [turn[name] for turn in turns[1:]]
            row = {
                "tokens": tokens,
                "experts": experts,
                "what": "forward + backward" if learning else "forward",
                "layer": name,
                "ms": round(1000 * medians[name], 2),
                "lowest_ms": round(1000 * min(times), 2),
                "highest_ms": round(1000 * max(times), 2),
                "times_dense": round(medians[name] / medians["dense"], 2),
                "speed_to_grouped_mm": round(medians["grouped_mm"] / medians[name], 2),
            }
            found.append(row)
    return found


def contestants(tokens: int, experts: int) -> dict[str, Callable[[], tuple[torch.Tensor, list[torch.Tensor]]]]:
    """Return ways to compute a layer: each returns its output and the tensors that gradients are wanted of."""
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        hidden_size=WIDTH, moe_intermediate_size=WIDTH, num_experts=experts, num_experts_per_tok=CHOICES
    )
    module = Qwen3MoeExperts(config)
    dense = Qwen3MLP(Qwen3Config(hidden_size=WIDTH, intermediate_size=CHOICES * WIDTH))
    for weight in (*module.parameters(), *dense.parameters()):
        torch.nn.init.normal_(weight, std=WIDTH**-0.5)
    x_NH = torch.randn(tokens, WIDTH, requires_grad=True)
    scores_NK, chosen_NK = torch.randn(tokens, experts).softmax(-1).topk(CHOICES)
    scores_NK.requires_grad_()

    def mixture(implementation: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
        config._experts_implementation = implementation
        return module(x_NH, chosen_NK, scores_NK), [x_NH, scores_NK, *module.parameters()]

    names = [SORTED, "grouped_mm", *(name for name, most in SLOWEST.items() if experts <= most and tokens <= 1024)]
    layers = {name: lambda name=name: mixture(name) for name in names}
    return {**layers, "dense": lambda: (dense(x_NH), [x_NH, *dense.parameters()])}


def seconds(layer: Callable[[], tuple[torch.Tensor, list[torch.Tensor]]], learning: bool) -> float:
    """Return how long one pass takes."""
    start = time.perf_counter()
    if learning:
        y_NH, wanted = layer()
        torch.autograd.grad(y_NH.sum(), wanted)
    else:
        with torch.no_grad():
            layer()
    return time.perf_counter() - start


def line(row: dict[str, Any]) -> str:
    """Return one line of the table."""
    return (
        f"{row['pages']} pages  {row['tokens']:5} tokens {row['experts']:3} experts  {row['what']:18}  "
        f"{row['layer']:10}  {row['ms']:9} ms [{row['lowest_ms']}, {row['highest_ms']}]  "
        f"{row['times_dense']:6} x dense  {row['speed_to_grouped_mm']:5} x as fast as grouped_mm"
    )


if __name__ == "__main__":
    main()
