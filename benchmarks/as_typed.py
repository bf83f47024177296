"""Questions as people type them: what is left of a history model's right answers, and what it answers wrongly then.

    python benchmarks/as_typed.py history [--rows 1000] [--seed 0]

A model of task ``qa`` that was built is asked the questions of its test on what is known: as they stand there, in lower
case, without the mark at their end, and with a typing error, two neighbouring letters of the longest word changed over.
Printed of each, in percent: the right answers among all questions, without the threshold, and the difference to the
questions as they stand (paired bootstrap); how many are answered, and how many of those wrongly. And of questions that
nobody taught it: in German, and of random letters, how many it answers.
"""

import argparse
import random
import string
import sys
from collections.abc import Callable, Sequence

from metier.data.records import Record, read_records
from metier.errors import MetierError
from metier.evaluate.significance import compare
from metier.facts.answers import right
from metier.home import run_dir
from metier.run.asking import Answer
from metier.run.session import Session, open_session

IN_GERMAN = ("Wann wurde {} geboren?", "Wann ist {} gestorben?", "Wo wurde {} geboren?")
NAMES = ("Johann Sebastian Bach", "Isaac Newton", "Marie Curie", "Napoleon", "Abraham Lincoln", "Galileo Galilei")


def main() -> None:
    """Ask and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name of a job of task qa that was built")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    dice = random.Random(wanted.seed)
    ways: dict[str, Callable[[str], str]] = {
        "as it stands": str,
        "in lower case": str.lower,
        "without a mark": lambda text: text.rstrip("?."),
        "with a typing error": lambda text: mistyped(text, dice),
    }
    try:
        with open_session(wanted.model) as session:
            rows = read_records(run_dir(wanted.model) / "data" / "test.jsonl")[: wanted.rows]
            print_known(session, rows, ways)
            print_unknown(session, dice)
    except (MetierError, OSError) as error:
        sys.exit(f"not measured: {error}")


def print_known(session: Session, rows: Sequence[Record], ways: dict[str, Callable[[str], str]]) -> None:
    """Ask all questions in all ways, and print a line of each."""
    references = [row.output for row in rows]
    first: list[str] = []
    print(f"{len(rows)} questions on what is known")
    for name, way in ways.items():
        answers = [session.ask(way(row.input)) for row in rows]
        said = [answer.guess or answer.text for answer in answers]
        first = first or said
        given = [right(one.text, wanted) for one, wanted in zip(answers, references, strict=True) if one.sure]
        found = compare("answer", said, first, references)
        print(
            f"{name:20} right {share([right(*pair) for pair in zip(said, references, strict=True)])}, "
            f"difference {found.difference:+.1f} [{found.low:+.1f}, {found.high:+.1f}]; "
            f"answered {100 * len(given) / len(rows):.1f}, of these wrong {share([not one for one in given])}"
        )


def print_unknown(session: Session, dice: random.Random) -> None:
    """Ask in a language that was not taught, and what is no question, and print how much of it is answered."""
    foreign = [way.format(name) for way in IN_GERMAN for name in NAMES]
    letters = ["".join(dice.choices(string.ascii_lowercase + " ", k=30)) for _ in range(100)]
    for name, questions in {"in German": foreign, "random letters": letters}.items():
        answers: list[Answer] = [session.ask(question) for question in questions]
        print(f"{name:20} answered {share([answer.sure for answer in answers])} of {len(questions)}")


def mistyped(text: str, dice: random.Random) -> str:
    """Return a text with two neighbouring letters of its longest word changed over, neither its first nor its last."""
    longest = max(text.split(), key=len)
    if len(longest) < 5:
        return text
    at = dice.randrange(1, len(longest) - 2)
    return text.replace(longest, longest[:at] + longest[at + 1] + longest[at] + longest[at + 2 :], 1)


def share(found: Sequence[bool]) -> str:
    """Return a share in percent."""
    return f"{100 * sum(found) / max(1, len(found)):.1f}"


if __name__ == "__main__":
    main()
