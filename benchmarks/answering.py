"""Speed of a job's files beside its base: same llama.cpp, same rows, turn by turn.

    python benchmarks/answering.py jobs/ja-en [--rows 24] [--repeats 5]

Two measurements, each with one request at a time and with four. *Generating*: every file continues the job's own
prompt of the same test rows by 32 tokens, whatever it says; tokens a second of wall clock. *Answering*: every file
does the job on the same rows as in the exam, the shipped ones through their templates, the base with its examples in
front and a stop at the end of the line; answers a second. A turn of one is followed by a turn of the next, so that a
busy machine slows all. Printed: median [lowest, highest] over the repeats, and the median as a multiple of the base's.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

from metier.artifact import load_step
from metier.data.records import read_records
from metier.export.contestants import PromptedFile, ShippedFile, tokens_per_s
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
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    wanted = parser.parse_args()
    job = load_job(wanted.job)
    run = run_dir(job.name)
    formats = load_step(run / "prompt").result
    prompt, base_prompt = (PromptFormat.from_json(formats[name]) for name in ("prompt", "base_prompt"))
    questions = [row.input for row in read_records(run / "data" / "test.jsonl")[: wanted.rows]]
    prompts = [prompt.render(question) for question in questions]
    base = find_base(job.base.model).gguf
    assert base, "the base is no GGUF file, so llama.cpp cannot run it as it was released"
    files = {"base": base} | {q: gguf_path(run / "files", job, q) for q in job.export.quantisations}
    found = []
    for slots in (1, 4):
        engines = {name: Engine(path, slots=slots) for name, path in files.items()}
        limit = job.evaluate.max_answer_tokens
        contestants = {
            name: PromptedFile(name, engine, base_prompt, limit) if name == "base" else ShippedFile(name, engine, limit)
            for name, engine in engines.items()
        }
        measures: dict[str, Callable[[str], float]] = {
            "generating, tokens/s": partial(_generating, engines, prompts),
            "answering, answers/s": partial(_answering, contestants, questions),
        }
        for what, measure in measures.items():
            turns = track(range(wanted.repeats + 1), f"{what}, {slots} at a time")
            # the first turn warms up and does not count
            speeds = [{name: measure(name) for name in files} for _ in turns][1:]
            for name in files:
                found.append(row(what, slots, name, [turn[name] for turn in speeds], [t["base"] for t in speeds]))
                print(line(found[-1]))
        for engine in engines.values():
            engine.close()
    report = {
        "job": job.name,
        "rows": len(questions),
        "file_mib": {name: round(path.stat().st_size / 2**20, 1) for name, path in files.items()},
        "cores": os.cpu_count(),
        "machine": platform.platform(),
        "xllamacpp": metadata.version("xllamacpp"),
        "date": time.strftime("%Y-%m-%d"),
        "measured": found,
    }
    path = Path(__file__).parent / "results" / f"answering-{job.name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _generating(engines: dict[str, Engine], prompts: list[str], name: str) -> float:
    return tokens_per_s(engines[name], prompts)


def _answering(contestants: dict[str, PromptedFile | ShippedFile], questions: list[str], name: str) -> float:
    """Return how many questions a second a contestant answers."""
    start = time.monotonic()
    contestants[name].answer(questions)
    return len(questions) / (time.monotonic() - start)


def row(what: str, slots: int, name: str, speeds: list[float], base: list[float]) -> dict[str, object]:
    """Return one line of the report."""
    median = statistics.median(speeds)
    return {
        "what": what,
        "at_a_time": slots,
        "file": name,
        "median": round(median, 2),
        "lowest": round(min(speeds), 2),
        "highest": round(max(speeds), 2),
        "times_base": round(median / statistics.median(base), 2),
    }


def line(one: dict[str, object]) -> str:
    """Return one line of the table."""
    return (
        f"{one['what']}, {one['at_a_time']} at a time  {one['file']:5}  {one['median']:7} "
        f"[{one['lowest']}, {one['highest']}]  {one['times_base']} x base"
    )


if __name__ == "__main__":
    main()
