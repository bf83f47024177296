"""A checkpoint asked: as a contestant, text in, text out, greedy; and for the next token, where it is decided."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from metier.tasks.prompt import PromptFormat

MARGIN_NATS = 0.05
"""Below this lead of the best token over the second a checkpoint counts as undecided."""

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


@torch.no_grad()
def decided_tokens(
    model: PreTrainedModel, examples: Sequence[tuple[list[int], list[int]]]
) -> list[tuple[list[int], int]]:
    """Return, for every decided answer position, the ids before it and the checkpoint's most likely next id.

    Args:
        model: a causal language model in evaluation mode.
        examples: token ids of prompts and answers.
    """
    found = []
    for prompt, answer in examples:
        ids = prompt + answer
        logits_TV = model(input_ids=torch.tensor([ids], device=model.device)).logits[0, len(prompt) - 1 : -1]
        best_T2 = logits_TV.float().log_softmax(-1).topk(2)
        for offset, (values, tokens) in enumerate(zip(best_T2.values, best_T2.indices, strict=True)):
            if values[0] - values[1] > MARGIN_NATS:
                found.append((ids[: len(prompt) + offset], int(tokens[0])))
    return found
