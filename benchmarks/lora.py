"""The rate that adapters want beside the rate that all weights want, on a model small enough for a grid.

    python benchmarks/lora.py [--steps 60] [--seeds 2]

A model of a million parameters first learns jobs/tiny (dates in words become ISO dates, 300 steps). Then the same
model learns another job from the same rows, to write the date as 3/5/1921, in ``steps`` steps: all weights, adapters
of rank 16, or adapters and what may learn beside them, each at rates a factor of 3 apart. Printed: the lowest
validation loss in nats a token at each rate, mean over the seeds (which order the batches and draw the adapters), and
the best rate of each.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from metier.steps import threads

threads.set_up()  # as a build does, before torch loads

import torch
from transformers import PreTrainedModel

from metier.data.records import Record
from metier.export.huggingface import write_folder
from metier.model.loading import load
from metier.model.scratch import scratch
from metier.progress import track
from metier.spec.training import Lora, Train
from metier.tasks.registry import task_from_json
from metier.tokenizer.learn import learn
from metier.train.batches import Example, encode
from metier.train.loop import train

PAIRS = Path(__file__).parent.parent / "jobs" / "tiny" / "pairs.tsv"
LEARNERS = {
    "all weights": None,
    "adapters": Lora(),
    "adapters, embedding and norms": Lora(also=["embedding", "norms"]),
}
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)


def main() -> None:
    """Measure, print a table, and write the numbers to benchmarks/results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=2)
    wanted = parser.parse_args()
    rows = [Record(*line.split("\t")) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    new_rows = [Record(row.input, "{2:d}/{1:d}/{0:d}".format(*map(int, row.output.split("-")))) for row in rows]
    prompt = task_from_json({"task": "text2text", "input": "Date", "output": "Written"}).prompts()[0]
    texts = [prompt.render(""), *(text for row in rows + new_rows for text in (row.input, row.output))]
    tokenizer = learn(texts, 500).tokenizer()
    old, new = (encode(tokenizer, prompt, these, 64) for these in (rows, new_rows))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        base, _ = fit(lambda: scratch(len(tokenizer), 128, 4, 256, 0), old, Train(budget="300 steps"), 5e-3, 0)
        write_folder(Path(folder), base, tokenizer)
        for name, rate in track([(name, rate) for name in LEARNERS for rate in RATES], "training"):
            settings = Train(budget=f"{wanted.steps} steps", lora=LEARNERS[name])
            results = [fit(lambda: load(folder).model, new, settings, rate, seed)[1] for seed in range(wanted.seeds)]
            losses = [min(result["validation_loss_nats"].values()) for result in results]
            row = {
                "learns": name,
                "rate": rate,
                "loss_nats": round(statistics.mean(losses), 4),
                "of_each_seed": losses,
                "trained_parameters": results[0]["trained_parameters"],
            }
            found.append(row)
            print(f"{name:30} {row['trained_parameters']:9,} learn  {rate:6g}  {row['loss_nats']:.4f} nats", flush=True)
    for name in LEARNERS:
        best = min((row for row in found if row["learns"] == name), key=lambda row: row["loss_nats"])
        print(f"{name}: best at {best['rate']:g}")
    report = {
        "steps": wanted.steps,
        "seeds": wanted.seeds,
        "cores": os.cpu_count(),
        "machine": platform.platform(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "measured": found,
    }
    path = Path(__file__).parent / "results" / "lora.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def fit(
    make_model: Callable[[], PreTrainedModel], examples: Sequence[Example], settings: Train, rate: float, seed: int
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Train on all examples but the last 200, which the loss is watched on."""
    with tempfile.TemporaryDirectory() as folder:
        return train(make_model, examples[:-200], examples[-200:], settings, rate, Path(folder), pad=0, seed=seed)


if __name__ == "__main__":
    main()
