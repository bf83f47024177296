"""Any job that turns one text into another: a question into an answer, a column of a table into the next."""

from dataclasses import dataclass
from typing import ClassVar

from metier.tasks.prompt import PromptFormat, Turn, candidates
from metier.tasks.whole import AnsweredWhole


@dataclass(frozen=True)
class Text2Text(AnsweredWhole):
    """Turn one text into another; ``input`` and ``output`` are what the two sides are called."""

    input: str
    output: str

    name: ClassVar[str] = "text2text"
    primary_metric: ClassVar[str] = "chrf2"
    metrics: ClassVar[tuple[str, ...]] = ("chrf2", "exact")

    def prompts(self, turn: Turn | None = None) -> tuple[PromptFormat, ...]:
        """Return the candidate prompt formats.

        Args:
            turn: how the base is chatted with, if it is a model for that.
        """
        return candidates(
            self.input,
            self.output,
            f"{self.output} for each {self.input}.",
            turn,
        )
