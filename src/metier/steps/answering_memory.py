"""The memory that answering takes, measured in a process of its own: this one has built and trained."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from metier.errors import RunError

_COMMAND = (sys.executable, "-m", "metier.steps.answering_peak")


def memory_mib(path: Path, questions: Sequence[str], store: Path | None = None, context_tokens: int = 1024) -> float:
    """Return the peak resident memory, in MiB, of a fresh process that answers one question with a file.

    Args:
        path: the GGUF file.
        questions: what it is asked: the first one that fits into the context.
        store: of a job about facts, what the answer is looked up in.
        context_tokens: of each of the contexts that ``metier run`` opens.
    """
    command = [*_COMMAND, str(path), str(context_tokens), str(store or "")]
    done = subprocess.run(command, input=json.dumps(questions), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise RunError(
            str(path), f"a fresh process cannot answer with it ({last})", "Free memory, or build the file again"
        )
    return round(int(done.stdout.split()[-1]) / 2**20, 1)
