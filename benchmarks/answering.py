"""Generation speed of a job's shipped file beside its base: same llama.cpp, same prompts, turn by turn.

    python benchmarks/answering.py jobs/ja-en [--rows 40] [--repeats 5] [--slots 4]

Both files continue the job's own prompts of the same test rows, greedily, up to 32 tokens. A turn of one is followed
by a turn of the other, so that a busy machine slows both. Printed: tokens generated a second of wall clock, prompt
processing included, as median [lowest, highest] over the repeats, and how many times the base's speed that is.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import xllamacpp

from metier.artifact import load_step
from metier.data.records import read_records
from metier.export.contestants import tokens_per_s
from metier.home import run_dir
from metier.model.bases import find_base
from metier.progress import track
from metier.run.engine import Engine
from metier.spec.load import load_job
from metier.steps.ship import gguf_path
from metier.tasks.prompt import PromptFormat


def main() -> None:
    """Measure, print a table, and write the numbers to benchmarks/results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--slots", type=int, default=4)
    wanted = parser.parse_args()
    job = load_job(wanted.job)
    run = run_dir(job.name)
    prompt = PromptFormat.from_json(load_step(run / "prompt").result["prompt"])
    prompts = [prompt.render(row.input) for row in read_records(run / "data" / "test.jsonl")[: wanted.rows]]
    base = find_base(job.base.model, job.base.licence).gguf
    assert base, "the base is no GGUF file, so llama.cpp cannot run it as it was released"
    files = {q: gguf_path(run / "files", job, q) for q in job.export.quantisations} | {"base": base}
    engines = {name: Engine(path, slots=wanted.slots) for name, path in files.items()}
    speeds: dict[str, list[float]] = {name: [] for name in files}
    for engine in engines.values():
        tokens_per_s(engine, prompts[:1])
    for _ in track(range(wanted.repeats), "turns"):
        for name, engine in engines.items():
            speeds[name].append(tokens_per_s(engine, prompts))
    base_speed = statistics.median(speeds["base"])
    found = {
        name: {
            "file_mib": round(path.stat().st_size / 2**20, 1),
            "tokens_per_s": [round(value, 1) for value in sorted(speeds[name])],
            "median": round(statistics.median(speeds[name]), 1),
            "times_base": round(statistics.median(speeds[name]) / base_speed, 2),
        }
        for name, path in files.items()
    }
    for name, numbers in found.items():
        low, *_, high = numbers["tokens_per_s"]
        print(
            f"{name:8} {numbers['file_mib']:7.1f} MiB  {numbers['median']:7.1f} tokens/s [{low}, {high}]  "
            f"{numbers['times_base']:.2f} x base"
        )
    report = {
        "job": job.name,
        "rows": len(prompts),
        "slots": wanted.slots,
        "cores": os.cpu_count(),
        "machine": platform.platform(),
        "xllamacpp": xllamacpp._version.version,
        "date": time.strftime("%Y-%m-%d"),
        "files": found,
    }
    path = Path(__file__).parent / "results" / f"answering-{job.name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
