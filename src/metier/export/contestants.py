"""GGUF files as contestants: the shipped file through its own template, a released model through a prompt."""

import time
from collections.abc import Sequence

from metier.evaluate.answers import Answer
from metier.run.engine import Completion, Engine
from metier.tasks.prompt import PromptFormat

_TIMED_TOKENS = 32


def tokens_per_s(engine: Engine, prompts: Sequence[str]) -> float:
    """Return how many tokens a second of wall clock a file adds to prompts, the reading of the prompts included.

    Every prompt is continued by the same number of tokens, so that a file that ends early is not at a disadvantage.
    """

    def go_on(prompt: str) -> int:
        return len(engine.complete(prompt, max_tokens=_TIMED_TOKENS, stop_at_end=False).token_ids)

    start = time.monotonic()
    tokens = sum(engine.many(go_on, prompts))
    return tokens / (time.monotonic() - start)


class ShippedFile:
    """A file asked as any llama.cpp app asks it: the question as a plain user message."""

    def __init__(self, name: str, engine: Engine, max_tokens: int) -> None:
        self.name = name
        self._engine, self._max_tokens = engine, max_tokens

    def answer(self, questions: Sequence[str]) -> list[str]:
        """Return one answer a question, in order."""
        return list(self._engine.many(self._one, questions))

    def answer_surely(self, questions: Sequence[str]) -> list[Answer]:
        """Return one answer with its log-probability, in nats, a question, in order."""
        return list(self._engine.many(self._surely, questions))

    def _one(self, question: str) -> str:
        return self._engine.chat(question, max_tokens=self._max_tokens).text.strip()

    def _surely(self, question: str) -> Answer:
        reply = self._engine.chat(question, max_tokens=self._max_tokens, probabilities=True)
        return Answer(reply.text.strip(), reply.logprob)


class PromptedFile:
    """A released model asked by raw completion: worked examples in front, its answer ends with the line."""

    def __init__(self, name: str, engine: Engine, prompt: PromptFormat, max_tokens: int) -> None:
        self.name = name
        self._engine, self._prompt, self._max_tokens = engine, prompt, max_tokens

    def answer(self, questions: Sequence[str]) -> list[str]:
        """Return one answer a question, in order."""
        return list(self._engine.many(self._one, questions))

    def answer_surely(self, questions: Sequence[str]) -> list[Answer]:
        """Return one answer with its log-probability, in nats, a question, in order; that of the line end left out."""
        return list(self._engine.many(self._surely, questions))

    def _one(self, question: str) -> str:
        return self._complete(question, 0).text.strip()

    def _surely(self, question: str) -> Answer:
        found = self._complete(question, 1)
        return Answer(found.text.strip(), found.logprob)

    def _complete(self, question: str, probabilities: int) -> Completion:
        prompt = self._prompt.render(question.strip())
        return self._engine.complete(prompt, max_tokens=self._max_tokens, stop=("\n",), probabilities=probabilities)
