"""Text from bytes: a wrong encoding is an error that names the line, and the encoding it more likely has."""

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from metier.errors import DataError

_LIKELY = ("utf-8", "shift_jis", "euc_jp", "cp1252")
_BLOCK = 1 << 16


@contextmanager
def text_of(path: Path, name: str, encoding: str, *, newline: str) -> Iterator[io.TextIOBase]:
    """Open a file as text; a byte order mark is dropped.

    Args:
        path: the file.
        name: what messages call it.
        encoding: of the text.
        newline: as for `open`.

    Raises:
        DataError: at the first byte that is not of the encoding, also while reading; when a byte order mark is lacking;
            when there is no such encoding; or when the file cannot be read.
    """
    try:
        with path.open(encoding=_without_mark(encoding), newline=newline) as text:
            yield text
    except UnicodeDecodeError as error:
        raise _misread(path, name, encoding) from error
    except UnicodeError as error:
        raise _unmarked(name, encoding, error) from error
    except OSError as error:
        raise DataError(name, f"cannot be read ({error.strerror})", "Check its permissions") from error
    except LookupError as error:
        raise DataError(name, f"there is no text encoding {encoding!r}", 'Set encoding = "utf-8"') from error


def decode(name: str, content: bytes, encoding: str) -> str:
    """Return a file's text; a byte order mark is dropped.

    Raises:
        DataError: at the first byte that is not of the encoding, or when there is no such encoding.
    """
    try:
        return content.decode(_without_mark(encoding))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _wrong_encoding(name, line, error.start, encoding, content) from error
    except (LookupError, ValueError) as error:
        raise DataError(name, f"there is no text encoding {encoding!r}", 'Set encoding = "utf-8"') from error


def _without_mark(encoding: str) -> str:
    return "utf-8-sig" if encoding.lower() in {"utf-8", "utf8"} else encoding


def likely_encoding(path: Path) -> str:
    """Return UTF-8 where a file is that, else the encoding that it more likely has, if one is."""
    fault = _fault(path, "utf-8")
    return "utf-8" if fault is None else _likely_encoding(fault.sample) or "utf-8"


class _Fault(NamedTuple):
    """The first byte of a file that is not of an encoding."""

    line: int
    byte: int
    sample: bytes
    """What is around it."""


def _misread(path: Path, name: str, encoding: str) -> DataError:
    """Return the error that names the place: the reader knows it only within the block it was at."""
    try:
        fault = _fault(path, encoding)
    except UnicodeError as error:
        return _unmarked(name, encoding, error)
    assert fault  # it was met before
    return _wrong_encoding(name, fault.line, fault.byte, encoding, fault.sample)


def _fault(path: Path, encoding: str) -> _Fault | None:
    """Return the first byte of a file that is not of an encoding; raises UnicodeError as its decoder does."""
    decoder = codecs.getincrementaldecoder(_without_mark(encoding))()
    lines, done, before = 1, 0, b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            try:
                decoder.decode(block)
            except UnicodeDecodeError as found:
                inside = max(len(block) - len(found.object) + found.start, 0)
                around = before + block + file.read(_BLOCK)
                sample = around if done == len(before) else around.partition(b"\n")[2]
                return _Fault(lines + block.count(b"\n", 0, inside), done + inside, sample)
            lines += block.count(b"\n")
            done, before = done + len(block), block
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return _Fault(lines, done, before)  # it ends within a character
    return None


def _unmarked(name: str, encoding: str, error: UnicodeError) -> DataError:
    """Return the error for text of two or four bytes a character that does not say in which order they come."""
    bits = 32 if "32" in encoding else 16
    return DataError(name, f"is not {encoding} text ({error})", f'Set encoding = "utf-{bits}-le" or "utf-{bits}-be"')


def _wrong_encoding(name: str, line: int, byte: int, encoding: str, sample: bytes) -> DataError:
    likely = _likely_encoding(sample)
    fix = f'Set encoding = "{likely}"' if likely else "Set encoding to the file's own"
    return DataError(f"{name}, line {line}", f"byte {byte} is not {encoding} text", fix)


def _likely_encoding(sample: bytes) -> str | None:
    if sample.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    for encoding in _LIKELY:
        try:
            codecs.getincrementaldecoder(encoding)().decode(sample)
        except UnicodeDecodeError:
            continue
        return encoding
    return None
