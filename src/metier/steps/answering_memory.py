"""The memory that answering takes, measured in a process of its own: this one has built and trained."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from metier.errors import RunError

# On Linux ru_maxrss outlives exec, so that it tells the peak of the process that started this one: VmHWM does not.
_ANSWER_AND_TELL_PEAK = r"""
import json, re, resource, sys
from pathlib import Path
from metier.errors import InputError
from metier.facts.store import open_store
from metier.run.session import Session, open_session
_, path, context_tokens, store = sys.argv
with open_session(path, context_tokens=int(context_tokens)) as session:
    session = Session(session.engine, session.task, open_store(Path(store)) if store else None)
    for question in json.load(sys.stdin):
        try:
            session.answer(question)
            break
        except InputError:  # it does not fit
            continue
    else:
        sys.exit("none of the first questions fits into its context")
status = Path("/proc/self/status")
peak_kib = re.search(r"VmHWM:\s*([0-9]+) kB", status.read_text()) if status.is_file() else None
own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(int(peak_kib[1]) * 1024 if peak_kib else own)
"""


def memory_mib(path: Path, questions: Sequence[str], store: Path | None = None, context_tokens: int = 1024) -> float:
    """Return the peak resident memory, in MiB, of a fresh process that answers one question with a file.

    Args:
        path: the GGUF file.
        questions: what it is asked: the first one that fits into the context.
        store: of a job about facts, what the answer is looked up in.
        context_tokens: of each of the contexts that ``metier run`` opens.
    """
    command = [sys.executable, "-c", _ANSWER_AND_TELL_PEAK, str(path), str(context_tokens), str(store or "")]
    done = subprocess.run(command, input=json.dumps(questions), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise RunError(
            str(path), f"a fresh process cannot answer with it ({last})", "Free memory, or build the file again"
        )
    return round(int(done.stdout.split()[-1]) / 2**20, 1)
