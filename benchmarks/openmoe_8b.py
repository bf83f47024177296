"""OpenMoE-8B on a small machine: memory and speed of its int8 weights with experts read from disk.

    python benchmarks/openmoe_8b.py [--folder FOLDER] [--cache-mib 512 1536 4096] [--prompt 64] [--tokens 32]

Makes, once, a folder of the real shape (11,855,046,656 parameters, 12 GB) with random weights: what is measured is
memory and speed, not answers. For each size of the expert cache a fresh process loads it, reads a random prompt, and
goes on greedily, one token at a time. Random routers spread tokens evenly over the experts, which is the worst case for
a cache; a trained model's are no more even than that.

Printed for each: peak resident memory, seconds to load, tokens a second of prompt and of answer, share of experts that
were in the cache, bytes read. *cpu* is the processors' time a token, which other work on the machine hardly changes.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import torch

from metier.artifact import write_json
from metier.home import cache_dir
from metier.model.openmoe import OpenMoeConfig, OpenMoeForCausalLM
from metier.model.openmoe.convert import Entry, entries_of
from metier.model.openmoe.small_memory import expert_cache, load_int8
from metier.progress import say, track

AUTHORS = "23 GB in bfloat16, all resident (the authors' figure)"
POOL = 2**26 + 59
"""How many random bytes are drawn; every matrix is some stretch of them, over and over. Odd: rows differ."""
UNIFORM_STD = 73.3
"""Standard deviation of whole numbers that are equally probable from -127 to 127."""


def main() -> None:
    """Measure each cache size in a process of its own, print a table, write it to benchmarks/results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the weights are or shall be; default: below METIER_HOME")
    parser.add_argument("--preset", default="8b", help="another shape, to try this script")
    parser.add_argument("--cache-mib", type=float, nargs="+", default=[512, 1536, 4096])
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of the answer")
    parser.add_argument("--repeats", type=int, default=1, help="processes for each size; the fastest is kept")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16", help="of activations")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    folder = wanted.folder or cache_dir("benchmarks") / f"openmoe-{wanted.preset}-int8"
    if wanted.measure:
        print(json.dumps(measure(folder, wanted.cache_mib[0], wanted.dtype, wanted.prompt, wanted.tokens)))
        return
    if not (folder / "config.json").is_file():
        make(folder, OpenMoeConfig.preset(wanted.preset))
    print(f"beside: {AUTHORS}")
    found = []
    for cache_mib in wanted.cache_mib:
        command = [sys.executable, __file__, "--measure", "--folder", str(folder), "--cache-mib", str(cache_mib)]
        command += ["--prompt", str(wanted.prompt), "--tokens", str(wanted.tokens), "--dtype", wanted.dtype]
        turns = []
        for _ in range(wanted.repeats):
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            turns.append(json.loads(done.stdout))
        found.append(max(turns, key=lambda turn: turn["answer_tokens_per_s"]))
        print(line(found[-1]), flush=True)
    report = {
        "authors": AUTHORS,
        "activations": wanted.dtype,
        "preset": wanted.preset,
        "prompt_tokens": wanted.prompt,
        "answer_tokens": wanted.tokens,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "machine": platform.platform(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "measured": found,
    }
    write_json(Path(__file__).parent / "results" / "openmoe_8b.json", report)


def measure(folder: Path, cache_mib: float, dtype: str, prompt: int, tokens: int) -> dict[str, Any]:
    """Load, read a prompt, answer; return times, memory and the cache's counts. Needs Linux's /proc."""
    torch.manual_seed(1)
    start, cpu = time.perf_counter(), time.process_time()
    model = load_int8(folder, expert_cache_mib=cache_mib, dtype=getattr(torch, dtype))
    loaded_s, loaded_cpu_s = time.perf_counter() - start, time.process_time() - cpu
    cache = expert_cache(model)
    assert cache is not None
    resident = status("VmRSS")
    ids = torch.randint(2, model.config.vocab_size, (1, prompt))
    keys, times, cpus, hits = None, [], [], []
    with torch.no_grad():
        for _ in range(1 + tokens):
            start, cpu, hit, miss = time.perf_counter(), time.process_time(), cache.hits, cache.misses
            out = model(ids, cache=keys, use_cache=True, logits_to_keep=1)
            keys, ids = out.cache, out.logits[:, -1:].argmax(-1)
            times.append(time.perf_counter() - start)
            cpus.append(time.process_time() - cpu)
            hits.append((cache.hits - hit) / (cache.hits - hit + cache.misses - miss))
    return {
        "expert_cache_mib": cache_mib,
        "experts_in_cache": cache.places,
        "peak_resident_mib": status("VmHWM"),
        "resident_after_loading_mib": resident,
        "resident_own_mib": status("RssAnon"),
        "resident_of_files_mib": status("RssFile"),
        "load_s": round(loaded_s, 2),
        "load_cpu_s": round(loaded_cpu_s, 2),
        "prompt_tokens_per_s": round(prompt / times[0], 3),
        "prompt_cpu_s_per_token": round(cpus[0] / prompt, 4),
        "answer_tokens_per_s": round(tokens / sum(times[1:]), 3),
        "answer_cpu_s_per_token": round(sum(cpus[1:]) / tokens, 4),
        "answer_hit_rate": round(sum(hits[1:]) / tokens, 3),
        "expert_gib_read": round(cache.read_bytes / 2**30, 2),
        "gib_read_from_disk": round(io("read_bytes") / 2**30, 2),
        "evictions": cache.evictions,
        "threads": torch.get_num_threads(),
    }


def status(key: str) -> float:
    """Return a line of this process's memory record, in MiB."""
    found = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(f"{key}:"))
    return round(int(found.split()[1]) / 1024, 1)


def io(key: str) -> int:
    """Return a count of bytes of this process: ``read_bytes`` came from the disk, not from the page cache."""
    found = next(row for row in Path("/proc/self/io").read_text().splitlines() if row.startswith(f"{key}:"))
    return int(found.split()[1])


def line(turn: dict[str, Any]) -> str:
    """Return one line of the table."""
    return (
        f"cache {turn['expert_cache_mib']:5g} MiB ({turn['experts_in_cache']:3} experts)  "
        f"peak {turn['peak_resident_mib'] / 1024:5.2f} GiB  load {turn['load_s']:6.1f} s  "
        f"prompt {turn['prompt_tokens_per_s']:7.2f} tokens/s  answer {turn['answer_tokens_per_s']:6.2f} tokens/s "
        f"(cpu {turn['answer_cpu_s_per_token']:.2f} s)  hits {turn['answer_hit_rate']:4.0%}  "
        f"read {turn['expert_gib_read']:.1f} GiB, {turn['gib_read_from_disk']:.1f} from disk"
    )


def make(folder: Path, config: OpenMoeConfig) -> None:
    """Write an int8 folder of random weights, a stretch at a time, config.json last."""
    with torch.device("meta"):
        shapes = {name: tuple(weight.shape) for name, weight in OpenMoeForCausalLM(config).state_dict().items()}
    entries = [entry for name, shape in shapes.items() for entry in entries_of(name, shape, "I8")]
    entries.sort(key=lambda entry: entry.kind == "I8")  # wide numbers first, so that all are aligned
    header, end = {}, 0
    for entry in entries:
        header[entry.name] = {
            "dtype": entry.kind,
            "shape": entry.shape,
            "data_offsets": [end, end := end + entry.size],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    folder.mkdir(parents=True, exist_ok=True)
    say(f"writing {end / 1e9:.1f} GB of random weights to {folder}")
    torch.manual_seed(0)
    pool = torch.randint(-127, 128, (POOL,), dtype=torch.int8)
    inputs = {entry.name.removesuffix(".int8"): entry.shape[-1] for entry in entries if entry.kind == "I8"}
    part = folder / "model.part"
    with part.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in track(entries, "writing weights"):
            if entry.kind == "I8":
                write_stretch(file, pool, entry)
            else:
                file.write(floats(entry, inputs, config).numpy().tobytes())
    part.replace(folder / "model.safetensors")
    config.architectures = ["OpenMoeForCausalLM"]
    config.save_pretrained(folder)


def write_stretch(file: BinaryIO, pool: torch.Tensor, entry: Entry) -> None:
    """Write a matrix's numbers: the pool from some place on, round and round."""
    data, left = pool.numpy().view("uint8").data, entry.size
    place = int(torch.randint(0, POOL, ()))
    while left:
        stretch = data[place : place + left]
        file.write(stretch)
        left, place = left - len(stretch), 0


def floats(entry: Entry, inputs: dict[str, int], config: OpenMoeConfig) -> torch.Tensor:
    """Return scales that give matrices the variance they begin training with, random routers, norms of 1."""
    if entry.name.endswith(".scale"):
        stem = entry.name.removesuffix(".scale")
        std = 1.0 if "embed_tokens" in stem else math.sqrt(0.1 / inputs[stem])
        std /= math.sqrt(config.head_dim) if stem.endswith("q_proj") else 1
        return torch.full(entry.shape, std / UNIFORM_STD)
    if entry.name.endswith("gate_weight"):
        return torch.randn(entry.shape) * config.initializer_range
    return torch.ones(entry.shape)


if __name__ == "__main__":
    main()
