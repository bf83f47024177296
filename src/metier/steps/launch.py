"""The steps that train, by several processes: of this machine, or of those that torchrun is started on.

`by_processes` writes what is to be done into the step's folder, starts the processes and waits for them. Each runs
`metier.steps.rank`, which torchrun can start as well, on every machine that shares the folder.
"""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, cast

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from metier import errors
from metier.artifact import load_step, read_json, write_json
from metier.errors import MetierError, RunError
from metier.model.loading import free_memory
from metier.progress import console
from metier.spec.job import Job
from metier.spec.machine import cores
from metier.steps.compress import compress_job
from metier.steps.pretrain import pretrain_job
from metier.steps.run_folder import building
from metier.steps.train import learn_job
from metier.steps.training_folder import is_done
from metier.tasks.prompt import PromptFormat
from metier.train import processes

OF_A_BUILD = "--of-a-build"

Step = Literal["pretrain", "train", "compress"]
"""A step that several processes may share."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LOOPBACK = {"linux": "lo", "darwin": "lo0"}


def by_processes(
    count: int, step: Step, job: Job, data: Path, start: Path, folder: Path, prompt: PromptFormat | None = None
) -> dict[str, Any]:
    """Do a step and return its facts.

    Args:
        count: how many processes train together; one does it here.
        step: what is done.
        job: the job.
        data: folder of the finished step ``data``.
        start: folder of the model that training starts from; for ``compress``, of the one that is cut.
        folder: the step's own folder.
        prompt: for all but ``pretrain``: how the job is put to the model.

    Raises:
        MetierError: what one of the processes raised.
        RunError: when one of them was killed, or met an error of another kind.
    """
    request = folder / "request.json"
    trained = [folder / cut.name for cut in job.compress.cuts] if step == "compress" else [folder]
    if count > 1 and not all(is_done(place) for place in trained):
        what = {
            "step": step,
            "job": job.model_dump(mode="json", exclude_unset=True),
            "data": str(data),
            "start": str(start),
            "prompt": prompt.to_json() if prompt else None,
        }
        write_json(request, what)
        _launch(count, folder)
    facts = _work(step, job, data, start, folder, prompt)  # after several processes: what they left
    request.unlink(missing_ok=True)
    return facts


def take_part(folder: Path, *, of_a_build: bool) -> None:
    """Be one of the processes: do what the folder's ``request.json`` says.

    Args:
        folder: the step's.
        of_a_build: whether a build started them, and holds the run folder; else the first process does.

    Raises:
        RunError: when somebody else is at work in the run folder.
    """
    fix = "Start 'metier build JOB --nproc 2' and stop it when the training has begun; then start the processes"
    request = read_json(folder / "request.json", fix)
    with processes.joined(), ExitStack() as held:
        console.quiet = not processes.is_main()
        if processes.is_main() and not of_a_build:
            held.enter_context(building(folder.parent))
        _work(
            request["step"],
            Job.model_validate(request["job"]),
            Path(request["data"]),
            Path(request["start"]),
            folder,
            PromptFormat.from_json(request["prompt"]) if request["prompt"] else None,
        )


def _work(step: Step, job: Job, data: Path, start: Path, folder: Path, prompt: PromptFormat | None) -> dict[str, Any]:
    if step == "pretrain":
        return pretrain_job(job, load_step(data), start, folder)
    assert prompt
    work = learn_job if step == "train" else compress_job
    return work(job, data, start, prompt, folder)


def _launch(count: int, folder: Path) -> None:
    """Start so many processes on this machine, which talk over its loopback, and wait until all are done."""
    free_memory()  # of the models that this process has asked: the others want the accelerators whole
    try:
        with tempfile.TemporaryDirectory() as logs, _surroundings(count):
            # What the launchers meet by is unpickled: a file of this user's, not a port that others may reach.
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=count,
                run_id=folder.name,
                rdzv_backend="c10d",
                rdzv_endpoint=str(Path(logs) / "met"),
                rdzv_configs={"store_type": "file"},
                local_addr="localhost",
                max_restarts=0,
                logs_specs=DefaultLogsSpecs(log_dir=logs),
                signals_to_handle=",".join(one.name for one in _SIGNALS),
            )
            elastic_launch(config, sys.executable)("-m", "metier.steps.rank", str(folder), OF_A_BUILD)
    except ChildFailedError as error:
        raise _cause(error) from error
    except SignalException as stopped:
        signal.raise_signal(stopped.sigval)  # now that the processes have ended, as it would have come without them
        raise


@contextmanager
def _surroundings(count: int) -> Iterator[None]:
    """Share the cores and stay on the loopback; keep the launcher quiet, and take its signal handlers away after it."""
    wanted = {"OMP_NUM_THREADS": str(max(cores() // count, 1)), "GLOO_SOCKET_IFNAME": _LOOPBACK.get(sys.platform)}
    added = {name: value for name, value in wanted.items() if value and name not in os.environ}
    handlers = {one: signal.getsignal(one) for one in _SIGNALS}
    log = logging.getLogger("torch.distributed.elastic")
    level = log.level
    os.environ.update(added)
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
        for name in added:
            del os.environ[name]
        for one, handler in handlers.items():
            signal.signal(one, handler)


def _cause(error: ChildFailedError) -> MetierError:
    """Return what the process that failed had to say, or what became of it.

    When one goes, others lose their connection to it or are ended by the launcher: those are consequences.
    """
    told = [(number, _said(failure), failure) for number, failure in sorted(error.failures.items())]
    for _, said, _ in told:
        if "metier" in said:
            kind, *parts = said["metier"]
            return cast(MetierError, getattr(errors, kind)(*parts))
    for number, _, failure in told:
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
            fix = "Where memory ran out, start fewer processes or lower micro_batch_tokens; the same command goes on"
            return RunError(f"process {number} of the training", f"was killed by {failure.signal_name()}", fix)
    number, said, failure = min(told, key=lambda one: one[2].timestamp)
    found = f"ended with {said.get('message', f'exit code {failure.exitcode}')}"
    fix = "The same command goes on from the last checkpoint; with 'metier --debug' it says more"
    return RunError(f"process {number} of the training", found, fix)


def _said(failure: ProcessFailure) -> dict[str, Any]:
    """Return the note that a process left, if it did."""
    said = failure.error_file_data.get("message")
    return said if isinstance(said, dict) else {}
