"""How much text local sources hold, told from the first rows of each: for a plan, before any is read."""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from metier.data.archives import File
from metier.data.formats import layout_of, parse
from metier.errors import DataError
from metier.spec.data import AnySource, TextSource

HEAD_BYTES = 1 << 18
"""So much of a file with columns is looked at."""

_PLAIN, _IN_COLUMNS = ("moses", "paragraphs", "lines"), ("csv", "tsv", "jsonl")


def text_bytes(sources: Iterable[AnySource]) -> int | None:
    """Return roughly how many bytes of text the sources have; None when that of one cannot be told from its size.

    That is so of what is not local, is not there or cannot be read, and of layouts with marks or compression. Rows that
    cleaning will leave out are counted, too.
    """
    total = 0
    for source in sources:
        try:
            found = _bytes_of(source)
        except (DataError, OSError):  # the data step says what is wrong
            return None
        if found is None:
            return None
        total += found
    return total


def _bytes_of(source: AnySource) -> int | None:
    files = [Path(name) for name in source.local_names()]
    if not files:
        return None
    size, layout = sum(file.stat().st_size for file in files), layout_of(source, files[0].name, len(files))
    if layout in _PLAIN:
        return size
    return round(size * _share(source, files[0])) if layout in _IN_COLUMNS else None


def _share(source: AnySource, path: Path) -> float:
    """Return how much of a file's first rows is in the columns that are learned from."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        if file.read(1):
            head = head[: head.rfind(b"\n") + 1] or head
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "head"
        copy.write_bytes(head)
        return _learned_bytes(source, File(copy, path.name)) / max(len(head), 1)


def _learned_bytes(source: AnySource, file: File) -> int:
    sides = 1 if isinstance(source, TextSource) else 2  # of plain text both are the same
    found = 0
    try:
        for pair in parse(source, [[file]]):
            found += sum(len(text.encode("utf-8", "replace")) for text in pair[:sides])
    except DataError:
        if not found:
            raise
    return found
