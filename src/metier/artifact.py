"""Folders that say where they came from: atomic writes, content hashes, step manifests.

A step works in its own folder. ``begun.json`` holds the key of its inputs while it works, ``manifest.json`` is
written last and atomically. Only a folder whose manifest carries the wanted key and whose files still have the
recorded hashes is trusted; work begun under another key is cleared away.
"""

import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from metier.errors import ArtifactError

FORMAT = 1
"""Version of the run folder's layout; raised when an older folder can no longer be read."""


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file whole or not at all."""
    with writing(path) as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes its place, whole, when the context ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(part).chmod(0o644)
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def flush(path: Path) -> None:
    """Return when a file that a library wrote is on the disk, so that nothing says earlier that it is."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys sorted, one value a line."""
    write_atomically(path, json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ArtifactError: when the file is missing or holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise TypeError("no JSON object")
        return value
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(
            str(path), f"cannot be read ({error})", "Delete the folder and run the command again"
        ) from error


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def key_of(value: Any) -> str:
    """Return a short hash of a JSON-able value: equal values, equal keys."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of metier and of the named packages."""
    found = {}
    for name in ("metier", *packages):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Step:
    """One finished step: its folder and its manifest."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def key(self) -> str:
        """The hash of everything the step depended on."""
        return str(self.manifest["key"])

    @property
    def result(self) -> Any:
        """What the step's work returned: its facts, as JSON values."""
        return self.manifest["result"]

    @property
    def hashes(self) -> dict[str, str]:
        """The SHA-256 of each of its files, by their paths in the folder."""
        return dict(self.manifest["files"])


def run_step(
    folder: Path,
    inputs: dict[str, Any],
    work: Callable[[Path], Any],
    *,
    packages: tuple[str, ...] = (),
    said: Callable[[str, bool], None] = lambda name, cached: None,
) -> Step:
    """Do a step once: return it finished, from disk if its inputs have not changed.

    ``work`` writes files into the folder and returns the facts for the manifest. When it is killed, the files stay
    and the next call with the same inputs hands it the same folder to go on from.

    Args:
        folder: the step's own folder; its name names the step.
        inputs: JSON-able description of everything the result depends on, parents' keys included.
        work: does the step in the folder and returns its JSON-able facts.
        packages: third-party packages whose versions the manifest records.
        said: called with the step's name and whether it was already finished.

    Raises:
        ArtifactError: when the folder was written in a layout this version cannot read.
    """
    key = key_of(inputs)
    manifest_path = folder / "manifest.json"
    if manifest_path.exists():
        manifest = _checked(manifest_path)
        if manifest["key"] == key and not _damaged(folder, manifest):
            said(folder.name, True)
            return Step(folder, manifest)
        shutil.rmtree(folder)
    begun = folder / "begun.json"
    if folder.exists() and (not begun.exists() or _key_in(begun) != key):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not begun.exists():
        write_json(begun, {"key": key, "format": FORMAT})
    said(folder.name, False)
    started, clock = time.time(), time.monotonic()
    result = work(folder)
    manifest = {
        "format": FORMAT,
        "step": folder.name,
        "key": key,
        "inputs": inputs,
        "result": result,
        "files": {
            str(file.relative_to(folder)): sha256_file(file)
            for file in sorted(folder.rglob("*"))
            if file.is_file() and file != begun
        },
        "versions": versions(*packages),
        "machine": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
        },
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.monotonic() - clock, 1),
    }
    write_json(manifest_path, manifest)
    begun.unlink()
    return Step(folder, json.loads(manifest_path.read_text(encoding="utf-8")))


def load_step(folder: Path) -> Step:
    """Return a finished step of a run folder.

    Raises:
        ArtifactError: when it is not finished, or of another version.
    """
    path = folder / "manifest.json"
    if not path.exists():
        raise ArtifactError(str(folder), "this step is not finished", "Run 'metier build' on the job first")
    return Step(folder, _checked(path))


def _checked(path: Path) -> dict[str, Any]:
    manifest = read_json(path)
    found = manifest.get("format")
    if found != FORMAT:
        raise ArtifactError(
            str(path),
            f"written in run folder format {found}, this metier reads format {FORMAT}",
            "Use the version of metier that wrote it, or delete the folder to build afresh",
        )
    return manifest


def _key_in(path: Path) -> str | None:
    try:
        return str(read_json(path).get("key"))
    except ArtifactError:
        return None


def _damaged(folder: Path, manifest: dict[str, Any]) -> bool:
    return any(
        not (folder / name).is_file() or sha256_file(folder / name) != digest
        for name, digest in manifest["files"].items()
    )
