"""One file answers in a process of its own, ``python -m metier.steps.answering``, which loads no torch.

When llama.cpp ends the process, a candidate is lost and not the build.
"""

import json
import signal
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from metier.data.records import read_records
from metier.errors import MetierError, RunError
from metier.evaluate.answers import collect
from metier.export.contestants import ShippedFile, tokens_per_s
from metier.export.parity import walk
from metier.run.engine import Engine

SLOTS = 4
"""Requests worked on at the same time."""
_PASSES = 3
_COMMAND = (sys.executable, "-m", "metier.steps.answering")


@dataclass(frozen=True)
class Asked:
    """What a file is asked."""

    model: str
    rows: str
    """A file of rows."""
    first: int
    """How many of the rows are to be answered."""
    answers: str
    """Where the answers are kept."""
    max_tokens: int
    """Longest answer."""
    timed: tuple[str, ...]
    """Prompts that speed is measured on."""
    decided: tuple[tuple[list[int], int], ...]
    """Token ids, and what the checkpoint says comes next."""


@dataclass(frozen=True)
class Told:
    """What came of it."""

    agreed: int = 0
    """At how many of the decided positions the file says what the checkpoint says."""
    tokens_per_s: float | None = None
    failed: str = ""
    """Why the file could not answer."""


def ask_apart(asked: Asked) -> Told:
    """Ask a file in a process of its own.

    Raises:
        RunError: when something else than the file failed, such as the disk.
    """
    done = subprocess.run(_COMMAND, input=json.dumps(asdict(asked)), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode < 0:
        return Told(failed=f"llama.cpp ended the process with {signal.Signals(-done.returncode).name}")
    if done.returncode > 0:
        raise RunError(asked.model, "the process that answers with it failed", "See the message above")
    found = json.loads(done.stdout.splitlines()[-1])  # what a library prints comes before
    if "error" not in found:
        return Told(**found)
    where, what, fix = found["error"]
    if where != asked.model:
        raise RunError(where, what, fix)
    return Told(failed=what)


def answer(asked: Asked) -> Told:
    """Ask a file; its speed is the median of three passes over the prompts."""
    with Engine(Path(asked.model), slots=SLOTS) as engine:
        agreed = walk(engine, asked.decided).agreed
        if not asked.first:
            return Told(agreed)
        shipped = ShippedFile(Path(asked.model).stem, engine, asked.max_tokens)
        collect(shipped, read_records(Path(asked.rows))[: asked.first], Path(asked.answers))
        return Told(agreed, statistics.median(tokens_per_s(engine, asked.timed) for _ in range(_PASSES)))


def main() -> None:
    """Read what is asked from stdin; print what was found, or the error."""
    try:
        found: dict[str, Any] = asdict(answer(Asked(**json.load(sys.stdin))))
    except MetierError as error:
        found = {"error": [error.where, error.found, error.fix]}
    sys.stdout.write(f"\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
