"""GGUF files as contestants: the shipped file through its own template, a released model through a prompt."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial

from metier.errors import InputError
from metier.evaluate.answers import Answer
from metier.progress import say
from metier.run.engine import Completion, Engine, Reply
from metier.tasks.prompt import PromptFormat

_TIMED_TOKENS = 32


def tokens_per_s(engine: Engine, prompts: Sequence[str]) -> float:
    """Return how many tokens a second of wall clock a file adds to prompts, the reading of the prompts included.

    Every prompt is continued by the same number of tokens, so that a file that ends early is not at a disadvantage. One
    that does not fit into the context is left out.
    """

    def go_on(prompt: str) -> int:
        try:
            return len(engine.complete(prompt, max_tokens=_TIMED_TOKENS, stop_at_end=False).token_ids)
        except InputError:
            return 0

    start = time.monotonic()
    tokens = sum(engine.many(go_on, prompts))
    return tokens / (time.monotonic() - start)


class _File(ABC):
    """A file that is asked as many questions at a time as its engine has slots."""

    def __init__(self, name: str, engine: Engine, max_tokens: int) -> None:
        self.name, self._told = name, False
        self.engine, self._max_tokens = engine, max_tokens

    def answer(self, questions: Sequence[str], *, likely: bool = False) -> list[Answer]:
        """Return one answer a question, in order; if asked, with its log-probability, that of a stop text left out."""
        return list(self.engine.many(partial(self._answer, likely=likely), questions))

    def _answer(self, question: str, *, likely: bool) -> Answer:
        """Return what is said; nothing, as surely as can be, to a question that does not fit into the context."""
        try:
            said = self._ask(question, likely=likely)
        except InputError as error:
            if not self._told:
                self._told = True
                say(f"  {self.name}: a question {error.found}; such ones count as not answered")
            return Answer("", 0.0 if likely else None)
        return Answer(said.text.strip(), said.logprob)

    @abstractmethod
    def _ask(self, question: str, *, likely: bool) -> Reply | Completion:
        """Ask one question, with or without the probability of its answer."""


class ShippedFile(_File):
    """A file asked as any llama.cpp app asks it: the question as a plain user message."""

    def _ask(self, question: str, *, likely: bool) -> Reply:
        return self.engine.chat(question, max_tokens=self._max_tokens, probabilities=likely)


class PromptedFile(_File):
    """A released model asked by raw completion: worked examples in front, and a text before which its answer ends."""

    def __init__(
        self, name: str, engine: Engine, prompt: PromptFormat, max_tokens: int, stop: str | None = "\n"
    ) -> None:
        super().__init__(name, engine, max_tokens)
        self._prompt, self._stop = prompt, (stop,) if stop else ()

    def _ask(self, question: str, *, likely: bool) -> Completion:
        prompt = self._prompt.render(question.strip())
        return self.engine.complete(prompt, max_tokens=self._max_tokens, stop=self._stop, probabilities=int(likely))
