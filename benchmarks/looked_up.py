"""What looking up in the facts alone answers: the exams of a job of task qa without its model.

    python benchmarks/looked_up.py history-long

Every question of the test set, with and without an answer, is looked up in the store beside the model, as `metier run`
does. Printed: how many find one value, several or none, and how many of the values are right; of questions about
withheld subjects, which the store has and the model was not taught, and of those about invented ones the same.
"""

import argparse
import sys
from collections import Counter, defaultdict

from metier.data.questions.about import about_path, read_about
from metier.data.records import read_records
from metier.errors import MetierError
from metier.facts.answers import right
from metier.facts.lookup import look_up
from metier.facts.store import Store, open_store
from metier.home import run_dir
from metier.steps.data import store_of

EXAMS = ("test.jsonl", "test_unknown.jsonl")


def main() -> None:
    """Look every question up, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name of a job of task qa that was built")
    data = run_dir(parser.parse_args().model) / "data"
    found: dict[str, Counter[str]] = defaultdict(Counter)
    try:
        place = store_of(data)
        if place is None:
            raise MetierError(str(data), "has no facts", "Name a job of task qa that was built")
        with open_store(place) as store:
            for exam in EXAMS:
                for row, about in zip(read_records(data / exam), read_about(about_path(data / exam)), strict=True):
                    wanted = row.output if about.kind == "known" else None
                    found[f"{about.kind}, {about.form}"][outcome(store, row.input, wanted)] += 1
    except (MetierError, OSError) as error:
        sys.exit(f"not measured: {error}")
    for kind, counted in sorted(found.items()):
        told = ", ".join(f"{count} {what}" for what, count in counted.most_common())
        print(f"{kind} ({counted.total()}): {told}")


def outcome(store: Store, question: str, wanted: str | None) -> str:
    """Return what looking a question up says: one value, right or not where that is known, several or nothing."""
    values = dict.fromkeys(fact.value for fact in look_up(store, question).values)
    if not values:
        return "nothing"
    if len(values) > 1:
        return "several values"
    if wanted is None:
        return "one value"
    return "right" if right(next(iter(values)), wanted) else "another value"


if __name__ == "__main__":
    main()
