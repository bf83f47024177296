"""What tasks have in common whose input is answered as a whole."""

from collections.abc import Iterable, Sequence
from typing import ClassVar

from metier.tasks.segment import Piece, fill, split_whole


class AnsweredWhole:
    """A task that takes its input in one piece, and keeps the white space around it."""

    output_language: ClassVar[str] = ""
    """Code of the language of the answers: not known."""

    def split(self, text: str) -> list[Piece]:
        """Return the text as one piece, the white space around it as layout."""
        return split_whole(text)

    def join(self, pieces: Sequence[Piece], answers: Iterable[str]) -> str:
        """Put the answer in place of the text.

        Raises:
            ValueError: when there are not as many answers as pieces to answer.
        """
        return "".join(fill(pieces, answers))
