"""The fact store: an SQLite file beside the model, opened for reading, asked by name or by words.

A store says who made it: SQLite's ``application_id`` and ``user_version`` hold our mark and the version of the tables,
and the table ``about`` the key of the build. It is written whole or not at all (`metier.data.facts.build`), so that one
that is cut short was cut on its way here.
"""

import re
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from metier.errors import ArtifactError, RunError
from metier.facts import dates, names
from metier.facts.fact import Fact, Kind, Origin

APPLICATION = 0x6D746661
FORMAT = 1
"""Version of the tables; raised when an older store can no longer be read."""

TABLES = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE sources (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, reference TEXT NOT NULL, origin TEXT NOT NULL,
    sha256 TEXT NOT NULL, licence TEXT NOT NULL, attribution TEXT NOT NULL);
CREATE TABLE lines (id INTEGER PRIMARY KEY, source INTEGER NOT NULL REFERENCES sources, place TEXT NOT NULL,
    text TEXT NOT NULL);
CREATE TABLE subjects (id INTEGER PRIMARY KEY, shown TEXT NOT NULL, kind TEXT NOT NULL);
CREATE TABLE names (key TEXT NOT NULL, subject INTEGER NOT NULL REFERENCES subjects, name TEXT NOT NULL,
    PRIMARY KEY (key, subject)) WITHOUT ROWID;
CREATE TABLE facts (id INTEGER PRIMARY KEY, subject INTEGER NOT NULL REFERENCES subjects, relation TEXT NOT NULL,
    value TEXT NOT NULL, date TEXT, first INTEGER, last INTEGER, line INTEGER NOT NULL REFERENCES lines,
    disputed INTEGER NOT NULL);
CREATE INDEX facts_of ON facts (subject, relation);
CREATE INDEX facts_when ON facts (first, last);
CREATE VIRTUAL TABLE search USING fts5 (subject, names, relation, value, line, content='',
    tokenize="unicode61 remove_diacritics 2");
"""

_FACTS = """
SELECT subjects.shown, facts.relation, facts.value, facts.date, lines.text, lines.place, facts.disputed,
    sources.name, sources.reference, sources.licence, sources.attribution
FROM facts JOIN subjects ON subjects.id = facts.subject JOIN lines ON lines.id = facts.line
    JOIN sources ON sources.id = lines.source
"""
_WORD = re.compile(r"[^\W_]+")
_LETTERS = re.compile(r"[^\W\d_]{4,}")
_MOST_WORDS = 50
_MOST_GIVEN = 900
# SQLite's bound for the values of one query was 999 for long.
_WAIT_SECONDS = 2.0
_MEND = "Build the job again, or copy its folder again"


class Entry(NamedTuple):
    """A subject of a store."""

    subject: str
    """As `Fact.subject` has it."""
    kind: Kind
    names: tuple[str, ...]


class Store:
    """A fact store, opened by `open_store`; close it, or use it in a ``with``. Safe to use from several threads."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.Lock()
        self._longest: int | None = None
        self._names: dict[str, list[str]] | None = None
        self._marked: str | None = None
        self._words: dict[int, list[str]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @property
    def key(self) -> str:
        """The key of the build that wrote the store."""
        return str(self._rows("SELECT value FROM about WHERE key = 'key'")[0][0])

    def __len__(self) -> int:
        return int(self._rows("SELECT count(*) FROM facts")[0][0])

    def about(self, name: str) -> list[Fact]:
        """Return the facts of all subjects that have a name, in any way to write it.

        Values of different sources stand side by side; one that another contradicts is marked. Raises ArtifactError or
        RunError, as `open_store`.

        Args:
            name: such as "Sir Isaac Newton", "newton", or "David (French neoclassical painter)".
        """
        bare, _, hint = name.partition(" (")
        known = "facts.subject IN (SELECT subject FROM names WHERE key IN (?, ?))"
        found = self._facts(f"WHERE {known} ORDER BY facts.id", names.key(name), names.key(bare))
        exactly = [fact for fact in found if names.key(fact.subject) == names.key(name)]
        return exactly if hint and exactly else found

    def names(self, subject: str) -> list[str]:
        """Return all names of a subject, given as `Fact.subject` has it. Raises as `open_store`."""
        if self._names is None:  # the file has no index of what is shown
            found: dict[str, set[str]] = defaultdict(set)
            for entry in self.subjects():
                found[entry.subject].update(entry.names)
            self._names = {shown: sorted(called) for shown, called in found.items()}
        return list(self._names.get(subject, ()))

    def spells(self, word: str) -> bool:
        """Return whether some name or value has a word with these accents and marks, in capitals or not.

        Raises as `open_store`.
        """
        if self._marked is None:
            rows = self._rows("SELECT name FROM names UNION SELECT value FROM facts")
            self._marked = "\n".join(text.casefold() for (text,) in rows if not text.isascii())
        return re.search(rf"(?<!\w){re.escape(word.casefold())}(?!\w)", self._marked) is not None

    def has_word(self, word: str) -> bool:
        """Return whether a name, value or line has a word, whatever its capitals and accents. Raises as `open_store`.

        Args:
            word: letters alone.
        """
        return bool(self._rows("SELECT rowid FROM search WHERE search MATCH ? LIMIT 1", f'"{word}"'))

    def words_of_names(self, letters: int) -> list[str]:
        """Return the different words of all names that have so many letters, as written. Raises as `open_store`."""
        if self._words is None:
            written = {word for (name,) in self._rows("SELECT name FROM names") for word in _LETTERS.findall(name)}
            words: dict[int, list[str]] = {}
            for word in sorted(written):
                words.setdefault(len(word), []).append(word)
            self._words = words
        return self._words.get(letters, [])

    def known(self, keys: Iterable[str]) -> dict[str, list[int]]:
        """Return the numbers of the subjects that have a name, of those names that there are.

        Args:
            keys: of names, as `metier.facts.names.key` makes them. Raises as `open_store`.
        """
        found: dict[str, list[int]] = defaultdict(list)
        wanted = list(dict.fromkeys(keys))
        for start in range(0, len(wanted), _MOST_GIVEN):
            part = wanted[start : start + _MOST_GIVEN]
            query = f"SELECT key, subject FROM names WHERE key IN ({','.join('?' * len(part))})"  # noqa: S608
            for key, subject in self._rows(query, *part):
                found[key].append(subject)
        return dict(found)

    def of(self, subject: int) -> list[Fact]:
        """Return the facts of the subject of a number that `known` gave. Raises as `open_store`."""
        return self._facts("WHERE facts.subject = ? ORDER BY facts.id", subject)

    def longest_name(self) -> int:
        """Return how many words the longest name has. Raises as `open_store`."""
        if self._longest is None:
            (most,) = self._rows("SELECT max(length(key) - length(replace(key, ' ', ''))) FROM names")[0]
            self._longest = 0 if most is None else int(most) + 1
        return self._longest

    def subjects(self) -> list[Entry]:
        """Return all subjects, in the order they were read in. Raises as `open_store`."""
        rows = self._rows(
            "SELECT id, shown, kind, name FROM subjects JOIN names ON names.subject = id ORDER BY id, names.key"
        )
        found: dict[int, Entry] = {}
        for number, shown, kind, name in rows:
            entry = found.get(number, Entry(shown, kind, ()))
            found[number] = entry._replace(names=(*entry.names, name))
        return list(found.values())

    def search(self, text: str, most: int = 10) -> list[Fact]:
        """Return the facts that share most words with a text, best first: rare words count more, names most.

        Any text will do: marks are not read as search operators. Raises ArtifactError or RunError, as `open_store`.
        """
        words = list(dict.fromkeys(_WORD.findall(text.lower())))
        asked = [word for word in words if word not in names.COMMON] or words
        if not asked:
            return []
        rows = self._rows(
            "SELECT rowid FROM search WHERE search MATCH ? ORDER BY bm25(search, 8, 4, 1, 2, 1), rowid LIMIT ?",
            " OR ".join(f'"{word}"' for word in asked[:_MOST_WORDS]),
            most,
        )
        return [fact for (number,) in rows for fact in self._facts("WHERE facts.id = ?", number)]

    def __iter__(self) -> Iterator[Fact]:
        """Yield all facts, in the order they were read in."""
        yield from self._facts("ORDER BY facts.id")

    def counts(self) -> dict[tuple[str, str], int]:
        """Return the number of facts by source and relation."""
        rows = self._rows(
            "SELECT sources.name, relation, count(*) FROM facts JOIN lines ON lines.id = facts.line "
            "JOIN sources ON sources.id = lines.source GROUP BY sources.id, relation ORDER BY sources.id, relation"
        )
        return {(source, relation): count for source, relation, count in rows}

    def _facts(self, where: str, *given: Any) -> list[Fact]:
        return [_fact(*row) for row in self._rows(_FACTS + where, *given)]

    def _rows(self, query: str, *given: Any) -> list[tuple[Any, ...]]:
        with self._lock, reported(self.path):
            return self._connection.execute(query, given).fetchall()


def _fact(
    shown: str, relation: str, value: str, date: str | None, line: str, place: str, disputed: int, *origin: str
) -> Fact:
    when = dates.parse(date) if date else None
    return Fact(shown, relation, value, when, line, place, Origin(*origin), bool(disputed))


def open_store(path: Path, key: str | None = None) -> Store:
    """Open a fact store for reading.

    Args:
        path: the file.
        key: of the build that the model is from; a store of another build is refused. None takes any.

    Raises:
        ArtifactError: when the store is missing, cut short, damaged, no fact store, of another version or build.
        RunError: when another program holds it locked, or it may not be read.
    """
    if not path.is_file():
        raise ArtifactError(str(path), "there is no fact store", _MEND)
    _check_length(path)
    with reported(path):
        address = f"{path.resolve().as_uri()}?mode=ro"
        connection = sqlite3.connect(address, uri=True, timeout=_WAIT_SECONDS, check_same_thread=False)
    try:
        _check(path, connection, key)
    except BaseException:
        connection.close()
        raise
    return Store(path, connection)


def number(day: dates.Day) -> int:
    """Return a day as a number of the same order: 19450508, or -439685 for 15 March 44 BC."""
    return day[0] * 10_000 + day[1] * 100 + day[2]


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            fix = "Close the program that writes to it, and ask again"
            raise RunError(str(path), "is locked by another program", fix) from error
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR):
            raise RunError(str(path), f"cannot be read ({error})", "Check its permissions and the disk") from error
        raise ArtifactError(str(path), f"is damaged or no fact store ({error})", _MEND) from error
    except sqlite3.DatabaseError as error:
        raise ArtifactError(str(path), f"is damaged or no fact store ({error})", _MEND) from error


def _check_length(path: Path) -> None:
    """Compare the length with what the header states: a file that was cut short can still answer some questions."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(100)
    except OSError as error:
        raise RunError(str(path), f"cannot be read ({error.strerror})", "Check its permissions") from error
    if not header.startswith(b"SQLite format 3\0"):
        raise ArtifactError(str(path), "is no fact store" if header else "is empty", _MEND)
    page = int.from_bytes(header[16:18], "big")
    stated = int.from_bytes(header[28:32], "big") * (65536 if page == 1 else page)
    if len(header) < 100 or size < stated:
        raise ArtifactError(str(path), f"is cut short: {size} bytes of {stated}", _MEND)


def _check(path: Path, connection: sqlite3.Connection, key: str | None) -> None:
    with reported(path):
        mark = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if mark != APPLICATION:
            raise ArtifactError(str(path), "is an SQLite file, but no fact store", _MEND)
        if version != FORMAT:
            raise ArtifactError(
                str(path),
                f"was written in format {version}, this metier reads format {FORMAT}",
                "Use the version of metier that wrote it, or build the job again",
            )
        found = connection.execute("SELECT value FROM about WHERE key = 'key'").fetchone()
        if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise ArtifactError(str(path), "is damaged", _MEND)
    if found is None or (key is not None and found[0] != key):
        raise ArtifactError(
            str(path),
            f"is from another build ({found[0] if found else 'unknown'}, the model's is {key})",
            "Use the store and the model of one build: copy the whole folder",
        )
