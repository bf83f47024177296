"""A process with the libraries loaded, which forks: many short processes would each take seconds to load them."""

import importlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

_WRITING = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")


class Forks:
    """Runs functions of test modules in processes of their own, alone or several that train together."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            env=os.environ | {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "2000"},  # as `metier.steps.threads` sets it
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, module, function, *arguments, processes=1, kill_after=None, kill_at=None):
        """Call a function in so many processes and return their exit codes, as `subprocess` would.

        Args:
            module: name of a test module.
            function: name of a function in it.
            arguments: JSON values and paths.
            processes: how many processes call it, told of each other as torchrun tells them.
            kill_after: seconds after which the process is killed.
            kill_at: which opening, renaming or removing of a file kills the process.
        """
        plan = {"module": module, "function": function, "arguments": arguments, "processes": processes}
        plan |= {"kill_after": kill_after, "kill_at": kill_at}
        self._server.stdin.write(json.dumps(plan, default=str) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def close(self):
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait()


def _serve():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a test prints is no answer
    for line in sys.stdin:
        plan = json.loads(line)
        importlib.import_module(plan["module"])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = [_fork(plan, number, port) for number in range(plan["processes"])]
        if plan["kill_after"] is not None:
            time.sleep(plan["kill_after"])
            os.kill(children[0], signal.SIGKILL)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), file=answers, flush=True)


def _fork(plan, number, port):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        own = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": plan["processes"], "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in own.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
        if plan["kill_at"] is not None:
            die_at(plan["kill_at"])
        getattr(sys.modules[plan["module"]], plan["function"])(*plan["arguments"])
        code = 0
    except BaseException:  # noqa: BLE001 - whatever it is, the child ends here
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def die_at(number):
    """Kill this process as it opens, renames or removes a file for the time of this number, from 0."""
    left = iter(range(number))

    def hook(event, _):
        if event in _WRITING and next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def random_kills(count):
    """Return so many ways to kill a process, half of them while it writes; and the seed they come from."""
    seed = random.SystemRandom().randrange(10**6)
    draw = random.Random(seed)
    kinds = [{"kill_after": draw.uniform(0.0, 0.3)} if i % 2 else {"kill_at": draw.randrange(60)} for i in range(count)]
    return seed, kinds


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    _serve()
