"""A process that answers one question and tells its peak memory: ``python -m metier.steps.answering_peak``.

It is given a GGUF file, the tokens of a context, and the store or nothing; questions come on stdin, as JSON. What is
imported here is measured, too.
"""

import json
import re
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

from metier.errors import InputError
from metier.facts.store import open_store
from metier.run.session import Session, open_session


def main() -> None:
    """Answer the first question that fits into a context; print the peak resident memory of this process, in bytes."""
    path, context_tokens, store = sys.argv[1:]
    with open_session(path, context_tokens=int(context_tokens)) as session:
        _answer_one(Session(session.engine, session.task, open_store(Path(store)) if store else None))
    sys.stdout.write(f"\n{_peak()}\n")


def _answer_one(session: Session) -> None:
    questions: Sequence[str] = json.load(sys.stdin)
    for question in questions:
        try:
            session.answer(question)
            return
        except InputError:  # it does not fit
            continue
    sys.exit("none of the first questions fits into its context")


def _peak() -> int:
    # On Linux ru_maxrss outlives exec, so that it tells the peak of the process that started this one: VmHWM does not.
    status = Path("/proc/self/status")
    peak_kib = re.search(r"VmHWM:\s*([0-9]+) kB", status.read_text()) if status.is_file() else None
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return int(peak_kib[1]) * 1024 if peak_kib else own


if __name__ == "__main__":
    main()
