"""Questions as people type them: what is left of a history model's right answers, and what it answers wrongly then.

    python benchmarks/as_typed.py history [--rows 1000] [--seed 0]

A model of task ``qa`` that was built is asked the questions of its test on what is known: as they stand there, in lower
case, without the mark at their end, and with a typing error, two neighbouring letters of the longest word changed over.
Printed of each, in percent: the right answers among all questions, without the threshold, and the difference to the
questions as they stand (paired bootstrap); how many are answered, and how many of those wrongly. And how much it
answers of what it cannot: of questions in German, of which a few forms are taught as not known, and in languages that
none is taught of; of questions about subjects it was taught for what is no matter of the job, in words that are not
taught either; and of random letters.
"""

import argparse
import random
import string
import sys
from collections.abc import Callable, Sequence

from metier.data.questions.about import about_path, read_about
from metier.data.records import Record, read_records
from metier.errors import MetierError
from metier.evaluate.significance import compare
from metier.facts.answers import right
from metier.home import run_dir
from metier.run.asking import Answer
from metier.run.session import Session, open_session

IN_OTHER_LANGUAGES = (
    "N\u00e4r f\u00f6ddes {}?",
    "Vilket \u00e5r dog {}?",
    "Milloin {} syntyi?",
    "Miss\u00e4 {} kuoli?",
    "{} ne zaman \u00f6ld\u00fc?",
    "{} nerede do\u011fdu?",
    "\u041a\u043e\u0433\u0434\u0430 \u0440\u043e\u0434\u0438\u043b\u0441\u044f {}?",
    "{}\u306f\u3044\u3064\u751f\u307e\u308c\u307e\u3057\u305f\u304b\uff1f",
)
"""Swedish, Finnish, Turkish, Russian, Japanese."""
BESIDE = (
    "Was {} left-handed?",
    "Which school did {} go to?",
    "What was {} afraid of?",
    "How many brothers did {} have?",
    "Which instrument did {} play?",
    "Who inherited from {}?",
    "What is the population of {}?",
    "How rich was {}?",
    "Did {} like music?",
    "Who taught {} to read?",
)
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
            test = run_dir(wanted.model) / "data" / "test.jsonl"
            abouts = read_about(about_path(test))
            print_known(session, read_records(test)[: wanted.rows], [about.subject for about in abouts], ways)
            subjects = sorted({about.subject for about in abouts if about.subject})
            print_unknown(session, subjects, dice)
    except (MetierError, OSError) as error:
        sys.exit(f"not measured: {error}")


def print_known(
    session: Session, rows: Sequence[Record], subjects: Sequence[str], ways: dict[str, Callable[[str], str]]
) -> None:
    """Ask all questions in all ways, and print a line of each."""
    references = [row.output for row in rows]
    first: list[str] = []
    print(f"{len(rows)} questions on what is known")
    for name, way in ways.items():
        answers = [session.ask(way(row.input)) for row in rows]
        said = [answer.guess or answer.text for answer in answers]
        first = first or said
        given = [right(one.text, wanted) for one, wanted in zip(answers, references, strict=True) if one.sure]
        found = compare("answer", said, first, references, groups=subjects[: len(rows)])
        print(
            f"{name:20} right {share([right(*pair) for pair in zip(said, references, strict=True)])}, "
            f"difference {found.difference:+.1f} [{found.low:+.1f}, {found.high:+.1f}]; "
            f"answered {100 * len(given) / len(rows):.1f}, of these wrong {share([not one for one in given])}"
        )


def print_unknown(session: Session, subjects: Sequence[str], dice: random.Random) -> None:
    """Ask in other languages, for what is no matter of the job, and letters; print how much of it is answered."""
    german, foreign = ([way.format(name) for way in ways for name in NAMES] for ways in (IN_GERMAN, IN_OTHER_LANGUAGES))
    beside = [
        dice.choice(BESIDE).format(name.partition(" (")[0]) for name in dice.sample(subjects, min(200, len(subjects)))
    ]
    letters = ["".join(dice.choices(string.ascii_lowercase + " ", k=30)) for _ in range(100)]
    kinds = {"in German": german, "other languages": foreign, "beside the matter": beside, "random letters": letters}
    for name, questions in kinds.items():
        answers: list[Answer] = [session.ask(question) for question in questions]
        print(f"{name:20} answered {share([answer.sure for answer in answers])} of {len(questions)}")


def mistyped(text: str, dice: random.Random) -> str:
    """Return a text with two neighbouring letters of its longest word changed over, neither its first nor its last."""
    longest = max(text.split(), key=len)
    if len(longest) < 5:
        return text
    places = [at for at in range(1, len(longest) - 2) if longest[at] != longest[at + 1]]
    if not places:
        return text
    at = dice.choice(places)
    return text.replace(longest, longest[:at] + longest[at + 1] + longest[at] + longest[at + 2 :], 1)


def share(found: Sequence[bool]) -> str:
    """Return a share in percent."""
    return f"{100 * sum(found) / max(1, len(found)):.1f}"


if __name__ == "__main__":
    main()
