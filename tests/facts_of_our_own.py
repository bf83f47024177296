"""A table of made-up facts, and a job of questions about them."""

import csv
import random
from pathlib import Path

FIRST = ("Ada", "Odo", "Ivo", "Una", "Bela", "Cyra", "Dorin", "Esme", "Falk", "Gerda", "Hale", "Isolde")
LAST = ("Brook", "Wick", "Marl", "Tarn", "Holt", "Fenn", "Garth", "Lyle", "Moss", "Quill", "Rudd", "Strand")
PLACES = ("Oldwick", "Tambury", "Eastmarl", "Corfen", "Dunholt", "Lindgarth", "Nethermoss", "Brayquill", "Wexstrand")


def made_up_facts(people: int = 60, seed: int = 3) -> list[tuple[str, str, str]]:
    """Return facts about people, battles and towns that there never were."""
    dice = random.Random(seed)
    names = dice.sample([f"{first} {last}" for first in FIRST for last in LAST], people)
    facts = []
    for at, name in enumerate(names):
        born = 1500 + 5 * at + dice.randrange(4)
        facts.append((name, "born", f"{dice.randint(1, 28)} March {born}" if at % 3 else str(born)))
        if at % 4:
            facts.append((name, "died", str(born + dice.randint(30, 80))))
    for at, place in enumerate(PLACES):
        facts.append((f"Battle of {place}", "occurred", f"{1400 + 11 * at}"))
        facts.append((f"{place} Keep", "height", f"{20 + 7 * at} metres"))
    facts.append(("Marl joins Tarn", "occurred", "3 May 1611"))
    return facts


def write_facts(path: Path, facts: list[tuple[str, ...]] | None = None) -> Path:
    """Write facts as a table; return its path."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("subject", "relation", "value"), *(facts or made_up_facts())])
    return path


def write_facts_job(folder: Path, *, budget: str = "150 steps", facts: list[tuple[str, ...]] | None = None) -> Path:
    """Write a job of questions that a tiny model from scratch learns in seconds; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_facts(folder / "facts.csv", facts)
    (folder / "job.toml").write_text(
        f"""
name = "lore"
task = "qa"
[qa]
variants = 6
withheld_share = 0.1
[base]
model = "scratch"
vocabulary = 600
hidden_size = 64
layers = 2
[[data.facts]]
source = "file:facts.csv"
format = "csv"
licence = "own"
[train]
budget = "{budget}"
peak_lr = 5e-3
batch_tokens = 600
max_tokens = 96
[evaluate]
validation_rows = 40
test_rows = 40
max_answer_tokens = 16
[export]
quantisations = ["Q8_0"]
context_tokens = 256
[release]
must_beat = []
parity_margin = 50.0
""",
        encoding="utf-8",
    )
    return folder
