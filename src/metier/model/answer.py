"""A checkpoint as a contestant: text in, text out, greedy."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from metier.tasks.prompt import PromptFormat

_ROWS = 64


class Checkpoint:
    """A model in memory that answers questions wrapped in a prompt format.

    Args:
        name: what the contestant is called in reports.
        model: a causal language model in evaluation mode.
        tokenizer: its tokenizer.
        prompt: how a question is wrapped.
        max_tokens: longest answer, in tokens.
        stop: an answer also ends before this text, e.g. a newline for a model that does not stop by itself.
    """

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        prompt: PromptFormat,
        max_tokens: int,
        stop: str | None = None,
    ) -> None:
        self.name = name
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token  # what is padded is not looked at
        self._model, self._tokenizer, self._prompt = model, tokenizer, prompt
        self._max_tokens, self._stop = max_tokens, stop

    @torch.no_grad()
    def answer(self, questions: Sequence[str]) -> list[str]:
        """Return one answer a question, in order."""
        prompts = [self._prompt.render(question.strip()) for question in questions]
        shortest_first = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        answers = [""] * len(prompts)
        for start in range(0, len(prompts), _ROWS):
            rows = shortest_first[start : start + _ROWS]
            for row, text in zip(rows, self._generate([prompts[i] for i in rows]), strict=True):
                answers[row] = text
        return answers

    def _generate(self, prompts: list[str]) -> list[str]:
        batch = self._tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left").to(self._model.device)
        stops = {"stop_strings": [self._stop], "tokenizer": self._tokenizer} if self._stop else {}
        generate: Any = self._model.generate
        out_NT = generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=self._max_tokens,
            do_sample=False,
            eos_token_id=self._tokenizer.eos_token_id,
            pad_token_id=self._tokenizer.pad_token_id,
            **stops,
        )
        answers_NT = out_NT[:, batch["input_ids"].shape[1] :]
        texts = self._tokenizer.batch_decode(answers_NT, skip_special_tokens=True)
        return [(text.split(self._stop)[0] if self._stop else text).strip() for text in texts]
