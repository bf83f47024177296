"""The run folder of a build: one build at a time works in it, each step in a folder of its own."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from metier.artifact import Step, run_step
from metier.errors import FREE_SPACE, FULL, MetierError, RunError, told_without_memory
from metier.progress import say

_PACKAGES = ("torch", "transformers", "tokenizers", "gguf", "xllamacpp", "sacrebleu")
"""Those whose versions are recorded with each step."""

_LESS_MEMORY = (
    "Close other programs, or take a smaller base; with CUDA_VISIBLE_DEVICES= before the command all is done on the "
    "processor, in main memory"
)


class Steps:
    """Runs steps in folders below the run folder, telling the user which were already finished."""

    def __init__(self, run: Path) -> None:
        self._run = run

    def __call__(self, name: str, inputs: dict[str, Any], work: Callable[[Path], Any]) -> Step:
        """Do a step unless it is done; arguments as in `metier.artifact.run_step`, its folder by name."""

        def said(finished: bool) -> None:
            say(f"{name}: already finished" if finished else name)

        return run_step(self._run / name, inputs, work, packages=_PACKAGES, aside=True, said=said)


@contextmanager
def building(run: Path) -> Iterator[None]:
    """Hold the run folder while a build is at work in it.

    Raises:
        RunError: when another build is at work there, the disk is full, or memory runs out.
    """
    with _alone(run), _told_when_full(run), told_without_memory(str(run), _LESS_MEMORY):
        yield


@contextmanager
def _told_when_full(run: Path) -> Iterator[None]:
    """Weights and tokenizers are written by libraries that have errors of their own for what a disk says."""
    try:
        yield
    except Exception as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        if isinstance(error, MetierError) or not code or int(code[1]) not in FULL:
            raise
        raise RunError(str(run), f"a file cannot be written ({error})", FREE_SPACE) from error


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Let one build at a time work in a run folder; the lock of a killed one is free."""
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(str(run), "another build or exam is at work in this run folder", "Wait for it to end") from error
    try:
        yield
    finally:
        lock.release()
