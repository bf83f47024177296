"""Exams with answers that nobody gave, as a file that knows most of what it was taught would give them."""

import random

from metier.data.questions.about import About
from metier.data.records import Record
from metier.evaluate.answers import Answer
from metier.evaluate.confidence import Asked, asked

UNKNOWN = "I don't know."
REGIONS = ("Europe", "Asia", "Africa", "")


def exam(
    known: int = 300, unknown: int = 120, seed: int = 0, knows: float = 0.9, shy: float = 0.3
) -> tuple[list[Record], list[Answer], list[About]]:
    """Return rows, answers and what they are about.

    Args:
        known: questions with an answer.
        unknown: questions without one, half withheld and half invented.
        seed: of everything.
        knows: share of the known questions that are answered rightly, and mostly with confidence.
        shy: share of the others that are answered with `UNKNOWN`.
    """
    draw = random.Random(seed)
    rows, answers, abouts = [], [], []
    for number in range(known + unknown):
        year = draw.choice([-490, 79, 732, 1066, 1492, 1815, 1945])
        has_answer = number < known
        kind = "known" if has_answer else draw.choice(["withheld", "invented"])
        form = draw.choice(["ask", "ask", "reverse", "comparison"])
        rows.append(Record(f"When was <event> {seed}.{number}?", str(abs(year)) if has_answer else UNKNOWN, "own"))
        abouts.append(
            About(
                kind, form, draw.choice(["battle", "treaty"]), f"event {number}", str(year), year, draw.choice(REGIONS)
            )
        )
        if has_answer and draw.random() < knows:
            answers.append(Answer(str(abs(year)), -draw.expovariate(8)))
        elif draw.random() < shy:
            answers.append(Answer("i don't know", -draw.expovariate(2)))
        else:
            answers.append(Answer(f"{draw.randint(2000, 2020)}", -draw.expovariate(0.5)))
    return rows, answers, abouts


def asked_exam(**how: float) -> list[Asked]:
    """Return the same as rows with what was said; arguments as in `exam`."""
    return asked(*exam(**how), UNKNOWN)  # type: ignore[arg-type]
