"""Write pairs.tsv: 3,000 different dates of the twentieth century, in words and in ISO 8601.

    python jobs/tiny/make_pairs.py

The dates and their wordings are drawn with a fixed seed, so that the file comes out the same every time.
"""

import random
from calendar import month_name
from datetime import date, timedelta
from pathlib import Path

ROWS = 3000
FIRST, LAST = date(1900, 1, 1), date(1999, 12, 31)

MONTHS = list(month_name)[1:]
ORDINALS = [
    *("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"),
    *("eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth"),
    *("eighteenth", "nineteenth", "twentieth"),
]
ORDINALS += [f"twenty-{ordinal}" for ordinal in ORDINALS[:9]] + ["thirtieth", "thirty-first"]


def wordings(day: date) -> tuple[str, ...]:
    """Return the ways to write a date that the model has to read."""
    month, ordinal, year = MONTHS[day.month - 1], ORDINALS[day.day - 1], day.year
    return (
        f"the {ordinal} of {month} {year}",
        f"{month} the {ordinal}, {year}",
        f"{day.day} {month} {year}",
        f"{month} {day.day}, {year}",
        f"{day.day} {month[:3]} {year}",
    )


def main() -> None:
    """Write the file beside this script."""
    draw = random.Random(1921)
    days = draw.sample(range((LAST - FIRST).days + 1), ROWS)
    dates = [FIRST + timedelta(days=number) for number in days]
    lines = [f"{draw.choice(wordings(day))}\t{day.isoformat()}\n" for day in dates]
    Path(__file__).with_name("pairs.tsv").write_text("".join(lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
