"""The memory that answering takes, measured in a process of its own: this one has built and trained."""

import subprocess
import sys
from pathlib import Path

from metier.errors import RunError

# On Linux ru_maxrss outlives exec, so that it tells the peak of the process that started this one: VmHWM does not.
_ANSWER_AND_TELL_PEAK = r"""
import re, resource, sys
from pathlib import Path
from metier.facts.store import open_store
from metier.run.session import Session, open_session
with open_session(sys.argv[1], context_tokens=int(sys.argv[3])) as session:
    store = open_store(Path(sys.argv[4])) if len(sys.argv) > 4 else None
    Session(session.engine, session.task, store).answer(sys.argv[2])
status = Path("/proc/self/status")
peak_kib = re.search(r"VmHWM:\s*([0-9]+) kB", status.read_text()) if status.is_file() else None
own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(int(peak_kib[1]) * 1024 if peak_kib else own)
"""


def memory_mib(path: Path, question: str, store: Path | None = None, context_tokens: int = 1024) -> float:
    """Return the peak resident memory, in MiB, of a fresh process that answers one question with a file.

    Args:
        path: the GGUF file.
        question: what it is asked.
        store: of a job about facts, what the answer is looked up in.
        context_tokens: of each of the contexts that ``metier run`` opens.
    """
    arguments = [str(path), question, str(context_tokens), *([str(store)] if store else [])]
    done = subprocess.run(
        [sys.executable, "-c", _ANSWER_AND_TELL_PEAK, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise RunError(
            str(path), f"a fresh process cannot answer with it ({last})", "Free memory, or build the file again"
        )
    return round(int(done.stdout.split()[-1]) / 2**20, 1)
