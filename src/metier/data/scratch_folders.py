"""Folders for what is soon done with: deleted after use, or, where a process was killed, when the next one is made."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout


@contextmanager
def scratch_folder(parent: Path, prefix: str = ".part-") -> Iterator[Path]:
    """Keep a new folder for as long as the context lasts, and delete those of its kind that a killed process left.

    Args:
        parent: where the folder is made.
        prefix: how the names of its kind begin, which nothing else in the parent has.
    """
    _delete_left_over(parent, prefix)
    folder = parent / f"{prefix}{uuid4().hex}"
    with _lock_of(folder):  # before the folder is there: one without a lock that is held is nobody's
        try:
            folder.mkdir(mode=0o700)
            yield folder
        finally:
            _delete(folder)


def _delete_left_over(parent: Path, prefix: str) -> None:
    for folder in [path for path in parent.glob(f"{prefix}*") if path.is_dir()]:
        with suppress(Timeout), _lock_of(folder):
            _delete(folder)


def _lock_of(folder: Path) -> FileLock:
    return FileLock(f"{folder}.lock", timeout=0)


def _delete(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    Path(f"{folder}.lock").unlink(missing_ok=True)
