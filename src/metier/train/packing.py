"""Plain text as rows of one length: several texts a row, which do not see each other.

Position t of a row holds an input and the target predicted there: every text is shifted right by one, behind a BOS
token. Positions start again at 0 with every text, by which `transformers` knows where its attention ends.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from metier.progress import track
from metier.train.batches import IGNORED, Batch
from metier.train.ul2 import TASKS, Ids, denoise, first_sentinel, lengths, with_marks

_ENCODED_AT_ONCE = 1000


@dataclass(frozen=True)
class Corpus:
    """One source of text as token ids, without marks: its documents one after another."""

    name: str
    tokens: np.ndarray
    """All ids, of any integer type; a memory-mapped array will do."""
    ends: np.ndarray
    """Where each document ends, as an index into ``tokens``."""
    weight: float = 1.0
    """Share of the rows that come from here, relative to the other sources."""


class Row(NamedTuple):
    """A row of T tokens: inputs, targets (-100: none), positions; and how many of them are real."""

    ids_T: Ids
    targets_T: Ids
    positions_T: Ids
    tokens: int


def corpora(
    tokenizer: PreTrainedTokenizerFast, documents: Mapping[str, Sequence[str]], weights: Mapping[str, float]
) -> list[Corpus]:
    """Tokenize the documents of every source; sources without any token are left out."""
    found = []
    for name, texts in documents.items():
        parts: list[np.ndarray] = []
        for start in track(range(0, len(texts), _ENCODED_AT_ONCE), f"tokenizing {name}"):
            encoded = tokenizer.backend_tokenizer.encode_batch_fast(
                list(texts[start : start + _ENCODED_AT_ONCE]), add_special_tokens=False
            )
            parts += [np.array(encoding.ids, dtype=np.uint32) for encoding in encoded if encoding.ids]
        if parts:
            ends = np.cumsum([len(part) for part in parts])
            found.append(Corpus(name, np.concatenate(parts), ends, weights[name]))
    return found


def marks(tokenizer: PreTrainedTokenizerFast) -> tuple[int, int]:
    """Return the ids in front of a text and behind it: BOS and EOS; EOS twice, where there is no BOS."""
    bos, eos = tokenizer.bos_token_id, int(tokenizer.eos_token_id)
    return eos if bos is None else int(bos), eos


def causal_rows(sources: Sequence[Corpus], row_tokens: int, bos: int, eos: int, seed: int) -> Iterator[Row]:
    """Yield rows for plain language modelling, for ever: a pure function of the arguments.

    A row comes from one source, drawn by weight, and is filled with its documents, each ended by EOS. A document that
    does not fit goes on in the source's next row, behind a BOS of its own.
    """
    readers = [_Reader(source, seed) for source in sources]
    for reader, _ in _drawn(readers, seed):
        pieces, room = [], row_tokens
        while room > 0:
            text, ended = reader.read(room)
            if ended and len(text) < room:  # one that fills the row to its last place goes without its end mark
                text = np.append(text, eos)
            pieces.append((np.concatenate(([bos], text[:-1])), text))
            room -= len(text)
        yield _row(pieces, row_tokens)


def ul2_rows(
    sources: Sequence[Corpus], row_tokens: int, tokenizer: PreTrainedTokenizerFast, seed: int
) -> Iterator[Row]:
    """Yield rows of UL2's six tasks, for ever: a pure function of the arguments.

    Source and task of an example are drawn by weight and rate. Its text is the source's next tokens, documents run
    together (as T5 does). Half a row is the length of an example's inputs, and the most its targets may take.
    Attention is causal over inputs and targets; only targets are learned.

    Raises:
        ArtifactError: when the vocabulary has too few sentinels.
    """
    sentinel = first_sentinel(tokenizer, row_tokens)
    bos, eos = marks(tokenizer)
    prefixes = [np.array(tokenizer.encode(task.prefix, add_special_tokens=False), dtype=np.int64) for task in TASKS]
    raw = [lengths(task, row_tokens // 2).raw for task in TASKS]
    rates = np.array([task.rate for task in TASKS])
    pieces: list[tuple[Ids, Ids]] = []
    used = 0
    for reader, draw in _drawn([_Reader(source, seed) for source in sources], seed):
        number = int(draw.choice(len(TASKS), p=rates))
        shown, asked = denoise(reader.run_together(raw[number]), TASKS[number], draw, sentinel)
        inputs, targets = with_marks(prefixes[number], shown, asked, eos, row_tokens // 2)
        whole = np.concatenate((inputs, targets))
        if used + len(whole) > row_tokens:
            yield _row(pieces, row_tokens)
            pieces, used = [], 0
        learned = np.concatenate((np.full(len(inputs), IGNORED), targets))
        pieces.append((np.concatenate(([bos], whole[:-1])), learned))
        used += len(whole)


def batched(rows: Iterable[Row], rows_a_batch: int) -> Iterator[Batch]:
    """Yield batches of rows, in order; the last one may be smaller."""
    rows = iter(rows)
    while chosen := list(islice(rows, rows_a_batch)):
        ids_NT, targets_NT, positions_NT = (
            torch.from_numpy(np.stack(column))
            for column in ([r.ids_T for r in chosen], [r.targets_T for r in chosen], [r.positions_T for r in chosen])
        )
        real_N1 = torch.tensor([[row.tokens] for row in chosen])
        mask_NT = (torch.arange(ids_NT.shape[1]) < real_N1).long()
        yield Batch(ids_NT, mask_NT, targets_NT, int(real_N1.sum()), positions_NT)


class _Reader:
    """Reads the documents of a source for ever, in a new order every time around."""

    def __init__(self, source: Corpus, seed: int) -> None:
        self.source = source
        self._seed = [seed, zlib.crc32(source.name.encode())]
        self._order: Iterator[int] = iter(())
        self._epoch = 0
        self._rest: Ids = np.zeros(0, dtype=np.int64)

    def read(self, most: int) -> tuple[Ids, bool]:
        """Return at most so many tokens of the document at hand, and whether they are its last."""
        if not len(self._rest):
            self._rest = self._next_document()
        text, self._rest = self._rest[:most], self._rest[most:]
        return text, not len(self._rest)

    def run_together(self, wanted: int) -> Ids:
        """Return the next tokens, whatever documents they are from."""
        parts: list[Ids] = []
        while wanted:
            text, _ = self.read(wanted)
            parts.append(text)
            wanted -= len(text)
        return np.concatenate(parts)

    def _next_document(self) -> Ids:
        ends = self.source.ends
        number = next(self._order, None)
        if number is None:
            self._order = iter(np.random.default_rng([*self._seed, self._epoch]).permutation(len(ends)).tolist())
            self._epoch += 1
            number = next(self._order)
        start = int(ends[number - 1]) if number else 0
        return np.asarray(self.source.tokens[start : int(ends[number])], dtype=np.int64)


def _drawn(readers: Sequence[_Reader], seed: int) -> Iterator[tuple[_Reader, np.random.Generator]]:
    """Yield a reader drawn by weight, and a source of randomness for what is made of its text."""
    weights = np.array([reader.source.weight for reader in readers], dtype=np.float64)
    draw = np.random.default_rng(seed)
    while True:
        yield readers[int(draw.choice(len(readers), p=weights / weights.sum()))], draw


def _row(pieces: Sequence[tuple[Ids, Ids]], row_tokens: int) -> Row:
    """Join texts to a row, padded at its end; the padding is a text of its own, for attention."""
    used = sum(len(ids) for ids, _ in pieces)
    left = row_tokens - used
    ids = np.concatenate([*(ids for ids, _ in pieces), np.zeros(left, dtype=np.int64)])
    targets = np.concatenate([*(targets for _, targets in pieces), np.full(left, IGNORED)])
    positions = np.concatenate([*(np.arange(len(ids)) for ids, _ in pieces), np.arange(left)])
    return Row(ids, targets, positions, used)
