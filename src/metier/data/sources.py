"""Where rows come from: local files, files inside packages, a corpus of OPUS, a data set of the hub."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement

from metier.artifact import sha256_file
from metier.data.archives import File, readable, unpack
from metier.data.debian import Copyright, copyright_of, fetch_package
from metier.data.formats import parse
from metier.data.opus import fetch_corpus
from metier.data.packages import fetch_archive
from metier.data.scratch_folders import scratch_folder
from metier.data.tables import Table, head, key_of_column, position
from metier.errors import DataError, RunError, not_installed
from metier.home import cache_dir
from metier.progress import track
from metier.spec.data import AnySource


class Reading(NamedTuple):
    """A source as read: its rows, and what the ledger needs to say where they came from."""

    name: str
    reference: str
    origin: str
    sha256: str
    table: Table
    papers: tuple[Copyright, ...] = ()
    """What its packages say of their licences."""


def fingerprint(source: AnySource) -> dict[str, Any]:
    """Return a source's JSON-able identity, without downloading: if it changes, the data step is redone.

    It holds every setting of the source; local files and folders add the SHA-256 of their content, and count by
    their names, not by where they are.

    Raises:
        DataError: when a local file is missing or cannot be read.
    """
    kind, reference = _kind(source)
    identity = source.identity
    with readable(reference):
        if kind == "file":
            sides = _files(source)
            # Wherever the folder is: a moved clone finds its work.
            identity["source"] = [file.inside or file.path.name for side in sides for file in side]
            identity["sha256"] = [sha256_file(file.path) for side in sides for file in side]
        elif kind == "hf" and Path(reference).is_dir():
            files = sorted(path for path in Path(reference).rglob("*") if path.is_file())
            identity["source"] = Path(reference).name
            identity["sha256"] = [[str(path.relative_to(reference)), sha256_file(path)] for path in files]
    return identity


@contextmanager
def open_source(source: AnySource) -> Iterator[Reading]:
    """Open a source, whose rows are read as they are asked for.

    Raises:
        DataError: when the source is missing, damaged, or does not have the rows described; also while reading.
        RunError: when something has to be fetched and cannot.
    """
    kind, reference = _kind(source)
    with scratch_folder(cache_dir("unpacked"), "tmp") as scratch:
        openers = {"file": _open_files, "pypi": _open_package, "deb": _open_debian, "opus": _open_opus, "hf": _open_hub}
        yield openers[kind](source, reference, scratch)


def read_source(source: AnySource) -> Reading:
    """Read all rows of a source at once, for what is small; raises what `open_source` does."""
    with open_source(source) as reading:
        _ = reading.table.pairs
    return reading


def _kind(source: AnySource) -> tuple[str, str]:
    kind, _, reference = source.source.partition(":")
    return kind, reference


def _files(source: AnySource) -> list[list[File]]:
    """Return the files of each side; below a folder of pages, all of them."""
    sides = []
    for path in map(Path, source.local_names()):
        if path.is_dir() and source.format == "html":
            below = sorted(file for file in path.rglob("*") if file.is_file())
            sides.append([File(file, str(file), file.relative_to(path).as_posix()) for file in below])
        elif path.is_dir():
            raise DataError(str(path), "is a folder", "Name a file in it")
        elif not path.is_file():
            raise DataError(str(path), "there is no such file", "Check the path; it starts at the job's folder")
        else:
            sides.append([File(path, str(path))])
        if not sides[-1]:
            raise DataError(str(path), "is empty", "Name a folder of pages")
    return sides


def _open_files(source: AnySource, reference: str, _scratch: Path) -> Reading:
    with readable(reference):
        sides = _files(source)
        digests = [_digest_of_side(side) for side in sides]
    name = ",".join(Path(part).name for part in source.local_names())
    # Names only: the ledger travels with the model, the folders of this machine do not.
    return Reading(name, f"file:{name}", name, ",".join(digests), parse(source, sides))


def _digest_of_side(side: list[File]) -> str:
    """Return a file's SHA-256, or for a folder that of its files' names and hashes."""
    if not side[0].inside:
        return sha256_file(side[0].path)
    listed = "".join(f"{sha256_file(file.path)}  {file.inside}\n" for file in side)
    return hashlib.sha256(listed.encode()).hexdigest()


def _open_package(source: AnySource, reference: str, scratch: Path) -> Reading:
    assert source.path  # the job description demands it
    inside = source.path.split(",") if source.two_sided and source.format else [source.path]
    archive = fetch_archive(reference, inside[0])
    sides = unpack(archive, inside, scratch)
    return Reading(Requirement(reference).name, source.source, archive.name, sha256_file(archive), parse(source, sides))


def _open_debian(source: AnySource, reference: str, scratch: Path) -> Reading:
    assert source.path  # the job description demands it
    packages = [fetch_package(wanted) for wanted in reference.split(",")]
    inside = source.path.split(",") if source.two_sided else [source.path]
    if len(packages) == 1:
        sides = unpack(packages[0].path, inside, scratch)
    else:
        sides = []
        for number, (package, path) in enumerate(zip(packages, inside, strict=True)):
            folder = scratch / str(number)
            folder.mkdir()
            sides += unpack(package.path, [path], folder)
    papers = {(paper.package, paper.version): paper for package in packages if (paper := copyright_of(package))}
    return Reading(
        ",".join(package.name for package in packages),
        source.source,
        ", ".join(package.path.name for package in packages),
        ",".join(package.sha256 for package in packages),
        parse(source, sides),
        tuple(papers.values()),
    )


def _open_opus(source: AnySource, reference: str, scratch: Path) -> Reading:
    corpus = fetch_corpus(reference)
    wanted = [position(source.source, column, list(corpus.languages)) for column in (source.input, source.output)]
    if set(wanted) != {0, 1}:
        found = f"has the sides {' and '.join(corpus.languages)}, not {source.input!r} and {source.output!r}"
        raise DataError(source.source, found, "Name one of the two as input, and the other one as output")
    sides = unpack(corpus.path, [*(corpus.sides[place] for place in wanted), *corpus.papers], scratch)
    texts = [
        (file.path.read_text("utf-8", "replace"), name)
        for ((file,), name) in zip(sides[2:], corpus.papers, strict=True)
    ]
    papers = tuple(Copyright(reference, name, text, ()) for text, name in texts)
    table = parse(source.model_copy(update={"format": "moses", "input": 1, "output": 2}), sides[:2])
    return Reading(reference, source.source, corpus.path.name, sha256_file(corpus.path), table, papers)


def _open_hub(source: AnySource, reference: str, _scratch: Path) -> Reading:
    try:
        import datasets
    except ImportError as error:
        raise not_installed(source.source, "datasets", "hub") from error
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        loaded = datasets.load_dataset(reference, split=source.split)
    except ConnectionError as error:
        raise _unreachable(source) from error
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            source.source,
            f"split {source.split!r} cannot be loaded ({reason or type(error).__name__})",
            "Check the name and the split",
        ) from error
    except HTTPError as error:  # the hub's own answers are OSErrors too: this is a connection that broke off
        raise _unreachable(source) from error
    columns = [key_of_column(source.source, column, loaded.column_names) for column in (source.input, source.output)]
    kept = loaded.select_columns(list(dict.fromkeys(head(column, loaded.column_names) for column in columns)))
    name = Path(reference).name if Path(reference).is_dir() else reference

    def table() -> Table:
        return Table(enumerate(kept, 1), columns[0], columns[1], source.source, source.missing)

    return Reading(name, f"hf:{name}", f"{name}, split {source.split}", _digest(table()), table())


def _unreachable(source: AnySource) -> RunError:
    found = "the hub cannot be reached, and its cache has no copy"
    return RunError(source.source, found, "Connect to the network and try again")


def _digest(pairs: Iterable[tuple[str, str]]) -> str:
    """Return the SHA-256 of the pairs as a list in JSON."""
    digest = hashlib.sha256(b"[")
    for number, pair in enumerate(track(pairs, "reading the data set")):
        digest.update(((", " if number else "") + json.dumps(pair)).encode())
    digest.update(b"]")
    return digest.hexdigest()
