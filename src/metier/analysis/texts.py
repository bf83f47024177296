"""The text a model is looked at with: files named by domain, language or task, cut into rows of token ids."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metier.data.archives import File
from metier.data.encodings import text_of
from metier.data.formats import read_csv, read_jsonl, read_tsv
from metier.data.tables import Row, position
from metier.errors import DataError
from metier.progress import track

_TABS = (".tsv", ".tab")
_JSON_LINES = (".jsonl", ".ndjson")
_CHARACTERS_A_TOKEN = 8
"""No more text is tokenized at once than this bound times the tokens still wanted."""


class Text(NamedTuple):
    """Text under one name: a domain, a language, a task."""

    name: str
    rows: list[NDArray[np.int32]]
    """Token ids; every row has the full length but perhaps the last."""

    @property
    def tokens(self) -> int:
        """Number of tokens in all rows, begin marks included."""
        return sum(len(row) for row in self.rows)


class Named(NamedTuple):
    """One file of text, as it was named on the command line."""

    name: str
    path: Path
    column: str | None


def named(argument: str) -> Named:
    """Read ``FILE``, ``NAME=FILE`` or ``NAME=FILE#COLUMN``; without a name, the file's is taken.

    A column of a table is a number from 1 or a name, of JSON lines a key.
    """
    name, equals, file = argument.partition("=")
    if not equals or Path(argument).is_file():
        name, file = "", argument
    column = None
    if not Path(file).is_file() and "#" in file:
        file, _, column = file.rpartition("#")
    return Named(name.strip() or Path(file).stem, Path(file), column or None)


def read_texts(files: Sequence[Named], tokenizer: Any, row_tokens: int, max_tokens: int) -> list[Text]:
    """Tokenize files into rows; files of one name are put together.

    Every row begins with the tokenizer's begin mark, if it has one; a document (a whole plain file, or a row of a
    table or of JSON lines) ends with its end mark, if it has one, and the next follows in the same row.

    Args:
        files: what to read, in order.
        tokenizer: a tokenizer of ``transformers``.
        row_tokens: length of a row, begin mark included.
        max_tokens: most tokens taken under one name.

    Raises:
        DataError: when a file cannot be read, is not UTF-8, or holds no text.
    """
    by_name: dict[str, list[Named]] = {}
    for file in files:
        by_name.setdefault(file.name, []).append(file)
    texts = []
    for name, group in track(by_name.items(), "reading", len(by_name)):
        ids_N = _stream(group, tokenizer, max_tokens)
        if not len(ids_N):
            raise DataError(str(group[0].path), "the tokenizer finds nothing in it", "Name a file of text")
        texts.append(Text(name, _rows(ids_N, tokenizer.bos_token_id, row_tokens)))
    return texts


def _stream(files: Sequence[Named], tokenizer: Any, max_tokens: int) -> NDArray[np.int32]:
    """Return the token ids of the files' documents, one after the other, without begin marks."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ids: list[int] = []
    for file in files:
        for document in documents(file, _CHARACTERS_A_TOKEN * (max_tokens - len(ids))):
            head = document[: _CHARACTERS_A_TOKEN * (max_tokens - len(ids))]
            ids += tokenizer(head, add_special_tokens=False, verbose=False)["input_ids"] + end
            if len(ids) >= max_tokens:
                return np.array(ids[:max_tokens], np.int32)
    return np.array(ids, np.int32)


def _rows(ids_N: NDArray[np.int32], bos: int | None, row_tokens: int) -> list[NDArray[np.int32]]:
    begin = np.array([] if bos is None else [bos], np.int32)
    width = row_tokens - len(begin)
    return [np.concatenate([begin, ids_N[at : at + width]]) for at in range(0, len(ids_N), width)]


def documents(file: Named, most_characters: int = -1) -> Iterator[str]:
    """Yield the documents of a file: a plain file is one, a table and JSON lines hold one a row.

    Args:
        file: what to read; no more of it is read than is taken.
        most_characters: of a plain file; by default all.

    Raises:
        DataError: when the file cannot be read, is not UTF-8, holds no text, or lacks the column.
    """
    empty = True
    for document in _split(file, most_characters):
        if document.strip():
            empty = False
            yield document
    if empty:
        raise DataError(str(file.path), "holds no text", "Name a file with some thousand words of text")


@contextmanager
def _opened(file: Named) -> Iterator[io.TextIOBase]:
    try:
        with text_of(file.path, str(file.path), "utf-8", newline="\n") as text:
            yield text
    except DataError as error:
        if isinstance(error.__cause__, UnicodeDecodeError):
            raise DataError(error.where, error.found, "Save the file as UTF-8") from error
        if isinstance(error.__cause__, OSError):
            fix = "Name a text file you may read: --data NAME=FILE"
            raise DataError(error.where, error.found.lower(), fix) from error
        raise


def _split(file: Named, most_characters: int) -> Iterator[str]:
    suffix, name = file.path.suffix.lower(), str(file.path)
    if suffix == ".csv":
        yield from _of_table(file, read_csv(File(file.path, name), "utf-8"), ",")
        return
    with _opened(file) as text:
        lines = (line.removesuffix("\n").removesuffix("\r") for line in text)
        if suffix in _JSON_LINES:
            yield from _of_json_lines(file, read_jsonl(name, lines))
        elif suffix in _TABS:
            yield from _of_table(file, read_tsv(lines), "\t")
        elif file.column:
            raise DataError(name, "plain text has no columns", "Write --data NAME=FILE without '#'")
        else:
            yield text.read(most_characters)


def _of_json_lines(file: Named, rows: Iterator[Row]) -> Iterator[str]:
    key = file.column or "text"
    for number, row in rows:
        if isinstance(row, str) and not file.column:
            yield row
        elif isinstance(row, dict) and isinstance(row.get(key), str):
            yield row[key]
        elif row != []:  # a blank line
            seen = f"keys {', '.join(map(str, list(row)[:20]))}" if isinstance(row, dict) else type(row).__name__
            where = f"{file.path}, line {number}"
            raise DataError(where, f"has no text under {key!r} ({seen})", "Name the key: --data NAME=FILE#KEY")


def _of_table(file: Named, rows: Iterator[Row], delimiter: str) -> Iterator[str]:
    place = None
    if file.column is not None:
        numbered = file.column.isdigit() and int(file.column) > 0
        titles: list[str] | None = None if numbered else next(rows, (1, []))[1]  # the first row is then no text
        place = position(str(file.path), int(file.column) if numbered else file.column, titles)
    for line, cells in rows:
        if place is None:
            yield delimiter.join(cells)
        elif place < len(cells):
            yield cells[place]
        elif any(cells):
            found = f"has {len(cells)} columns"
            raise DataError(f"{file.path}, line {line}", found, "Name a column that every row has")
