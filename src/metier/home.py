"""Where runs and caches live: outside any checkout, under ``METIER_HOME``."""

import os
import re
from pathlib import Path

from metier.errors import SpecError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def home() -> Path:
    """Return ``$METIER_HOME``, or ``~/.local/share/metier`` (``$XDG_DATA_HOME/metier``)."""
    if chosen := os.environ.get("METIER_HOME"):
        return Path(chosen).expanduser().resolve()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "metier"


def cache_dir(kind: str) -> Path:
    """Return (and make) the folder for downloads and conversions of one kind."""
    folder = home() / "cache" / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run_dir(name: str) -> Path:
    """Return the run folder of a job, whether it exists or not.

    Raises:
        SpecError: when the name could leave the runs folder.
    """
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"job name {name!r}",
            "a name is at most 64 lower-case letters, digits, '.', '_' or '-', and starts with a letter or digit",
            "Choose another name",
        )
    return home() / "runs" / name
