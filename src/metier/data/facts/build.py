"""Write the fact store: all sources read, merged, and put into one SQLite file, whole or not at all."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metier.artifact import key_of
from metier.data.facts.found import Left
from metier.data.facts.merge import Merged, merge
from metier.data.facts.opened import Opened, open_facts, read_facts
from metier.data.ledger import free_name
from metier.data.scratch_folders import scratch_folder
from metier.errors import DataError, RunError
from metier.facts import names
from metier.facts.store import APPLICATION, FORMAT, TABLES, number, open_store
from metier.spec.facts import FactSource

READERS = 4
"""Version of the readers; raised when the same files are read into other facts."""


@dataclass(frozen=True)
class Built:
    """What a store holds, and what was left out."""

    key: str
    facts: dict[str, dict[str, int]]
    """By source and relation."""
    disputed: int
    subjects: int
    left: dict[str, dict[str, int]]
    """By source and reason."""
    examples: dict[str, dict[str, str]]
    """By source and reason the first line left out, with its place."""
    read: dict[str, Opened] = field(default_factory=dict)
    """By source what was read; its files are gone."""
    unsure: dict[str, set[str]] = field(default_factory=dict)
    """By the key of a name the relations of which a source says something that was left out."""

    @property
    def total(self) -> int:
        """The number of facts."""
        return sum(sum(counts.values()) for counts in self.facts.values())

    def to_json(self) -> dict[str, Any]:
        """Return the counts for a manifest."""
        counts = {**vars(self), "total": self.total}
        del counts["read"], counts["unsure"]
        return counts


def build_store(sources: Sequence[FactSource], path: Path, key: str | None = None) -> Built:
    """Read sources of facts and write their store.

    The same sources and key give the same bytes.

    Args:
        sources: in the order in which they are to be believed to know who is who.
        path: of the store; one that is there is replaced when the new one is whole.
        key: of the build, which `metier.facts.store.open_store` asks for; by default a hash of all that was read.

    Raises:
        DataError: when a source is missing, damaged, or not what was described, or when no fact is left.
        RunError: when the network or the disk refuses.
    """
    with ExitStack() as stack:
        opened: dict[str, Opened] = {}
        described: dict[str, FactSource] = {}
        for source in sources:
            one = stack.enter_context(open_facts(source))
            name = free_name(one.name, opened)
            opened[name], described[name] = one, source
        key = key or _key(described, opened)
        merged = merge((name, read_facts(described[name], one)) for name, one in opened.items())
        if not merged.subjects:
            why = "; ".join(f"{name}: {dict(left)}" for name, left in merged.left.items()) or "no source has any"
            raise DataError(str(path), f"no facts are left ({why})", "Look at the first lines of the sources")
        with _written(path) as connection:
            _write(connection, key, opened, described, merged)
    return _counted(path, key, opened, merged)


def _key(described: dict[str, FactSource], opened: dict[str, Opened]) -> str:
    """Return a hash of all that is read, wherever it lies."""
    settings = {name: {k: v for k, v in one.identity.items() if k != "source"} for name, one in described.items()}
    read = [[settings[name], opened[name].sha256] for name in described]
    return key_of({"readers": READERS, "format": FORMAT, "sources": read})


def _counted(path: Path, key: str, sources: dict[str, Opened], merged: Merged) -> Built:
    counts: dict[str, dict[str, int]] = {name: {} for name in sources}
    with open_store(path, key) as store:
        for (name, relation), count in store.counts().items():
            counts[name][relation] = count
    return Built(
        key,
        counts,
        sum(fact.disputed for subject in merged.subjects for fact in subject.facts),
        len(merged.subjects),
        {name: dict(merged.left[name].most_common()) for name in sources},
        {name: {reason: _shown(left) for reason, left in merged.examples[name].items()} for name in sources},
        {name: one._replace(files=[]) for name, one in sources.items()},
        dict(merged.unsure),
    )


def _shown(left: Left) -> str:
    return f"{left.line.place}: {left.line.text[:200]}".encode("utf-8", "replace").decode()


@contextmanager
def _written(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a new store that takes its place, whole, when the context ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(path.parent, f".{path.name}-") as scratch:
        part = scratch / "store"
        try:
            with closing(sqlite3.connect(part)) as connection:
                connection.execute("PRAGMA journal_mode = OFF")
                connection.execute("PRAGMA synchronous = OFF")
                yield connection
                connection.commit()
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.chmod(0o644)
            part.replace(path)
        except (OSError, sqlite3.OperationalError) as error:
            raise RunError(str(path), f"cannot be written ({error})", "Free space on the disk") from error


def _write(
    connection: sqlite3.Connection,
    key: str,
    opened: dict[str, Opened],
    described: dict[str, FactSource],
    merged: Merged,
) -> None:
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    connection.executescript(TABLES)
    connection.execute("INSERT INTO about VALUES ('key', ?)", (key,))
    ids = {name: at for at, name in enumerate(opened, 1)}
    for name, one in opened.items():
        source = described[name]
        row = (ids[name], name, one.reference, one.origin, one.sha256, source.licence, source.attribution)
        connection.execute("INSERT INTO sources VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    lines: dict[tuple[str, str, str], int] = {}
    facts = 0
    for at, subject in enumerate(merged.subjects, 1):
        connection.execute("INSERT INTO subjects VALUES (?, ?, ?)", (at, subject.shown, subject.kind))
        spelt = {names.key(name): name for name in reversed(subject.names)}
        connection.executemany("INSERT INTO names VALUES (?, ?, ?)", ((k, at, name) for k, name in spelt.items()))
        for kept in subject.facts:
            facts += 1
            found = kept.found
            line = (kept.source, found.line.place, found.line.text)
            if line not in lines:
                lines[line] = len(lines) + 1
                connection.execute("INSERT INTO lines VALUES (?, ?, ?, ?)", (lines[line], ids[line[0]], *line[1:]))
            date = found.date
            connection.execute(
                "INSERT INTO facts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(facts, at, found.relation, found.value, str(date) if date else None),
                    *((number(date.first), number(date.last)) if date else (None, None)),
                    *(lines[line], kept.disputed),
                ),
            )
            connection.execute(
                "INSERT INTO search (rowid, subject, names, relation, value, line) VALUES (?, ?, ?, ?, ?, ?)",
                (facts, subject.shown, " ".join(subject.names), found.relation, found.value, found.line.text),
            )
    connection.execute("INSERT INTO search (search) VALUES ('optimize')")
    connection.commit()
    connection.execute("VACUUM")
