"""The ledger: for every source, where it came from, under what licence, and what became of its rows."""

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from metier.artifact import write_atomically, write_json
from metier.data.debian import Copyright
from metier.data.licences import find_licence, from_debian, may_ship
from metier.progress import say

FORMAT = 1

LICENCES = "licences"
"""Folder beside the ledger: what packages say of their licences, word for word."""

PARTS = ("train", "validation", "test")

Role = Literal["train", "test", "text", "facts"]


@dataclass
class Entry:
    """One source: ``rows_read`` is the sum of ``kept`` (by part) and ``removed`` (by reason)."""

    name: str
    role: Role
    reference: str
    origin: str
    sha256: str
    licence: str
    attribution: str
    rows_read: int
    removed: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    exam: bool = True
    """Whether exam rows are drawn from it."""
    papers: list[dict[str, Any]] = field(default_factory=list)
    """What its packages say of their licences: package, version, file, licences and the whole text."""

    def to_json(self) -> dict[str, Any]:
        """Return the entry as it stands in ``ledger.json``."""
        return {
            "name": self.name,
            "role": self.role,
            "reference": self.reference,
            "origin": self.origin,
            "sha256": self.sha256,
            "licence": self.licence,
            "attribution": self.attribution,
            "rows": {"read": self.rows_read, **{part: self.kept[part] for part in PARTS}},
            "removed": dict(self.removed),
            **({"papers": self.papers} if self.papers else {}),
        }


class Ledger:
    """The entries of all sources of a job, found by their names."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def free_name(self, wanted: str) -> str:
        """Return the name, numbered if another source has it."""
        return free_name(wanted, self.entries)

    def add(self, entry: Entry) -> None:
        """Add a source."""
        self.entries[entry.name] = entry

    def remove(self, counts: Mapping[str, int], reason: str) -> None:
        """Count rows, given how many of each source, as removed for a reason."""
        for source, count in counts.items():
            if count:
                self.entries[source].removed[reason] += count

    def keep(self, counts: Mapping[str, int], part: str) -> None:
        """Count rows, given how many of each source, as kept in a part."""
        for source, count in counts.items():
            self.entries[source].kept[part] += count

    def write(self, path: Path) -> None:
        """Write the ledger as JSON, atomically."""
        entries = [entry.to_json() for entry in self.entries.values()]
        write_json(path, {"format": FORMAT, "sources": entries})


def free_name(wanted: str, taken: Container[str]) -> str:
    """Return a source's name, numbered if it is taken."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted} ({number})"
    return name


def keep_paper(paper: Copyright, source: str, licence: str, folder: Path) -> dict[str, Any]:
    """Store what a package says of its licences, and say so if the job says something else."""
    file = folder / LICENCES / f"{paper.package}_{paper.version.replace(':', '%3a')}.txt"
    write_atomically(file, paper.text)
    known = {find_licence(from_debian(name)) for name in paper.licences}
    if known and find_licence(licence) not in known:
        stated = ", ".join(paper.licences)
        say(f"{source}: its own copyright file states {stated}, the job states {licence}: read {file}")
    return {**paper._asdict(), "file": f"{LICENCES}/{file.name}"}


def with_base(ledger: Mapping[str, Any], base: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a written ledger with the base's facts and the answer to "may this model be shipped?".

    The answer heeds the base's weights and what was learned from; the text of a test source is in no model.

    Args:
        ledger: what `Ledger.write` wrote.
        base: the base's facts, ``licence`` among them; None for a model from scratch.
    """
    licences = [str(source["licence"]) for source in ledger["sources"] if source["role"] != "test"]
    if base is not None:
        licences.append(str(base["licence"]))
    return {**ledger, "base": base, "shipping": may_ship(licences)._asdict()}
