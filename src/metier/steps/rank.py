"""One of the processes that share a training step: what torchrun runs, with the step's folder as its argument.

``--of-a-build`` after it says that a build started them, and holds the run folder for them.
It ends without a word when it is told to, and with the launcher; of an error it leaves a note for the launcher.
"""

import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import NoReturn

from metier.errors import MetierError
from metier.steps import threads


def _end_with(launcher: int) -> None:
    """End when the launcher is gone: a process left alone would work on in a folder that others may take up."""
    while os.getppid() == launcher:
        time.sleep(1)
    os._exit(1)


def _end(error: Exception) -> NoReturn:
    """Leave the error where the launcher looks for it, and end at once: the others may be waiting for this process."""
    said = {
        "message": f"{type(error).__name__}: {error}",
        "extraInfo": {"timestamp": str(int(time.time())), "py_callstack": traceback.format_exc()},
    }
    if isinstance(error, MetierError):
        said |= {"metier": [type(error).__name__, error.where, error.found, error.fix]}
    Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps({"message": said}), encoding="utf-8")
    os._exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    threads.set_up()
    try:
        from metier.steps.launch import OF_A_BUILD, take_part  # after the lines above: it takes seconds

        take_part(Path(sys.argv[1]), of_a_build=OF_A_BUILD in sys.argv)
    except Exception as error:  # noqa: BLE001 - the launcher tells it
        _end(error)
