"""Questions about facts: short answers, right or wrong, and a way to say that one does not know."""

from dataclasses import dataclass
from typing import ClassVar

from metier.tasks.prompt import PromptFormat, Turn, candidates
from metier.tasks.whole import AnsweredWhole


@dataclass(frozen=True)
class Qa(AnsweredWhole):
    """Answer a question in a few words; ``unknown`` is what is said instead of an answer."""

    unknown: str

    name: ClassVar[str] = "qa"
    primary_metric: ClassVar[str] = "answer"
    metrics: ClassVar[tuple[str, ...]] = ("answer", "f1")

    def prompts(self, turn: Turn | None = None) -> tuple[PromptFormat, ...]:
        """Return the candidate prompt formats.

        Args:
            turn: how the base is chatted with, if it is a model for that.
        """
        instruction = f"Answer each question with a date or a few words. Where the answer is not known: {self.unknown}"
        return candidates("Question", "Answer", instruction, turn)
