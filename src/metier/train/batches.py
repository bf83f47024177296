"""Examples as token ids, and batches of them with almost no padding."""

import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol, Self, overload

import torch
from transformers import PreTrainedTokenizerFast

from metier.data.records import Record
from metier.tasks.prompt import PromptFormat
from metier.train.joining import Joined

IGNORED = -100
"""The target where nothing is to be learned."""

_ENCODED_ROWS = 4096
"""Rows tokenized at a time."""

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


class Examples(Sequence[Example]):
    """Examples in four bytes a token: as lists they would take thirty.

    Attributes:
        left_out: how many rows were too long to be among them.
    """

    def __init__(self, examples: Iterable[Example] = ()) -> None:
        self.left_out = 0
        self._ids = array("i")
        self._ends = array("q", [0])
        """Of prompts and answers in turn, after the beginning of the first."""
        for example in examples:
            self.append(example)

    def append(self, example: Example) -> None:
        """Add an example."""
        for ids in example:
            self._ids.extend(ids)
            self._ends.append(len(self._ids))

    def __len__(self) -> int:
        return len(self._ends) // 2

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> list[Example]: ...
    def __getitem__(self, at: int | slice) -> Example | list[Example]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        place = 2 * range(len(self))[at]
        start, middle, end = self._ends[place : place + 3]
        return Example(self._ids[start:middle].tolist(), self._ids[middle:end].tolist())


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


class Stream(Protocol):
    """The batches of a training, one after another, which can be left anywhere and taken up again there."""

    @property
    def position(self) -> Any:
        """Where the next batch begins, as JSON values."""

    def __next__(self) -> Batch:
        """Return the next batch."""


class JobBatches:
    """The batches of a job's examples, for ever: those that `plan_batches` plans.

    A position is the number of batches given. Going there costs the planning of the epochs before: row numbers alone.
    """

    def __init__(
        self, examples: Sequence[Example], batch_tokens: int, pad: int, seed: int, position: int | None
    ) -> None:
        self._examples, self._pad = examples, pad
        self.position = position or 0
        self._plan = islice(
            plan_batches([example.tokens for example in examples], batch_tokens, seed), self.position, None
        )

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        self.position += 1
        return collate([self._examples[i] for i in next(self._plan)], self._pad)


def encode(
    tokenizer: PreTrainedTokenizerFast, prompt: PromptFormat, records: Iterable[Record], max_tokens: int
) -> Examples:
    """Turn records into examples; those longer than ``max_tokens`` are left out.

    Joined rows that are too long together are examples of their own, left out one by one.
    Prompt and answer are tokenized apart, as they meet when the model answers. Records are read as they are needed.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_padding()  # a tokenizer goes on padding, and cutting, after it was asked to once
    backend.no_truncation()
    found, left = Examples(), iter(records)
    while rows := list(islice(left, _ENCODED_ROWS)):
        for example in _examples_of(tokenizer, prompt, rows, max_tokens):
            if example.tokens <= max_tokens:
                found.append(example)
            else:
                found.left_out += 1
    return found


def _examples_of(
    tokenizer: PreTrainedTokenizerFast, prompt: PromptFormat, rows: Sequence[Record], max_tokens: int
) -> Iterator[Example]:
    """Yield an example a row, and one for each of the rows that are joined and too long together."""
    pairs = list(zip(rows, _encoded(tokenizer, prompt, rows), strict=True))
    apart = [row.rows for row, example in pairs if isinstance(row, Joined) and example.tokens > max_tokens]
    ones = iter(_encoded(tokenizer, prompt, [one for joined_rows in apart for one in joined_rows]))
    for row, example in pairs:
        if isinstance(row, Joined) and example.tokens > max_tokens:
            yield from islice(ones, len(row.rows))
        else:
            yield example


def _encoded(tokenizer: PreTrainedTokenizerFast, prompt: PromptFormat, rows: Sequence[Record]) -> list[Example]:
    backend, end = tokenizer.backend_tokenizer, tokenizer.eos_token_id
    prompts = backend.encode_batch_fast([prompt.render(row.input) for row in rows])
    answers = backend.encode_batch_fast([prompt.answer(row.output) for row in rows], add_special_tokens=False)
    return [Example(before.ids, [*after.ids, end]) for before, after in zip(prompts, answers, strict=True)]


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
        rng = random.Random(f"{seed}/{epoch}")
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


def shares(batch: Batch, micro_tokens: int | None, processes: int, number: int) -> list[Batch]:
    """Return what one process computes of a batch: parts of consecutive rows, each as narrow as its longest row.

    Every process has the same number of parts, one at least, so that all meet in every sum. A part without rows of its
    own is a place that counts for nothing.

    Args:
        batch: the batch of all processes.
        micro_tokens: largest number of padded tokens computed at once; a longer row is computed alone.
        processes: how many share the batch.
        number: which of them, from 0.
    """
    rows, width = batch.ids_NT.shape
    rounds = 1
    if micro_tokens is not None:
        rows_at_once = max(micro_tokens // width, 1)
        rounds = -(-rows // (rows_at_once * processes))
    parts = rounds * processes
    if parts == 1:
        return [batch]
    bounds = [rows * part // parts for part in range(parts + 1)]
    return [_rows_of(batch, bounds[part], bounds[part + 1]) for part in range(number, parts, processes)]


def _rows_of(batch: Batch, start: int, end: int) -> Batch:
    """Return some rows of a batch, padded no more than they need; for none of them, a place without a token."""
    if start == end:
        nothing_11 = torch.zeros((1, 1), dtype=torch.long)
        positions_11 = None if batch.positions_NT is None else nothing_11
        return Batch(batch.ids_NT[:1, :1], nothing_11, nothing_11 + IGNORED, 0, positions_11)
    mask_NT = batch.mask_NT[start:end]
    width = int(mask_NT.sum(dim=1).max())
    ids_NT, targets_NT = batch.ids_NT[start:end, :width], batch.targets_NT[start:end, :width]
    positions_NT = None if batch.positions_NT is None else batch.positions_NT[start:end, :width]
    return Batch(ids_NT, mask_NT[:, :width], targets_NT, int(mask_NT.sum()), positions_NT)


def _cut(ordered: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Cut examples, shortest first, into batches; the rectangle is as wide as the last example."""
    batches: list[list[int]] = [[]]
    for i in ordered:
        if batches[-1] and lengths[i] * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
        batches[-1].append(i)
    return batches
