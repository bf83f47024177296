"""Whether the source lines that a history model's answers carry hold what they are said to hold.

    python benchmarks/source_lines.py history [--rows 200] [--seed 0]

A model of task ``qa`` that was built is asked the questions of its test, known and unknown ones mixed, in an order
drawn from the seed, until so many answers are given with at least one source line. Printed: of these, how many have
lines that *all* hold their subject, by one of its names, and value, and of which one holds the answer or is about it,
compared by words and figures alone, without the code that found them; each line or answer that does not; and how many
of the answers are right.
"""

import argparse
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from facts import has, has_value

from metier.data.records import Record, read_records
from metier.errors import MetierError
from metier.facts.answers import date_of, right
from metier.facts.fact import Fact
from metier.facts.store import Store
from metier.home import run_dir
from metier.run.asking import Answer
from metier.run.session import open_session

EXAMS = ("test.jsonl", "test_unknown.jsonl")


def main() -> None:
    """Ask, and check the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name of a job of task qa that was built")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    try:
        answered = list(sampled(wanted.model, run_dir(wanted.model) / "data", wanted.rows, wanted.seed))
    except (MetierError, OSError) as error:
        sys.exit(f"not measured: {error}")
    for row, answer, faults in answered:
        for fact in faults:
            print(f"not in its line: {row.input} | {answer.text} | {fact.subject}, {fact.relation} | {fact.line[:200]}")
    sound = sum(not faults for *_, faults in answered)
    lines = sum(len(answer.sources) for _, answer, _ in answered)
    correct = sum(right(answer.text, row.output) for row, answer, _ in answered)
    print(f"{sound} of {len(answered)} answers: all their lines ({lines}) hold subject and value, one the answer")
    print(f"{correct} of {len(answered)} are right")
    sys.exit(0 if sound == len(answered) == wanted.rows else 1)


def sampled(model: str, data: Path, rows: int, seed: int) -> Iterator[tuple[Record, Answer, list[Fact]]]:
    """Yield questions with answers that carry source lines, and the lines that do not hold what they should."""
    found = 0
    with open_session(model) as session:
        asked = [row for exam in EXAMS for row in read_records(data / exam)]
        random.Random(seed).shuffle(asked)
        if session.store is None:
            raise MetierError(model, "has no facts beside it", "Name a job of task qa")
        for row in asked:
            answer = session.ask(row.input)
            if answer.sure and answer.sources:
                faults = [fact for fact in answer.sources if not holds(session.store, fact)]
                said = any(tells(session.store, fact, answer.text) for fact in answer.sources)
                yield row, answer, faults if said else list(answer.sources)
                found += 1
            if found == rows:
                return


def holds(store: Store, fact: Fact) -> bool:
    """Return whether a fact's line has a name of its subject, and its value."""
    return any(has(fact.line, name) for name in store.names(fact.subject)) and has_value(fact.line, fact)


def tells(store: Store, fact: Fact, answer: str) -> bool:
    """Return whether a fact's line has the answer's words, or of a date the years' figures, or is about that name."""
    same = replace(fact, value=answer, date=date_of(answer))
    return answer in store.names(fact.subject) or has_value(fact.line, same)


if __name__ == "__main__":
    main()
