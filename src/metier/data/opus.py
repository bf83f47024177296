"""Parallel corpora of OPUS: the library mtdata knows where they are; fetched once, checked when used again.

mtdata's own download is not used: where a certificate is refused it tries again without one.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import requests
from filelock import FileLock

from metier.artifact import read_json, sha256_file, write_atomically, write_json
from metier.data.archives import intact, members
from metier.errors import DataError, RunError, not_installed
from metier.home import cache_dir
from metier.progress import bar

_TIMEOUT_SECONDS = (20.0, 120.0)
_BLOCK = 1 << 20


class Corpus(NamedTuple):
    """A corpus as a zip archive, and the files of its two languages in it."""

    path: Path
    languages: tuple[str, str]
    sides: tuple[str, str]
    papers: tuple[str, ...]
    """Its files that say what it is and under what licence."""


def fetch_corpus(identifier: str) -> Corpus:
    """Return a corpus, fetching it if it is not kept; a download that was broken off goes on where it was.

    Kept corpora live in the cache folder ``opus``, with the SHA-256 that they had when they were fetched: OPUS states
    none.

    Args:
        identifier: mtdata's, such as ``OPUS-tatoeba-v20230412-eng-jpn``.

    Raises:
        DataError: when there is no such corpus, or the disk has no room for it.
        RunError: when mtdata is not installed, or the network refuses.
    """
    folder = cache_dir("opus")
    parts = identifier.split("-")
    if len(parts) != 5 or not all(part.replace("_", "").replace(".", "").isalnum() for part in parts):
        raise DataError(f"opus:{identifier}", "is no identifier", "Write 'opus:OPUS-name-version-language-language'")
    path, facts = folder / f"{identifier}.zip", folder / f"{identifier}.json"
    with FileLock(f"{path}.lock"):  # another build may fetch the same corpus
        if not (facts.is_file() and intact(path)):
            address, patterns = _find(identifier)
            _download(identifier, address, path)
            members(path)  # raises where it is damaged
            write_atomically(path.with_name(path.name + ".sha256"), sha256_file(path))
            write_json(facts, {"patterns": patterns})
    one, two = read_json(facts, f"Delete {facts} and run the command again")["patterns"]
    papers = tuple(name for name in members(path) if name in ("LICENSE", "README"))
    return Corpus(path, (parts[3], parts[4]), (one, two), papers)


def _find(identifier: str) -> tuple[str, list[str]]:
    """Return where a corpus is, and the patterns of its two files' names."""
    handlers, level = logging.root.handlers[:], logging.root.level
    try:
        from mtdata.entry import DatasetId
        from mtdata.index import Index
        from mtdata.index.opus import opus_index
    except ImportError as error:
        raise not_installed(f"opus:{identifier}", "mtdata", "opus") from error
    finally:  # it sets up logging for the whole process
        logging.root.handlers[:], logging.root.level = handlers, level
    index = Index()  # not its get_instance(): that keeps a pickle, and runs files of the working directory
    opus_index.load_all(index)
    try:
        entry = index[DatasetId.parse(identifier)]
    except KeyError as error:
        fix = "Ask 'mtdata list -l LANGUAGE-LANGUAGE' for identifiers that begin with OPUS"
        raise DataError(f"opus:{identifier}", "mtdata's list has no such corpus", fix) from error
    return str(entry.url), [str(pattern) for pattern in entry.in_paths]


def _download(identifier: str, address: str, path: Path) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        with _answer(address, part) as answer, bar("MiB") as progress:
            goes_on = answer.status_code == requests.codes.partial_content  # if not, the server began anew
            done = part.stat().st_size if goes_on else 0
            if not goes_on:
                part.unlink(missing_ok=True)  # before another version is noted for it
                write_atomically(_version_of(part), _version(answer))
            total = done + int(answer.headers.get("Content-Length", 0))
            room = done + shutil.disk_usage(path.parent).free
            task = progress.add_task(f"fetching {identifier}", total=total / 2**20 or None)
            with part.open("ab") as file:
                for block in answer.iter_content(_BLOCK):
                    done += len(block)
                    if max(done, total) > room:
                        part.unlink()
                        _version_of(part).unlink(missing_ok=True)
                        found = f"is larger than the {room / 2**30:.1f} GiB that are free in {path.parent}"
                        raise DataError(f"opus:{identifier}", found, "Free disk space there, or choose a smaller one")
                    file.write(block)
                    progress.update(task, completed=done / 2**20)
                file.flush()
                os.fsync(file.fileno())
    except requests.RequestException as error:
        status = getattr(error.response, "status_code", None)
        raise RunError(
            f"opus:{identifier}",
            f"cannot be fetched ({type(error).__name__}{f', status {status}' if status else ''})",
            "Connect to the network and run the same command again: it goes on where it was",
        ) from error
    part.replace(path)
    _version_of(part).unlink(missing_ok=True)


@contextmanager
def _answer(address: str, part: Path) -> Iterator[requests.Response]:
    """Ask for a file, or for what is lacking of it; anew if there is no more of it, or if it is another one by now."""
    done = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={done}-"} if done else {}
    version = _version_of(part)
    if done and version.exists() and (known := version.read_text(encoding="utf-8")):
        headers["If-Range"] = known
    with requests.get(address, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS) as answer:
        if not (done and answer.status_code == requests.codes.requested_range_not_satisfiable):
            answer.raise_for_status()
            yield answer
            return
    part.unlink()
    with _answer(address, part) as whole:
        yield whole


def _version_of(part: Path) -> Path:
    """Return the file that says of which version of a corpus a part is."""
    return part.with_name(f"{part.name}-version")


def _version(answer: requests.Response) -> str:
    """Return what a server tells versions of a file apart by; nothing if it may be the same for two."""
    tag = answer.headers.get("ETag", "")
    return answer.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
