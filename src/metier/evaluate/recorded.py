"""Systems that cannot be asked here, but whose answers somebody wrote down: a file each, a line for each row."""

from collections.abc import Collection, Sequence
from pathlib import Path

from metier.errors import DataError


def recorded(files: Sequence[Path], lines: int, taken: Collection[str] = ("base",)) -> dict[str, list[str]]:
    """Return the answers of each system, which is called as its file.

    Args:
        files: text in UTF-8.
        lines: how many answers each holds.
        taken: names of contestants that are asked.

    Raises:
        DataError: when a file cannot be read or has another number of lines, or two systems have one name.
    """
    found: dict[str, list[str]] = {}
    for file in files:
        try:
            # Not splitlines(): it also breaks at characters that occur inside sentences.
            answers = file.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
        except (OSError, ValueError) as error:
            raise DataError(str(file), f"cannot be read ({error})", "Name a text file in UTF-8") from error
        if len(answers) != lines:
            fix = "Name a file with an answer to every row, one a line, empty ones included"
            raise DataError(str(file), f"{len(answers)} answers to {lines} rows", fix)
        if file.stem in found or file.stem in taken:
            raise DataError(str(file), f"there is another contestant {file.stem!r}", "Rename the file")
        found[file.stem] = [answer.strip() for answer in answers]
    return found
