"""Package archives as data: fetched with a checked hash, read in place, never unpacked, installed or run.

``pip download`` builds an sdist to learn its metadata, which runs code of the package; this module asks the
same package index, with pip's own settings, for the file alone.
"""

import lzma
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import IO

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from pypi_simple import UnparsableFilenameError, parse_filename

from metier.artifact import sha256_file, write_atomically
from metier.data import registry
from metier.errors import DataError, RunError
from metier.home import cache_dir

MAX_BYTES = 4 * 2**30
"""Most bytes a member, or a tar archive up to it, may unpack to: more is taken for a decompression bomb."""

_SUFFIXES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, NotImplementedError)


def fetch_archive(requirement: str, member: str | None = None) -> Path:
    """Return a package's archive on disk, fetching it if no kept one fits.

    Kept archives live in the cache folder ``archives`` beside a file with their SHA-256; an archive put there
    by hand is taken too. A kept archive that fits is used without a network; pin a version to be sure which.

    Args:
        requirement: a package name, with a version if wished: ``name``, ``name==1.2`` or ``name>=1,<2``.
        member: the file wanted from it: the pure wheel is chosen if it has this file, else the sdist.

    Raises:
        DataError: when there is no such package or version, or the archive's hash is not the index's.
        RunError: when the network or the disk refuses.
    """
    wanted = _parsed(requirement)
    folder = cache_dir("archives")
    kept = _kept(folder, wanted)
    if chosen := _holding(kept, member):
        return chosen
    try:
        packages = registry.candidates(wanted)
    except RunError:
        if kept:  # without the file: reading it names the files that are there
            return kept[-1]
        raise
    fetched: list[Path] = []
    for package in packages:
        archive = folder / package.filename
        if not _intact(archive):
            _download(package, archive)
        fetched.append(archive)
        if chosen := _holding(fetched[-1:], member):
            return chosen
    return fetched[-1]


def members(archive: Path) -> list[str]:
    """Return the names of the regular files in an archive; links and devices are left out.

    Raises:
        DataError: when the archive is damaged or not an archive.
    """
    with _reported(archive):
        if _is_zip(archive):
            with zipfile.ZipFile(archive) as pack:
                return [info.filename for info in pack.infolist() if not info.is_dir()]
        with tarfile.open(archive) as tar:
            return [info.name for info in _bounded(archive, tar) if info.isreg()]


@contextmanager
def open_member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """Open one file of an archive for reading, as a stream.

    The name is matched exactly or below the archive's top folder (``pkg-1.0/data.tsv`` is also ``data.tsv``).

    Raises:
        DataError: when it is absent (with near names), not a regular file, larger than `MAX_BYTES`,
            encrypted, or the archive is damaged; also while reading.
    """
    with _reported(archive):
        if _is_zip(archive):
            with zipfile.ZipFile(archive) as pack:
                info = next((info for info in pack.infolist() if _matches(info.filename, member)), None)
                if info is None or info.is_dir():
                    raise _absent(archive, member)
                _check_size(archive, member, info.file_size)
                if info.flag_bits & 1:
                    raise DataError(f"{archive.name}, {member}", "is encrypted", "Use an archive without password")
                with pack.open(info) as stream:
                    yield stream
        else:
            with tarfile.open(archive) as tar:
                found = next((entry for entry in _bounded(archive, tar) if _matches(entry.name, member)), None)
                if found is None or found.isdir():
                    raise _absent(archive, member)
                if not found.isreg():
                    raise DataError(f"{archive.name}, {member}", "is a link or a device", "Name the file it stands for")
                _check_size(archive, member, found.size)
                content = tar.extractfile(found)
                assert content
                with content:
                    yield content


def _parsed(requirement: str) -> Requirement:
    try:
        wanted = Requirement(requirement)
    except InvalidRequirement as error:
        raise DataError(
            f"pypi:{requirement}",
            "is not a package name with a version",
            "Write 'pypi:name' or 'pypi:name==1.2'",
        ) from error
    if wanted.url or wanted.marker or wanted.extras:
        raise DataError(
            f"pypi:{requirement}",
            "has more than a name and a version",
            "Write 'pypi:name' or 'pypi:name==1.2'",
        )
    return wanted


def _kept(folder: Path, wanted: Requirement) -> list[Path]:
    """Return the cached archives of the newest fitting version, the wheel first."""
    found: list[tuple[Version, Path]] = []
    for path in folder.iterdir():
        if not path.name.endswith(_SUFFIXES):
            continue
        try:
            project, version, _ = parse_filename(path.name, wanted.name)
            parsed = Version(version)
        except (UnparsableFilenameError, InvalidVersion):
            continue
        same = canonicalize_name(project) == canonicalize_name(wanted.name)
        if same and wanted.specifier.contains(parsed, prereleases=True) and _intact(path):
            found.append((parsed, path))
    newest = max((version for version, _ in found), default=None)
    return sorted((p for version, p in found if version == newest), key=lambda p: (p.suffix != ".whl", p.name))


def _holding(archives: list[Path], member: str | None) -> Path | None:
    """Return the first archive with the file; any sdist counts, being the last resort and slow to search."""
    for archive in archives:
        if member is None or not _is_zip(archive) or any(_matches(name, member) for name in members(archive)):
            return archive
    return None


def _intact(archive: Path) -> bool:
    """Return whether a cached archive is whole; one put there by hand gets its hash recorded."""
    record = archive.with_name(archive.name + ".sha256")
    if not archive.is_file():
        return False
    digest = sha256_file(archive)
    if not record.exists():
        write_atomically(record, digest)
    return record.read_text(encoding="ascii", errors="replace").strip() == digest


def _download(package: registry.Package, archive: Path) -> None:
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".part-") as scratch:
        part = Path(scratch) / "archive"
        registry.download(package, part)
        write_atomically(archive.with_name(archive.name + ".sha256"), sha256_file(part))
        part.replace(archive)


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


def _is_zip(archive: Path) -> bool:
    return archive.suffix in {".whl", ".zip"}


def _bounded(archive: Path, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for entry in tar:
        _check_size(archive, entry.name, entry.offset_data)
        yield entry


def _check_size(archive: Path, member: str, size: int) -> None:
    if size > MAX_BYTES:
        raise DataError(
            f"{archive.name}, {member}", f"unpacks to over {MAX_BYTES / 2**30:.0f} GiB", "Use a smaller file"
        )


def _matches(name: str, member: str) -> bool:
    return name == member or name.partition("/")[2] == member


def _absent(archive: Path, member: str) -> DataError:
    names = members(archive)
    short = {name.rpartition("/")[2]: name for name in names}
    near = get_close_matches(member, names, n=3, cutoff=0.6)
    near += [short[name] for name in get_close_matches(member.rpartition("/")[2], short, n=3, cutoff=0.6)]
    hint = " or ".join(repr(name) for name in dict.fromkeys(near)) or "one of its files"
    return DataError(archive.name, f"has no file {member!r} among its {len(names)}", f"Set path to {hint}")
