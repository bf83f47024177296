"""Whether what lies in a run folder was made from what the description says now, told without reading any rows."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from metier.artifact import read_json
from metier.home import run_dir
from metier.spec.contestants import kind_and_name
from metier.spec.job import Job
from metier.spec.stated import Stated


def made_rows(job: Job) -> dict[str, Any] | None:
    """Return the manifest of the rows that a job's description asks for now; None where there are none of these.

    Raises:
        ArtifactError: when the manifest is damaged.
    """
    path = run_dir(job.name) / "data" / "manifest.json"
    if not path.is_file():
        return None
    manifest = read_json(path)
    inputs = manifest.get("inputs", {})
    same = _holds(inputs, job.row_settings) and all(
        _are_same(sources, inputs.get(role, ()), path) for role, sources in job.sources.items()
    )
    return manifest if same else None


def made_start(job: Job) -> Path | None:
    """Return the folder of the untrained model that a job's description asks for now; None where there is none.

    Raises:
        ArtifactError: when a manifest is damaged.
    """
    path = run_dir(job.name) / "start" / "manifest.json"
    if not path.is_file() or made_rows(job) is None:
        return None
    kind, base = kind_and_name(job.base.model)
    local = not job.base.from_scratch and kind == "path"
    same = _holds(read_json(path).get("inputs", {}).get("job", {}), job.start_settings)
    return path.parent if same and not (local and _is_newer(Path(base), path)) else None


def _holds(inputs: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return {key: inputs.get(key) for key in wanted} == wanted


def _are_same(sources: Iterable[Stated], recorded: list[dict[str, Any]], manifest: Path) -> bool:
    """Whether sources are those of a manifest: in all they state, local ones in their names and no newer than it."""
    listed = list(sources)
    return len(listed) == len(recorded) and all(
        _is_same(source, found, manifest) for source, found in zip(listed, recorded, strict=True)
    )


def _is_same(source: Stated, recorded: dict[str, Any], manifest: Path) -> bool:
    files = [Path(name) for name in source.local_names()]
    if not files:
        return _holds(recorded, source.identity)
    names, stated = recorded.get("source"), {key: one for key, one in source.identity.items() if key != "source"}
    known = any(file.is_dir() for file in files) or [file.name for file in files] == (
        names if isinstance(names, list) else [names]
    )
    return known and _holds(recorded, stated) and not any(_is_newer(file, manifest) for file in files)


def _is_newer(path: Path, manifest: Path) -> bool:
    """Whether a file, or a folder or one of the files in it, was changed after a manifest was written; or is gone."""
    try:
        inside = list(path.iterdir()) if path.is_dir() else []
        written: float = manifest.stat().st_mtime
        return any(one.stat().st_mtime > written for one in (path, *inside))
    except OSError:
        return True
