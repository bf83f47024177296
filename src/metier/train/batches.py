"""Examples as token ids, and batches of them with almost no padding."""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerFast

from metier.data.records import Record
from metier.tasks.prompt import PromptFormat

IGNORED = -100
"""The target where nothing is to be learned."""

_WINDOW_BATCHES = 32
"""Examples are sorted by length inside a window this many batches long: close lengths, still shuffled."""


class Example(NamedTuple):
    """One example: the ids before the answer (BOS included) and those of the answer (end token included)."""

    prompt: list[int]
    answer: list[int]

    @property
    def tokens(self) -> int:
        """Length in tokens."""
        return len(self.prompt) + len(self.answer)


class Batch(NamedTuple):
    """Rows of tokens. N rows, T places."""

    ids_NT: torch.Tensor
    mask_NT: torch.Tensor
    """1 where there is a token, 0 in the padding."""
    targets_NT: torch.Tensor
    """What is to be predicted *at* each place, the token after it; -100 where nothing is learned."""
    tokens: int
    positions_NT: torch.Tensor | None = None
    """For rows of several texts, which do not see each other: places within the text, from 0."""


def encode(
    tokenizer: PreTrainedTokenizerFast, prompt: PromptFormat, records: Sequence[Record], max_tokens: int
) -> list[Example]:
    """Turn records into examples; those longer than ``max_tokens`` are left out.

    Prompt and answer are tokenized apart, as they meet when the model answers.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_padding()  # a tokenizer goes on padding after it was asked to once
    end = tokenizer.eos_token_id
    prompts = backend.encode_batch_fast([prompt.render(record.input) for record in records])
    answers = backend.encode_batch_fast([prompt.answer(record.output) for record in records], add_special_tokens=False)
    examples = (Example(p.ids, [*a.ids, end]) for p, a in zip(prompts, answers, strict=True))
    return [example for example in examples if example.tokens <= max_tokens]


def plan_batches(lengths: Sequence[int], batch_tokens: int, seed: int) -> Iterator[list[int]]:
    """Yield batches of example numbers for ever: a pure function of its arguments.

    Each epoch is shuffled anew, sorted by length inside windows, and cut where padded rows would exceed
    ``batch_tokens``; the batches of a window come in random order.

    Raises:
        ValueError: when there are no examples.
    """
    if not lengths:
        raise ValueError("no examples")
    window = max(int(_WINDOW_BATCHES * batch_tokens * len(lengths) / sum(lengths)), 1)
    epoch = 0
    while True:
        rng = random.Random(f"{seed}/{epoch}")  # noqa: S311 - an order, not a secret
        order = list(range(len(lengths)))
        rng.shuffle(order)
        left_over: list[int] = []
        for start in range(0, len(order), window):
            among = left_over + order[start : start + window]
            *batches, left_over = _cut(sorted(among, key=lambda i: lengths[i]), lengths, batch_tokens)
            rng.shuffle(batches)
            yield from batches
        yield left_over
        epoch += 1


def one_pass(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Return all example numbers once, shortest first, in batches whose padded rows stay within ``batch_tokens``."""
    return _cut(sorted(range(len(lengths)), key=lambda i: lengths[i]), lengths, batch_tokens)


def collate(examples: Sequence[Example], pad: int) -> Batch:
    """Pad examples on the right to one rectangle; the answers are the targets."""
    width = max(example.tokens for example in examples)
    ids = torch.full((len(examples), width), pad)
    mask = torch.zeros((len(examples), width), dtype=torch.long)
    targets = torch.full((len(examples), width), IGNORED)
    for row, (prompt, answer) in enumerate(examples):
        whole = torch.tensor(prompt + answer)
        ids[row, : len(whole)] = whole
        mask[row, : len(whole)] = 1
        targets[row, len(prompt) - 1 : len(whole) - 1] = whole[len(prompt) :]
    return Batch(ids, mask, targets, int(mask.sum()))


def _cut(ordered: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Cut examples, shortest first, into batches; the rectangle is as wide as the last example."""
    batches: list[list[int]] = [[]]
    for i in ordered:
        if batches[-1] and lengths[i] * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
        batches[-1].append(i)
    return batches
