"""One file answers in a process of its own, ``python -m metier.steps.answering``, which loads no torch.

When llama.cpp ends the process, a candidate is lost and not the build.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter

from metier.data.records import read_records
from metier.errors import MetierError, RunError
from metier.evaluate.answers import collect
from metier.export.contestants import ShippedFile, tokens_per_s
from metier.export.parity import Cut, Decided, Walk, walk
from metier.run.engine import Engine

SLOTS = 4
"""Requests worked on at the same time."""
TIMED_ROWS = 8
"""Rows whose prompts speed is measured on."""
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
    context_tokens: int
    """Longest question and answer together."""
    timed: tuple[str, ...]
    """Prompts that speed is measured on."""
    decided: tuple[Decided, ...]
    """What the checkpoint says comes next, if the file is to walk beside it."""
    cuts: tuple[Cut, ...] = ()
    """Then also how the checkpoint's tokenizer cuts prompts."""


@dataclass(frozen=True)
class Told:
    """What came of it."""

    walked: Walk
    tokens_per_s: float | None = None
    failed: str = ""
    """Why the file could not answer."""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read what came as JSON."""
        return TypeAdapter(cls).validate_python(value)


def ask_apart(asked: Asked) -> Told:
    """Ask a file in a process of its own.

    Raises:
        RunError: when something else than the file failed, such as the disk.
    """
    process = subprocess.Popen(_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin
    assert process.stdout
    printed = ""
    with suppress(BrokenPipeError), process:  # broken where it ended before it read
        process.stdin.write(f"{json.dumps(asdict(asked))}\n")
        process.stdin.flush()  # and not closed: see _end_with_the_other
        printed = process.stdout.read()
    nowhere = Walk(len(asked.decided), 0, 0.0)
    if process.returncode < 0:
        return Told(nowhere, failed=f"llama.cpp ended the process with {signal.Signals(-process.returncode).name}")
    if process.returncode > 0:
        raise RunError(asked.model, "the process that answers with it failed", "See the message above")
    found = json.loads(printed.splitlines()[-1])  # what a library prints comes before
    if "error" not in found:
        return Told.from_json(found)
    where, what, fix = found["error"]
    if where != asked.model:
        raise RunError(where, what, fix)
    return Told(nowhere, failed=what)


def answer(asked: Asked) -> Told:
    """Ask a file; its speed is the median of three passes over the prompts."""
    with Engine(Path(asked.model), slots=SLOTS, context_tokens=asked.context_tokens) as engine:
        walked = walk(engine, asked.decided, asked.cuts)
        if not asked.first:
            return Told(walked)
        shipped = ShippedFile(Path(asked.model).stem, engine, asked.max_tokens)
        collect(shipped, read_records(Path(asked.rows))[: asked.first], Path(asked.answers))
        return Told(walked, statistics.median(tokens_per_s(engine, asked.timed) for _ in range(_PASSES)))


def main() -> None:
    """Read a line of what is asked from stdin; print what was found, or the error."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is told by the process that asked
    asked = TypeAdapter(Asked).validate_json(sys.stdin.readline())
    threading.Thread(target=_end_with_the_other, daemon=True).start()
    try:
        found: dict[str, Any] = asdict(answer(asked))
    except MetierError as error:
        found = {"error": [error.where, error.found, error.fix]}
    sys.stdout.write(f"\n{json.dumps(found)}\n")


def _end_with_the_other() -> None:
    """End as soon as the process that asked is gone: the next build asks again, and keeps answers in the same file."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    main()
