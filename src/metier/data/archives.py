"""Archives as data: zip, tar and Debian packages, read in place or copied out under names of our own, never run."""

import lzma
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from metier.artifact import sha256_file, write_atomically
from metier.errors import DataError, RunError

_SMALL_BYTES, _RATIO = 64 * 2**20, 200
"""An archive that unpacks to more than so much, and so many times its size, is taken for a bomb."""

_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, NotImplementedError)
_AR_MAGIC, _AR_HEADER = b"!<arch>\n", 60


class File(NamedTuple):
    """A file to read."""

    path: Path
    name: str
    """What messages call it."""
    inside: str = ""
    """Its path below the folder that was asked for, if it was one."""


class _Entry(NamedTuple):
    """One entry of an archive; opening anything but a regular file is an error."""

    name: str
    size: int
    kind: str
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    target: str = ""
    """What a link stands for."""


@contextmanager
def readable(where: str) -> Iterator[None]:
    """Say of a file of the user's that the system does not let it be read: no space is short, and no cache is wrong.

    Raises:
        DataError: in place of an OSError, with the file's name, or with ``where`` if the system names none.
    """
    try:
        yield
    except OSError as error:
        found = f"cannot be read ({error.strerror or error})"
        raise DataError(str(error.filename or where), found, "Check its permissions") from error


def members(archive: Path) -> list[str]:
    """Return the names of the regular files in an archive; links and devices are left out.

    Raises:
        DataError: when the archive is damaged or not an archive.
    """
    with _reported(archive):
        return [entry.name for entry in _entries(archive) if entry.kind == "file"]


def holds(archive: Path, wanted: str) -> bool:
    """Return whether an archive has a file, a folder or a match of a pattern; see `unpack`."""
    return any(_inside(name, wanted) is not None for name in members(archive))


@contextmanager
def open_member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """Open one file of an archive, by its whole name there, for reading as a stream.

    Raises:
        DataError: when it is absent (with near names), not a regular file, encrypted, or the archive is damaged
            or a bomb; also while reading.
    """
    with _reported(archive):
        for entry in _entries(archive):
            if entry.name == member and entry.kind != "folder":
                with _opened(archive, entry, entry.size) as stream:
                    yield stream
                return
        raise _absent(archive, member)


def unpack(archive: Path, wanted: Sequence[str], folder: Path) -> list[list[File]]:
    """Copy files out of an archive in one pass, numbered: no name inside the archive becomes a path.

    Args:
        archive: zip, tar or Debian package.
        wanted: for each list that is returned, a file, a folder (all files below it) or a pattern (``ja/*.mo``),
            by its whole name or below the archive's top folder (``pkg-1.0/data.tsv`` is also ``data.tsv``); what is
            matched whole goes first.
        folder: where the copies go.

    Returns:
        For each of the wanted its files, by name.

    Raises:
        DataError: as `open_member`.
        RunError: when the disk has no room for the files.
    """
    found: list[list[File]] = [[] for _ in wanted]
    below_top: list[list[File]] = [[] for _ in wanted]
    total = copied = 0
    with _reported(archive):
        for entry in _entries(archive):
            inside = [_inside(entry.name, name) for name in wanted]
            named = any(path == "" and "*" not in name for path, name in zip(inside, wanted, strict=True))
            if all(path is None for path in inside) or not (entry.kind == "file" or (named and entry.kind != "folder")):
                continue
            total += entry.size
            copy = folder / str(copied)
            copied += 1
            _check_room(archive, entry, folder)
            with _opened(archive, entry, total) as stream, copy.open("wb") as file:
                shutil.copyfileobj(stream, file)
            for name, files, others, path in zip(wanted, found, below_top, inside, strict=True):
                if path is not None:
                    exact = "*" in name or f"{entry.name}/".startswith(f"{name.rstrip('/')}/")
                    (files if exact else others).append(File(copy, f"{archive.name}, {entry.name}", path))
    chosen = [files or others for files, others in zip(found, below_top, strict=True)]
    for name, files in zip(wanted, chosen, strict=True):
        if not files:
            raise _absent(archive, name)
        files.sort(key=lambda file: file.name)
    return chosen


def real_path(archive: Path, path: str) -> str | None:
    """Return a file's path in an archive, or where it leads if it or a folder above it is a link; None without it."""
    with _reported(archive):
        for entry in _entries(archive):
            if entry.kind == "file" and entry.name == path:
                return path
            if entry.kind == "link" and (path == entry.name or path.startswith(f"{entry.name}/")):
                base = [] if entry.target.startswith("/") else entry.name.split("/")[:-1]
                for part in entry.target.split("/"):
                    base = base[:-1] if part == ".." else [*base, *([part] if part not in ("", ".") else [])]
                return "/".join(base) + path[len(entry.name) :]
    return None


def intact(archive: Path) -> bool:
    """Return whether a cached archive is whole; one put there by hand gets its hash recorded."""
    record = archive.with_name(archive.name + ".sha256")
    if not archive.is_file():
        return False
    digest = sha256_file(archive)
    if not record.exists():
        write_atomically(record, digest)
    return record.read_text(encoding="ascii", errors="replace").strip() == digest


def _entries(archive: Path) -> Iterator[_Entry]:
    """Yield what is in an archive; an entry of a tar is opened before the next one is asked for."""
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as pack:
            for info in pack.infolist():
                kind = "folder" if info.is_dir() else "encrypted" if info.flag_bits & 1 else "file"
                yield _Entry(info.filename, info.file_size, kind, partial(pack.open, info))
        return
    with _tar(archive) as tar:
        for item in tar:
            _check_size(archive, item.name, item.offset_data + item.size)
            kind = "file" if item.isreg() else "folder" if item.isdir() else "link" if item.issym() else "device"
            name = item.name.removeprefix("./")
            yield _Entry(name, item.size, kind, partial(_content, tar, item), item.linkname)


@contextmanager
def _tar(archive: Path) -> Iterator[tarfile.TarFile]:
    if archive.suffix != ".deb":
        with tarfile.open(archive) as tar:
            yield tar
        return
    with archive.open("rb") as file:
        _seek_data(file)
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            yield tar


def _seek_data(file: IO[bytes]) -> None:
    """Go to the files of a Debian package: the member ``data.tar.*`` of an ar archive (deb(5))."""
    if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise tarfile.ReadError("it does not begin like a Debian package")
    while header := file.read(_AR_HEADER):
        name, size = header[:16].decode("ascii", "replace").strip(" /"), header[48:58].strip()
        if header[58:] != b"`\n" or not size.isdigit():
            raise tarfile.ReadError("a header inside is damaged")
        if name == "data.tar.zst" and sys.version_info < (3, 14):
            fix = "Run metier with Python 3.14 or later, or name a version that is compressed with xz"
            raise DataError(Path(file.name).name, "is compressed with zstd, which this Python does not read", fix)
        if name.startswith("data.tar"):
            return
        file.seek(int(size) + int(size) % 2, 1)
    raise tarfile.ReadError("it holds no data.tar")


@contextmanager
def _content(tar: tarfile.TarFile, item: tarfile.TarInfo) -> Iterator[IO[bytes]]:
    content = tar.extractfile(item)
    assert content  # asked for of regular files alone
    with content:
        yield content


@contextmanager
def _opened(archive: Path, entry: _Entry, total: int) -> Iterator[IO[bytes]]:
    where = f"{archive.name}, {entry.name}"
    _check_size(archive, entry.name, total)
    if entry.kind == "encrypted":
        raise DataError(where, "is encrypted", "Use an archive without password")
    if entry.kind != "file":
        raise DataError(where, "is a link or a device", "Name the file it stands for")
    with entry.open() as stream:
        yield stream


@contextmanager
def _reported(archive: Path) -> Iterator[None]:
    """Turn the readers' many ways of saying 'damaged' into one error."""
    fix = "Fetch it again, or delete it from the cache"
    try:
        yield
    except _DAMAGED as error:
        raise DataError(str(archive), f"is damaged or not an archive ({error})", fix) from error
    except OSError as error:
        if error.errno is not None:  # the disk's own trouble, or the reader's caller's
            raise
        raise DataError(str(archive), f"is damaged ({error})", fix) from error


def _check_size(archive: Path, member: str, size: int) -> None:
    if size > _SMALL_BYTES + _RATIO * archive.stat().st_size:
        found, fix = f"unpacks to over {_RATIO} times its size", "Use another archive: this may be made to fill a disk"
        raise DataError(f"{archive.name}, {member}", found, fix)


def _check_room(archive: Path, entry: _Entry, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if entry.size > free:
        found = f"unpacks to {entry.size / 2**30:.1f} GiB, and {free / 2**30:.1f} are free in {folder}"
        raise RunError(f"{archive.name}, {entry.name}", found, "Free disk space there")


def _inside(name: str, wanted: str) -> str | None:
    """Return what follows the wanted file, folder or pattern in an entry's name; None if it is not of it."""
    for path in (name, name.partition("/")[2]):
        if path == wanted or ("*" in wanted and fnmatchcase(path, wanted)):
            return ""
        if path.startswith(f"{wanted.rstrip('/')}/"):
            return path[len(wanted.rstrip("/")) + 1 :]
    return None


def _absent(archive: Path, member: str) -> DataError:
    names = members(archive)
    short = {name.rpartition("/")[2]: name for name in names}
    near = get_close_matches(member, names, n=3, cutoff=0.6)
    near += [short[name] for name in get_close_matches(member.rpartition("/")[2], short, n=3, cutoff=0.6)]
    hint = " or ".join(repr(name) for name in dict.fromkeys(near)) or "one of its files"
    return DataError(archive.name, f"has no file {member!r} among its {len(names)}", f"Set path to {hint}")
