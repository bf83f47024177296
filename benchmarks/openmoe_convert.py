"""Memory and time of `metier convert` on a checkpoint of OpenMoE-8B's real shape, stacked experts, one file.

    python benchmarks/openmoe_convert.py [--preset 8b] [--stored F32] [--dtype int8]

The source is a sparse file of zeros: it takes no room on the disk and reads like any other. The target does take room
(12 GB as int8) and is deleted afterwards. Printed: peak resident memory of the process, seconds and processor seconds.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from metier.artifact import write_json
from metier.home import cache_dir
from metier.model.openmoe import OpenMoeConfig, OpenMoeForCausalLM

WIDTH = {"F32": 4, "BF16": 2}


def main() -> None:
    """Make the source, convert it in a process of its own, print and write what that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="8b", help="another shape, to try this script")
    parser.add_argument("--stored", choices=sorted(WIDTH), default="F32", help="how the source stores its numbers")
    parser.add_argument("--dtype", default="int8", help="what it becomes")
    wanted = parser.parse_args()
    source = cache_dir("benchmarks") / f"openmoe-{wanted.preset}-{wanted.stored}"
    target = source.with_name(f"{source.name}-{wanted.dtype}")
    size = make(source, OpenMoeConfig.preset(wanted.preset), wanted.stored)
    start = time.perf_counter()
    command = [sys.executable, "-m", "metier", "convert", str(source), str(target), "--dtype", wanted.dtype]
    try:
        process = subprocess.Popen(command)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            raise SystemExit(f"metier convert ended with {os.waitstatus_to_exitcode(status)}")
        written = sum(file.stat().st_size for file in target.iterdir())
    finally:
        shutil.rmtree(source)
        shutil.rmtree(target, ignore_errors=True)
    found = {
        "preset": wanted.preset,
        "source": wanted.stored,
        "source_gib": round(size / 2**30, 2),
        "target": wanted.dtype,
        "target_gib": round(written / 2**30, 2),
        "peak_resident_mib": round(used.ru_maxrss / 1024),
        "seconds": round(seconds),
        "cpu_seconds": round(used.ru_utime + used.ru_stime),
        "cores": os.cpu_count(),
        "machine": platform.platform(),
        "date": time.strftime("%Y-%m-%d"),
    }
    write_json(Path(__file__).parent / "results" / "openmoe_convert.json", found)
    print(json.dumps(found, indent=1))


def make(folder: Path, config: OpenMoeConfig, kind: str) -> int:
    """Write a checkpoint of zeros that takes no room; return how large it looks, in bytes."""
    with torch.device("meta"):
        shapes = {name: list(weight.shape) for name, weight in OpenMoeForCausalLM(config).state_dict().items()}
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + WIDTH[kind] * torch.Size(shape).numel()
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    config.architectures = ["OpenMoeForCausalLM"]
    config.save_pretrained(folder)
    return end


if __name__ == "__main__":
    main()
