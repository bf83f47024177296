"""How long a user waits: ``metier --help``, and the first answer of ``metier run`` in a fresh process.

    python benchmarks/startup.py ja-en "猫が好きです。" [--repeats 7]

Printed: seconds of wall clock, median [lowest, highest]; every run is a new process, the file in the disk cache.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    """Measure, print, and write the numbers to benchmarks/results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--repeats", type=int, default=7)
    wanted = parser.parse_args()
    metier = [sys.executable, "-m", "metier"]
    commands = {"--help": [*metier, "--help"], "first answer": [*metier, "run", wanted.model, wanted.text]}
    found = {}
    for name, command in commands.items():
        times = sorted(seconds(command) for _ in range(wanted.repeats))
        found[name] = [round(value, 3) for value in times]
        print(f"{name:13} {statistics.median(times):.2f} s [{times[0]:.2f}, {times[-1]:.2f}]")
    report = {"cores": os.cpu_count(), "machine": platform.platform(), "date": time.strftime("%Y-%m-%d")}
    path = Path(__file__).parent / "results" / "startup.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**report, "seconds": found}, indent=1) + "\n", encoding="utf-8")


def seconds(command: list[str]) -> float:
    """Return the wall-clock time of a command that must succeed."""
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - start


if __name__ == "__main__":
    main()
