"""Every error a user can meet; anything else is a bug of ours.

A message says where, what was found and what to do. The command line prints it on one line, without a
traceback (``--debug`` shows it), and ends with the class's exit code::

    MetierError
      SpecError      the job description is wrong: edit it                    exit 2
      DataError      a source is missing, damaged, unlicensed or too small    exit 3
      ArtifactError  a model or a run folder is damaged or of another version exit 4
      RunError       the machine or the runtime said no (disk, network, port) exit 5

A verdict of ``not released`` is a result, not an error: ``metier build`` prints it and ends with exit code 1.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a full disk says."""
FREE_SPACE = "Free disk space or choose another METIER_HOME; the same command resumes where this one stopped"
"""What to do about it."""

_NO_MEMORY = re.compile(r"out of memory|can(no|')t allocate memory|not enough memory|os error 12\b", re.IGNORECASE)
"""What torch says, whose classes for it differ between devices, and what the system says to those who read a file."""


class MetierError(Exception):
    """An error the user can mend.

    Args:
        where: the file, key, source or step concerned.
        found: what was found there.
        fix: what to write or do instead.
    """

    exit_code = 1

    def __init__(self, where: str, found: str, fix: str) -> None:
        self.where, self.found, self.fix = where, found, fix
        super().__init__(f"{where}: {found}. {fix}")


class SpecError(MetierError):
    """The job description is wrong."""

    exit_code = 2


class DataError(MetierError):
    """A data source is missing, damaged, unlicensed or too small."""

    exit_code = 3


class ArtifactError(MetierError):
    """A model file or a run folder is damaged, foreign or of another version."""

    exit_code = 4


class RunError(MetierError):
    """The machine or the runtime refused: disk, network, memory, port."""

    exit_code = 5


class InputError(RunError):
    """A text is more than the model can read at once."""


def not_installed(where: str, package: str, extra: str) -> RunError:
    """Return what to say where a package is needed that only one of metier's extras brings."""
    fix = f"Install the extra metier[{extra}]: run pip install '.[{extra}]' in metier's own folder"
    return RunError(where, f"the package {package!r} is not installed", fix)


def is_without_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, that of an accelerator or the machine's."""
    return isinstance(error, MemoryError) or bool(_NO_MEMORY.search(str(error)))


@contextmanager
def told_without_memory(where: str, fix: str) -> Iterator[None]:
    """Say where memory ran out inside the block, that of an accelerator or the machine's, and what to do.

    Raises:
        RunError: when it did.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_without_memory(error):
            raise
        why = (str(error).strip() or repr(error)).splitlines()[0]
        raise RunError(where, f"there is no memory left ({why:.200})", fix) from error
