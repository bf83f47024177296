"""Find the model file behind what a user writes: a file, a folder or the name of a job."""

import difflib
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, isnan
from pathlib import Path
from typing import Any, TypeGuard

from metier.artifact import read_json
from metier.errors import ArtifactError, SpecError
from metier.facts.confidence import Calibration
from metier.home import home, run_dir

EXPORT_FORMAT = 1
"""Version of the layout of an export folder."""

_BUILD = "Build it with 'metier build', or name a .gguf file, an export folder, a run folder or a job"

_UNFINISHED = "the build has not come to its end"

_LEAST_CONTEXT, _MOST_CONTEXT = 64, 1 << 20

_COPY = "Copy the whole export folder again, or build the job again"


@dataclass(frozen=True)
class Located:
    """A model file, and what the folder around it says about it."""

    file: Path
    task: dict[str, Any] | None = None
    store: Path | None = None
    """The facts that a qa job's answers are looked up in; not opened yet, it may be missing."""
    store_key: str | None = None
    """Key of the build that the store has to be from."""
    calibration: Calibration | None = None
    """How sure the file's answers are."""
    context_tokens: int = 1024
    """Longest question and answer together."""


def locate(reference: str) -> Located:
    """Return the model file of a ``.gguf`` path, an export folder, a run folder or a job's name.

    Raises:
        ArtifactError: when there is no such thing, or it is unfinished, damaged or of another version.
    """
    try:
        path = Path(os.path.expanduser(reference))  # noqa: PTH111 - never raises
        if path.is_file():
            return Located(path)
        # A folder may bear the name of the job it describes: it counts only with a model inside.
        found = _in_folder(path) if path.is_dir() else None
        found = found or _in_folder(run_dir(reference))
        if found is None and run_dir(reference).is_dir():
            raise ArtifactError(str(run_dir(reference)), _UNFINISHED, "Run 'metier build' again")
        return found or _nothing(reference)
    except (SpecError, ValueError):
        return _nothing(reference)  # no job has such a name, and no file either (a NUL inside)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return _nothing(reference)
        raise ArtifactError(reference, f"cannot be read ({error.strerror})", _BUILD) from error


def _in_folder(folder: Path) -> Located | None:
    for place in (folder, folder / "export"):
        if (place / "begun.json").exists():
            raise ArtifactError(str(place), _UNFINISHED, "Run 'metier build' again")
        if (place / "metier.json").exists():
            return _described(place / "metier.json")
    if (folder / "job.toml").exists():
        return None  # what lies beside a description is what the job is made from, such as its base
    files = sorted(folder.glob("*.gguf"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:5])
        raise ArtifactError(str(folder), f"holds {len(files)} models ({names})", "Name one of the files")
    return Located(files[0]) if files else None


def _described(path: Path) -> Located:
    try:
        value = read_json(path)
    except ArtifactError as error:
        raise ArtifactError(error.where, error.found, _COPY) from error
    if "file" in value and value["file"] is None:
        fix = "Ask for a type in export.quantisations and build again, if its architecture can be written"
        raise ArtifactError(str(path.parent), "the job was built without a GGUF file", fix)
    name, task = value.get("file"), value.get("task")
    if not _is_beside(name) or not (task is None or isinstance(task, dict)):
        raise ArtifactError(str(path), "does not name a model file beside it", _BUILD)
    if value.get("format", EXPORT_FORMAT) != EXPORT_FORMAT:
        raise ArtifactError(
            str(path),
            f"written in format {value['format']!r:.40}, this metier reads format {EXPORT_FORMAT}",
            "Use the version of metier that wrote it",
        )
    file = path.parent / name
    if not file.is_file():
        raise ArtifactError(str(file), "is named in metier.json and is not there", _BUILD)
    calibration, context = _calibration(path, value.get("calibration")), _context(path, value.get("context_tokens"))
    return Located(file, task, *_store(path, value), calibration, context)


def _is_beside(name: object) -> TypeGuard[str]:
    """Return whether something is the name of a file in the same folder."""
    return isinstance(name, str) and name not in ("", "..") and not {"/", "\\", "\0"} & set(name)


def _store(path: Path, value: Mapping[str, Any]) -> tuple[Path | None, str | None]:
    name, key = value.get("store"), value.get("store_key")
    if name is None:
        return None, None
    if not _is_beside(name):
        raise ArtifactError(str(path), f"names {name!r:.80} as its fact store, which is no file beside it", _COPY)
    if not isinstance(key, str) or not key:
        raise ArtifactError(str(path), "does not say which build its fact store is from (store_key)", _COPY)
    return path.parent / name, key


def _calibration(path: Path, written: object) -> Calibration | None:
    """Read what turns log-probabilities into confidence; a curve that is none would make any answer look sure."""
    if written is None:
        return None
    try:
        found = Calibration.from_json(written)  # type: ignore[arg-type]
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise ArtifactError(str(path), f"its calibration cannot be read ({error!r:.80})", _COPY) from error
    if not (isfinite(found.slope) and isfinite(found.intercept)) or isnan(found.threshold):
        raise ArtifactError(str(path), f"its calibration is no curve ({written!r:.120})", _COPY)
    return found


def _context(path: Path, written: object) -> int:
    if written is None:
        return Located.context_tokens
    if not isinstance(written, int) or not _LEAST_CONTEXT <= written <= _MOST_CONTEXT:
        raise ArtifactError(str(path), f"its context_tokens is no number of tokens ({written!r:.40})", _COPY)
    return written


def _nothing(reference: str) -> Located:
    known = sorted(folder.parent.name for folder in home().glob("runs/*/export"))
    close = difflib.get_close_matches(Path(reference).name[:80], known, n=1, cutoff=0.5)
    if close:
        fix = f"Did you mean {close[0]!r}? Known runs: {', '.join(known[:20])}"
    elif known:
        fix = f"Known runs: {', '.join(known[:20])}"
    else:
        fix = f"There are no finished runs in {home() / 'runs'}. {_BUILD}"
    raise ArtifactError(f"model {reference!r:.200}", "no such file, folder or run", fix)
