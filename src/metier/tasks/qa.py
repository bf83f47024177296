"""Questions about facts: short answers, right or wrong, and a way to say that one does not know."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from metier.tasks.prompt import PromptFormat, Turn, candidates
from metier.tasks.segment import Piece, fill, split_whole


@dataclass(frozen=True)
class Qa:
    """Answer a question in a few words; ``unknown`` is what is said instead of an answer."""

    unknown: str

    name: ClassVar[str] = "qa"
    primary_metric: ClassVar[str] = "answer"
    metrics: ClassVar[tuple[str, ...]] = ("answer", "f1")

    @property
    def output_language(self) -> str | None:
        """Code of the language of the answers: not known."""
        return None

    def prompts(self, turn: Turn | None = None) -> tuple[PromptFormat, ...]:
        """Return the candidate prompt formats.

        Args:
            turn: how the base is chatted with, if it is a model for that.
        """
        instruction = f"Answer each question with a date or a few words. Where the answer is not known: {self.unknown}"
        return candidates("Question", "Answer", instruction, turn)

    def split(self, text: str) -> list[Piece]:
        """Return the question as one piece, the white space around it as layout."""
        return split_whole(text)

    def join(self, pieces: Sequence[Piece], answers: Iterable[str]) -> str:
        """Put the answer in place of the question.

        Raises:
            ValueError: when there are not as many answers as pieces to answer.
        """
        return "".join(fill(pieces, answers))

    def to_json(self) -> dict[str, str]:
        """Return the task as JSON-able values for `metier.tasks.registry.task_from_json`."""
        return {"task": self.name, "unknown": self.unknown}
