"""Read what a GGUF file says about itself, and whether it is whole, without reading its tensors.

Layout: the GGUF specification, version 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Nothing in
a file is believed before it is checked: a count or a length may be anything in a damaged or hostile file.
"""

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from metier.errors import ArtifactError

Value = str | int | float | bool | None

_SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_STRING, _ARRAY = 8, 9
_U32, _U64 = _SCALARS[4], _SCALARS[10]

# fmt: off
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110),
    22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8),
    29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
}
# fmt: on
"""ggml's tensor types: (weights in a block, bytes of a block), from F32 (0) to MXFP4 (39)."""

# Above these a file is no model; below them reading takes at most a few seconds.
_MAX_COUNT = 1 << 16
_MAX_ARRAY_STRINGS = 1 << 22
_MAX_STRING_BYTES = 1 << 24

_FETCH_AGAIN = "Fetch or build the file again"
_NOT_GGUF = "Give a model in GGUF format: a .gguf file"


@dataclass(frozen=True)
class Header:
    """What a GGUF file says about itself."""

    metadata: dict[str, Value]
    """The key-values; an array (such as the vocabulary) is None here."""
    array_lengths: dict[str, int]
    """How many elements each array of the key-values has."""
    array_starts: dict[str, int]
    """The byte at which each array begins, its type and length in front."""
    shapes: dict[str, tuple[int, ...]]
    """The tensors by name; as in numpy, the width of a row comes last."""
    stored: dict[str, tuple[int, int]]
    """Of each tensor ggml's number of its type, and the byte at which it begins."""


def read_header(path: Path) -> Header:
    """Read the key-values of a GGUF file and check that the file is as long as its tensors claim.

    Raises:
        ArtifactError: when the file is missing, is no GGUF file, is cut short or makes no sense.
    """
    if not path.is_file():
        raise ArtifactError(str(path), "is not a file", _NOT_GGUF)
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ArtifactError(str(path), "is not a GGUF file", _NOT_GGUF)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _header(_Cursor(path, data))
    except OSError as error:
        found = f"cannot be read ({error.strerror or error})"
        raise ArtifactError(str(path), found, _NOT_GGUF) from error


def read_array(path: Path, header: Header, key: str) -> list[Any]:
    """Return an array of the key-values, such as the vocabulary.

    Args:
        path: the file.
        header: what `read_header` found in it.
        key: one of ``header.array_lengths``.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Cursor(path, data, header.array_starts[key]).array()


class _Cursor:
    """A place in a file from which values are read one after the other."""

    def __init__(self, path: Path, data: mmap.mmap, at: int = 4) -> None:
        self.path, self._data, self.at = path, data, at
        self.size, self._strings_skipped = len(data), 0

    def wrong(self, found: str) -> ArtifactError:
        return ArtifactError(str(self.path), found, _FETCH_AGAIN)

    def skip(self, size: int) -> int:
        """Go on by some bytes; return where they started."""
        start = self.at
        if size > self.size - start:
            raise self.wrong(f"is cut short: its header goes on behind its {self.size:,} bytes")
        self.at = start + size
        return start

    def scalar(self, kind: struct.Struct) -> int | float | bool:
        value: int | float | bool
        (value,) = kind.unpack_from(self._data, self.skip(kind.size))
        return value

    def count(self, kind: struct.Struct, what: str, most: int) -> int:
        count = int(self.scalar(kind))
        if count > most:
            raise self.wrong(f"is damaged: it claims {count:,} {what}")
        return count

    def string(self) -> str:
        size = self.count(_U64, "bytes of one text", _MAX_STRING_BYTES)
        start = self.skip(size)
        return self._data[start : start + size].decode("utf-8", errors="replace")

    def array(self) -> list[Any]:
        """Return an array that `skip_array` has found to be sound."""
        kind, length = int(self.scalar(_U32)), int(self.scalar(_U64))
        if kind == _STRING:
            return [self.string() for _ in range(length)]
        scalar = _SCALARS[kind]
        start = self.skip(length * scalar.size)
        return [value for (value,) in scalar.iter_unpack(self._data[start : self.at])]

    def skip_array(self) -> int:
        """Go behind an array; return its length."""
        kind = self.count(_U32, "as type of a value", max(_SCALARS))
        length = int(self.scalar(_U64))
        if kind in _SCALARS:
            self.skip(length * _SCALARS[kind].size)
        elif kind == _STRING:
            self._strings_skipped += length
            if self._strings_skipped > _MAX_ARRAY_STRINGS:
                raise self.wrong(f"is damaged: it claims an array of {length:,} texts")
            self._skip_strings(length)
        else:
            raise self.wrong(f"is damaged: an array holds values of the unknown type {kind}")
        return length

    def _skip_strings(self, length: int) -> None:
        # A vocabulary of 262,144 pieces passes here: the loop is kept bare.
        unpack, data, at, last = _U64.unpack_from, self._data, self.at, self.size - 8
        for _ in range(length):
            if at > last:
                break
            at += 8 + unpack(data, at)[0]
        else:
            self.skip(at - self.at)
            return
        self.skip(self.size)

    def align(self, alignment: int) -> int:
        """Return the next place that is a multiple of the alignment."""
        return -(-self.at // alignment) * alignment


def _header(cursor: _Cursor) -> Header:
    version = int(cursor.scalar(_U32))
    if version not in (2, 3):
        found = f"is written in GGUF version {version}; versions 2 and 3 can be read"
        raise ArtifactError(str(cursor.path), found, "Convert the model again with a current llama.cpp")
    tensors = cursor.count(_U64, "tensors", _MAX_COUNT)
    keys = cursor.count(_U64, "keys", _MAX_COUNT)
    metadata: dict[str, Value] = {}
    array_lengths: dict[str, int] = {}
    array_starts: dict[str, int] = {}
    for _ in range(keys):
        key = cursor.string()
        kind = int(cursor.scalar(_U32))
        if key in metadata:
            raise cursor.wrong(f"is damaged: it has the key {key!r:.80} twice")
        metadata[key] = None
        if kind in _SCALARS:
            metadata[key] = cursor.scalar(_SCALARS[kind])
        elif kind == _STRING:
            metadata[key] = cursor.string()
        elif kind == _ARRAY:
            array_starts[key] = cursor.at
            array_lengths[key] = cursor.skip_array()
        else:
            raise cursor.wrong(f"is damaged: the key {key!r:.80} has a value of the unknown type {kind}")
    shapes, stored = _checked_tensors(cursor, tensors, metadata.get("general.alignment", 32))
    return Header(metadata, array_lengths, array_starts, shapes, stored)


def _checked_tensors(
    cursor: _Cursor, tensors: int, alignment: Value
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, int]]]:
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise cursor.wrong(f"is damaged: its tensors are aligned to {alignment!r:.80} bytes")
    data_bytes = 0
    shapes: dict[str, tuple[int, ...]] = {}
    offsets: dict[str, tuple[int, int]] = {}
    for _ in range(tensors):
        name = cursor.string()
        shape = [int(cursor.scalar(_U64)) for _ in range(cursor.count(_U32, "dimensions of a tensor", 8))]
        kind, offset = int(cursor.scalar(_U32)), int(cursor.scalar(_U64))
        # A type that is newer than this table is left to llama.cpp: its tensor counts as empty.
        weights, size = _BLOCKS.get(kind, (1, 0))
        if shape and shape[0] % weights:
            raise cursor.wrong(f"is damaged: a row of tensor {name!r:.80} has {shape[0]:,} weights")
        data_bytes = max(data_bytes, offset + prod(shape) // weights * size)
        if name in shapes:
            raise cursor.wrong(f"is damaged: it has the tensor {name!r:.80} twice")
        shapes[name] = tuple(reversed(shape))
        offsets[name] = kind, offset
    first = cursor.align(alignment)
    needed = first + data_bytes if tensors else 0
    if needed > cursor.size:
        raise cursor.wrong(
            f"is cut short: it has {cursor.size:,} of at least {needed:,} bytes (a download that did not end?)"
        )
    return shapes, {name: (kind, first + offset) for name, (kind, offset) in offsets.items()}
