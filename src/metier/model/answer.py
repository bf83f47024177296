"""A checkpoint as a contestant: text in, text out, greedy."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from metier.tasks.prompt import PromptFormat

_ROWS = 64
_LIKELY_ROWS = 8
"""So few, because the scores of all pieces are kept until a batch is done: 4 bytes x rows x tokens x vocabulary."""


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
        stated = getattr(
            model.generation_config, "eos_token_id", None
        )  # a chat model may name the end of its turn, too
        stated = stated if isinstance(stated, list) else [stated]
        self._ends = sorted({end for end in (tokenizer.eos_token_id, *stated) if end is not None})

    def answer(self, questions: Sequence[str], *, likely: bool = False) -> list[tuple[str, float | None]]:
        """Return one answer a question, in order; if asked, with the logarithm of the model's own probability of it.

        The end of the answer is in it, a stop text is not; so `metier.run.engine.Engine.complete` has it, too.
        """
        ask, rows = (self._likely, _LIKELY_ROWS) if likely else (self._texts, _ROWS)
        prompts = [self._prompt.render(question.strip()) for question in questions]
        shortest_first = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        said: dict[int, tuple[str, float | None]] = {}
        for start in range(0, len(prompts), rows):
            these = shortest_first[start : start + rows]
            said |= zip(these, ask([prompts[i] for i in these]), strict=True)
        return [said[i] for i in range(len(prompts))]

    def _texts(self, prompts: list[str]) -> list[tuple[str, float | None]]:
        return [(self._until_stop(text).strip(), None) for text in self._decoded(self._generate(prompts).sequences)]

    def _likely(self, prompts: list[str]) -> list[tuple[str, float | None]]:
        out = self._generate(prompts, output_logits=True)
        places = [
            logits_NV.float().log_softmax(-1).gather(1, out.sequences[:, at, None])[:, 0]
            for at, logits_NV in enumerate(out.logits)
        ]
        logprobs_NT = torch.stack(places, dim=1)
        return [
            (self._until_stop(text).strip(), float(logprobs_T[: self._counted(tokens_T.tolist(), text)].sum()))
            for text, tokens_T, logprobs_T in zip(self._decoded(out.sequences), out.sequences, logprobs_NT, strict=True)
        ]

    def _counted(self, tokens: list[int], text: str) -> int:
        """Return how many tokens are an answer: up to its end and with it, or those that write what precedes a stop."""
        kept = self._until_stop(text)
        if kept != text:
            written = (self._decoded([tokens[:count]])[0].startswith(kept) for count in range(len(tokens) + 1))
            return next((count for count, whole in enumerate(written) if whole), len(tokens))
        return next((at for at, token in enumerate(tokens, 1) if token in self._ends), len(tokens))

    def _until_stop(self, text: str) -> str:
        return text.split(self._stop)[0] if self._stop else text

    def _decoded(self, tokens: Any) -> list[str]:
        return list(self._tokenizer.batch_decode(tokens, skip_special_tokens=True))

    @torch.no_grad()
    def _generate(self, prompts: list[str], **more: Any) -> Any:
        """Return what transformers generates, its ``sequences`` without the prompts."""
        batch = self._tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left").to(self._model.device)
        stops = {"stop_strings": [self._stop], "tokenizer": self._tokenizer} if self._stop else {}
        generate: Any = self._model.generate
        out = generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=self._max_tokens,
            do_sample=False,
            eos_token_id=self._ends or None,
            pad_token_id=self._tokenizer.pad_token_id,
            return_dict_in_generate=True,
            **stops,
            **more,
        )
        out.sequences = out.sequences[:, batch["input_ids"].shape[1] :]
        return out
