"""Find the model file behind what a user writes: a file, a folder or the name of a job."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metier.artifact import FORMAT, read_json
from metier.errors import ArtifactError, SpecError
from metier.home import home, run_dir

_BUILD = "Build it with 'metier build', or name a .gguf file, an export folder, a run folder or a job"


@dataclass(frozen=True)
class Located:
    """A model file, and what the folder around it says about its task."""

    file: Path
    task: dict[str, Any] | None = None


def locate(reference: str) -> Located:
    """Return the model file of a ``.gguf`` path, an export folder, a run folder or a job's name.

    Raises:
        ArtifactError: when there is no such thing, or it is unfinished, damaged or of another version.
    """
    path = Path(reference).expanduser()
    try:
        if path.is_file():
            return Located(path)
        # A folder may bear the name of the job it describes: it counts only with a model inside.
        found = _in_folder(path) if path.is_dir() else None
        return found or _in_folder(run_dir(reference)) or _nothing(reference)
    except (SpecError, OSError, ValueError):
        # No job has such a name, and no file either (too long, a NUL inside).
        return _nothing(reference)


def _in_folder(folder: Path) -> Located | None:
    for place in (folder, folder / "export"):
        if (place / "begun.json").exists():
            raise ArtifactError(str(place), "the build has not come to its end", "Run 'metier build' again")
        if (place / "metier.json").exists():
            return _described(place / "metier.json")
    files = sorted(folder.glob("*.gguf"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:5])
        raise ArtifactError(str(folder), f"holds {len(files)} models ({names})", "Name one of the files")
    return Located(files[0]) if files else None


def _described(path: Path) -> Located:
    value = read_json(path)
    if "file" in value and value["file"] is None:
        fix = "Ask for a type in export.quantisations and build again, if its architecture can be written"
        raise ArtifactError(str(path.parent), "the job was built without a GGUF file", fix)
    name, task = value.get("file"), value.get("task")
    if not isinstance(name, str) or Path(name).name != name or not (task is None or isinstance(task, dict)):
        raise ArtifactError(str(path), "does not name a model file beside it", _BUILD)
    if value.get("format", FORMAT) != FORMAT:
        raise ArtifactError(
            str(path),
            f"written in format {value['format']!r:.40}, this metier reads format {FORMAT}",
            "Use the version of metier that wrote it",
        )
    file = path.parent / name
    if not file.is_file():
        raise ArtifactError(str(file), "is named in metier.json and is not there", _BUILD)
    return Located(file, task)


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
