"""Where rows come from: a local file, a file inside a package archive, a data set of the hub."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement

from metier.artifact import sha256_file
from metier.data.archives import fetch_archive, open_member
from metier.data.formats import File, parse
from metier.data.tables import Table, head, key_of_column
from metier.errors import DataError, RunError
from metier.home import cache_dir
from metier.progress import track
from metier.spec.job import AnySource, Source


class Reading(NamedTuple):
    """A source as read: its rows, and what the ledger needs to say where they came from."""

    name: str
    reference: str
    origin: str
    sha256: str
    table: Table


def fingerprint(source: AnySource) -> dict[str, Any]:
    """Return a source's JSON-able identity, without downloading: if it changes, the data step is redone.

    It holds every setting of the source; local files and folders add the SHA-256 of their content, and count by
    their names, not by where they are.

    Raises:
        DataError: when a local file is missing.
    """
    kind, reference = _kind(source)
    identity = source.model_dump(mode="json")
    if kind == "file":
        paths = _files(source, reference)
        identity["source"] = [path.name for path in paths]  # wherever the folder is: a moved clone finds its work
        identity["sha256"] = [sha256_file(path) for path in paths]
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
    if kind == "hf":
        yield _open_hub(source, reference)
    elif kind == "pypi":
        with tempfile.TemporaryDirectory(dir=cache_dir("unpacked")) as scratch:
            yield _open_archive(source, reference, Path(scratch))
    else:
        yield _open_files(source, reference)


def read_source(source: AnySource) -> Reading:
    """Read all rows of a source at once, for what is small; raises what `open_source` does."""
    with open_source(source) as reading:
        _ = reading.table.pairs
    return reading


def _kind(source: AnySource) -> tuple[str, str]:
    kind, _, reference = source.source.partition(":")
    return kind, reference


def _files(source: AnySource, reference: str) -> list[Path]:
    whole = Path(reference)
    moses = isinstance(source, Source) and (source.format == "moses" or source.format is None)
    pair = moses and (source.format is not None or ("," in reference and not whole.exists()))
    first, comma, second = reference.partition(",")
    paths = [Path(first), Path(second)] if pair and comma else [whole]
    for path in paths:
        if path.is_dir():
            raise DataError(str(path), "is a folder", "Name a file in it")
        if not path.is_file():
            raise DataError(str(path), "there is no such file", "Check the path; it starts at the job's folder")
    return paths


def _open_files(source: AnySource, reference: str) -> Reading:
    paths = _files(source, reference)
    try:
        digests = [sha256_file(path) for path in paths]
    except OSError as error:
        raise DataError(error.filename, f"cannot be read ({error.strerror})", "Check its permissions") from error
    table = parse(source, [File(path, str(path)) for path in paths])
    name = ",".join(path.name for path in paths)
    # Names only: the ledger travels with the model, the folders of this machine do not.
    return Reading(name, f"file:{name}", name, ",".join(digests), table)


def _open_archive(source: AnySource, reference: str, scratch: Path) -> Reading:
    assert source.path  # the job description demands it
    inside = source.path.split(",") if source.format == "moses" else [source.path]
    archive = fetch_archive(reference, inside[0])
    files = []
    for number, member in enumerate(inside):
        path = scratch / str(number)
        with open_member(archive, member) as stream, path.open("wb") as file:
            shutil.copyfileobj(stream, file)
        files.append(File(path, f"{archive.name}, {member}"))
    return Reading(Requirement(reference).name, source.source, archive.name, sha256_file(archive), parse(source, files))


def _open_hub(source: AnySource, reference: str) -> Reading:
    try:
        import datasets
    except ImportError as error:
        raise RunError(
            source.source,
            "the package 'datasets' is not installed",
            "Install the extra metier[hub]: run pip install '.[hub]' in metier's own folder",
        ) from error
    try:
        loaded = datasets.load_dataset(reference, split=source.split)
    except ConnectionError as error:
        raise RunError(
            source.source,
            "the hub cannot be reached, and its cache has no copy",
            "Connect to the network and try again",
        ) from error
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            source.source,
            f"split {source.split!r} cannot be loaded ({reason or type(error).__name__})",
            "Check the name and the split",
        ) from error
    columns = [key_of_column(source.source, column, loaded.column_names) for column in (source.input, source.output)]
    kept = loaded.select_columns(list(dict.fromkeys(head(column, loaded.column_names) for column in columns)))
    name = Path(reference).name if Path(reference).is_dir() else reference

    def table() -> Table:
        return Table(enumerate(kept, 1), columns[0], columns[1], source.source, source.missing)

    return Reading(name, f"hf:{name}", f"{name}, split {source.split}", _digest(table()), table())


def _digest(pairs: Iterable[tuple[str, str]]) -> str:
    """Return the SHA-256 of the pairs as a list in JSON."""
    digest = hashlib.sha256(b"[")
    for number, pair in enumerate(track(pairs, "reading the data set")):
        digest.update(((", " if number else "") + json.dumps(pair)).encode())
    digest.update(b"]")
    return digest.hexdigest()
