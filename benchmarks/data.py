"""How the data step grows: pairs a second and peak memory from 100,000 to two million made-up pairs.

    python benchmarks/data.py [--rows 100000 1000000]

Each size is prepared in a fresh process, from a file with a known share of exact duplicates, near duplicates and rows
that come near another's input. Printed: seconds by the clock and of the core, pairs a second, peak resident memory in
MiB, rows kept and removed. Other work on the machine lengthens the first and hardly the second.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

SEED = 17
EXACT, NEAR, LEAKING = 0.04, 0.06, 0.01
"""Shares of the rows that repeat an earlier row, that add a word to one, and that come near its input alone."""

KINDS = 40_000
"""Words of the vocabulary: the n-th most frequent is drawn in proportion to 1 / (n + 2)."""

_PREPARE = """
import json, re, sys, time
from pathlib import Path
from metier.data.prepare import prepare
from metier.spec.data import Data, Source
started, used = time.monotonic(), time.process_time()
source = Source(source="file:" + sys.argv[1], licence="own", format="tsv")
facts = prepare(Data(train=[source]), Path(sys.argv[2]))
facts["seconds"] = round(time.monotonic() - started, 1)
facts["cpu_seconds"] = round(time.process_time() - used, 1)
facts["peak_mib"] = round(int(re.search(r"VmHWM:\\s*([0-9]+) kB", Path("/proc/self/status").read_text())[1]) / 1024)
print(json.dumps(facts))
"""


def main() -> None:
    """Measure, print, and write the numbers to benchmarks/results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 300_000, 1_000_000, 2_000_000])
    found = []
    for rows in parser.parse_args().rows:
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "pairs.tsv"
            with file.open("w", encoding="utf-8") as out:
                out.writelines(f"{one}\t{two}\n" for one, two in pairs(rows))
            facts = measured(file, Path(scratch) / "data")
        cpu = facts["cpu_seconds"]
        print(
            f"{rows:9,} pairs: {facts['seconds']:6.1f} s ({cpu:.1f} of a core), {rows / cpu:7,.0f} pairs/s of a core,"
        )
        print(
            f"          {facts['peak_mib']:,} MiB; {facts['rows']['train']:,} to train on, removed {facts['removed']}"
        )
        found.append({"pairs": rows, "pairs_per_cpu_s": round(rows / cpu), **facts})
    machine = {"cores": os.cpu_count(), "machine": platform.platform(), "date": time.strftime("%Y-%m-%d")}
    path = Path(__file__).parent / "results" / "data.json"
    path.write_text(json.dumps({**machine, "runs": found}, indent=1) + "\n", encoding="utf-8")


def measured(file: Path, folder: Path) -> dict[str, Any]:
    """Return what `prepare` says of the file, with seconds and peak MiB, from a process of its own on one core."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _PREPARE, str(file), str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def pairs(rows: int, seed: int = SEED) -> Iterator[tuple[str, str]]:
    """Yield made-up pairs: an input in a script without spaces, an output of words, of 4 to 16 words each."""
    draw = random.Random(seed)
    inputs, outputs = _words(draw, _SIGNS, 4), _words(draw, _SYLLABLES, 4)
    weights = list(accumulate(1 / (rank + 2) for rank in range(KINDS)))
    recent: list[tuple[list[str], list[str]]] = []
    for _ in range(rows):
        length = draw.randint(4, 16)
        one = draw.choices(inputs, cum_weights=weights, k=length)
        two = draw.choices(outputs, cum_weights=weights, k=length)
        kind = draw.random()
        if recent and kind < EXACT + NEAR + LEAKING:
            earlier = draw.choice(recent)
            if kind < EXACT:
                one, two = earlier
            elif kind < EXACT + NEAR:
                one, two = [*earlier[0], one[0]], [*earlier[1], two[0]]
            else:
                one = [*earlier[0], one[0]]
        recent.append((one, two))
        if len(recent) > 2000:
            recent[draw.randrange(2000)] = recent.pop()
        yield "".join(one) + "。", " ".join(two).capitalize() + "."


_SIGNS = [chr(code) for code in (*range(0x3042, 0x3093), *range(0x4E00, 0x4E00 + 2000))]
_ONSETS = ("", *"bcdfghjklmnprstvwyz", "bl", "ch", "cr", "dr", "fl", "gr", "pl", "qu", "sh", "st", "th", "tr")
_SYLLABLES = [
    onset + vowel + end
    for onset in _ONSETS
    for vowel in ("a", "e", "i", "o", "u", "ai", "ea", "oo", "ou")
    for end in ("", "", "", "l", "n", "r", "s", "t", "nd", "ck", "rm", "ss")
]


def _words(draw: random.Random, parts: list[str], most: int) -> list[str]:
    """Return words of one to so many parts, the frequent ones short."""
    return ["".join(draw.choices(parts, k=draw.randint(1, 1 + (most - 1) * n // KINDS))) for n in range(KINDS)]


if __name__ == "__main__":
    main()
