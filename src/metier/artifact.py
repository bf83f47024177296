"""Folders that say where they came from: atomic writes, content hashes, step manifests.

A step works in its own folder. ``begun.json`` holds the key of its inputs while it works, ``manifest.json`` is
written last and atomically. Only a folder whose manifest carries the wanted key and whose files still have the
recorded hashes is trusted. Work under another key is cleared away; in a run folder, if it took a minute or more, it is
put aside once as ``<folder>.old`` and taken back when its key is wanted again.
"""

import codecs
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from metier.errors import ArtifactError
from metier.progress import say

FORMAT = 1
"""Version of the run folder's layout; raised when an older folder can no longer be read."""

LONG_S = 60
"""Work of so many seconds is put aside when it is no longer wanted, and not cleared away."""

_TOLD = 3
"""Differences between inputs that a message names."""


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
    with path.open("r+b" if os.access(path, os.W_OK) else "rb") as file:  # Windows flushes what could be written to
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys sorted, one value a line."""
    text = json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    write_atomically(path, text.encode("utf-8", "backslashreplace"))  # half a character stays JSON: "\ud83d"


def printed_json(value: Any, indent: int | None = None) -> str:
    """Return JSON for stdout. Where that holds ASCII or a few hundred letters, others are escaped as JSON wants it."""
    try:
        everything = codecs.lookup(sys.stdout.encoding).name == "utf-8"
    except (AttributeError, LookupError, TypeError):
        everything = False
    return json.dumps(value, ensure_ascii=not everything, indent=indent)


def read_json(path: Path, fix: str = "Delete the folder and run the command again") -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        fix: what to do where it cannot be read; the default is for folders that metier made and can make again.

    Raises:
        ArtifactError: when the file is missing or holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise TypeError("no JSON object")
        return value
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(str(path), f"cannot be read ({error})", fix) from error


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def key_of(value: Any) -> str:
    """Return a short hash of a JSON-able value: equal values, equal keys."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


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
    aside: bool = False,
    said: Callable[[bool], None] = lambda finished: None,
) -> Step:
    """Do a step once: return it finished, from disk if its inputs have not changed.

    ``work`` writes files into the folder and returns the facts for the manifest. When it is killed, the files stay
    and the next call with the same inputs hands it the same folder to go on from, without files half written.

    Args:
        folder: the step's own folder; its name names the step.
        inputs: JSON-able description of everything the result depends on, parents' keys included.
        work: does the step in the folder and returns its JSON-able facts.
        packages: third-party packages whose versions the manifest records.
        aside: whether long work of other inputs is put aside, as ``<folder>.old``; the folders of these names are then
            the step's own, too.
        said: called, before any work, with whether it was already finished.

    Raises:
        ArtifactError: when the folder was written in a layout this version cannot read.
    """
    key = key_of(inputs)
    manifest_path, begun = folder / "manifest.json", folder / "begun.json"
    if not (finished := _finished(folder, key)):
        if aside:
            _change_places(folder, key, inputs)
        elif folder.exists() and not _is_of(folder, key):
            shutil.rmtree(folder)
        finished = _finished(folder, key)
    if finished:
        said(True)
        return Step(folder, finished)
    folder.mkdir(parents=True, exist_ok=True)
    before_s = _worked_s(folder) if begun.exists() else 0.0
    _remove_half_written(folder)
    write_json(begun, {"key": key, "format": FORMAT, "inputs": inputs, "seconds": round(before_s, 1)})
    said(False)
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
        "seconds": round(before_s + time.monotonic() - clock, 1),
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


def key_in(record: Path) -> str | None:
    """Return the key that a ``manifest.json`` or ``begun.json`` says; None where it cannot be read."""
    try:
        return str(read_json(record).get("key"))
    except ArtifactError:
        return None


def put_aside(folder: Path) -> Step | None:
    """Return the finished step of other inputs that was put aside when this one was begun; None if none is whole."""
    old = folder.with_name(f"{folder.name}.old")
    try:
        manifest = _checked(old / "manifest.json")
    except ArtifactError:
        return None
    return None if _damaged(old, manifest) else Step(old, manifest)


def _finished(folder: Path, key: str) -> dict[str, Any] | None:
    """Return the manifest of a folder that is finished under a key and undamaged."""
    path = folder / "manifest.json"
    if not path.exists():
        return None
    manifest = _checked(path)
    return manifest if manifest["key"] == key and not _damaged(folder, manifest) else None


def _change_places(folder: Path, key: str, inputs: dict[str, Any]) -> None:
    """Put aside or clear away what a folder holds of other inputs; take back what was put aside for these."""
    old, back = (folder.with_name(f"{folder.name}.{end}") for end in ("old", "back"))
    if back.exists():  # a kill came between
        back.rename(old if folder.exists() else folder)
    if _is_of(folder, key):
        return
    if old.exists() and _is_of(old, key):
        old.rename(back)
    if folder.exists():
        _put_aside(folder, old, inputs)
    if back.exists():
        back.rename(folder)


def _put_aside(folder: Path, old: Path, inputs: dict[str, Any]) -> None:
    """Keep a folder as the old one if it took long; but what is finished is not replaced by what is not."""
    worse = (old / "manifest.json").exists() and not (folder / "manifest.json").exists()
    if worse or not _took_long(folder):
        shutil.rmtree(folder)
        return
    shutil.rmtree(old, ignore_errors=True)
    say(f"{folder.name}: {_other(folder, inputs)}; what was there is kept in {old}, until the next change")
    folder.rename(old)


def _is_of(folder: Path, key: str) -> bool:
    """Whether a folder is finished under a key and undamaged, or begun under it."""
    try:
        return bool(_finished(folder, key)) or (
            not (folder / "manifest.json").exists() and key_in(folder / "begun.json") == key
        )
    except ArtifactError:
        return False


def _took_long(folder: Path) -> bool:
    """Whether a step worked for a minute or more in a folder, as its manifest or the times of its files say."""
    try:
        if (folder / "manifest.json").exists():
            return float(read_json(folder / "manifest.json").get("seconds", 0)) >= LONG_S
        return _worked_s(folder) >= LONG_S
    except (ArtifactError, OSError, TypeError, ValueError):
        return False


def _worked_s(folder: Path) -> float:
    """Return the seconds that a step worked in a folder without finishing it.

    Those of earlier sessions are counted in ``begun.json``, which the last session wrote when it began; how long that
    one worked, the times of its files say.
    """
    begun = folder / "begun.json"
    try:
        before_s = float(read_json(begun).get("seconds", 0))
    except (ArtifactError, TypeError, ValueError):
        before_s = 0.0
    latest = max(file.stat().st_mtime for file in folder.rglob("*"))
    return before_s + latest - begun.stat().st_mtime


def _other(folder: Path, inputs: dict[str, Any]) -> str:
    """Return in words how what a folder holds differs from what is wanted."""
    for name in ("manifest.json", "begun.json"):
        try:
            before = read_json(folder / name).get("inputs", {})
        except ArtifactError:
            continue
        found = list(_differences(before, inputs))
        more = ", ..." if len(found) > _TOLD else ""
        return f"changed: {', '.join(found[:_TOLD])}{more}" if found else "its files were changed"
    return "it cannot be read"


def _differences(one: Any, other: Any, name: str = "") -> Iterator[str]:
    """Yield the names of what differs between two JSON values, as ``train.budget``."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            yield from _differences(one.get(key), other.get(key), f"{name}.{key}" if name else key)
    elif one != other:
        yield name


def _remove_half_written(folder: Path) -> None:
    for part in sorted(folder.rglob("*.part")):
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)


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


def _damaged(folder: Path, manifest: dict[str, Any]) -> bool:
    return any(
        not (folder / name).is_file() or sha256_file(folder / name) != digest
        for name, digest in manifest["files"].items()
    )
