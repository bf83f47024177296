"""Plain text as rows of one length: several texts a row, which do not see each other.

Position t of a row holds an input and the target predicted there: every text is shifted right by one, behind a BOS
token. Positions start again at 0 with every text, by which `transformers` knows where its attention ends.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from metier.progress import track
from metier.train.batches import IGNORED, Batch
from metier.train.ul2 import TASKS, Ids, denoise, first_sentinel, lengths, with_marks

Piece = tuple[Ids, Ids]
"""One text of a row: what goes in, and what is predicted there."""

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
    backend = tokenizer.backend_tokenizer
    backend.no_padding()  # a tokenizer goes on padding, and cutting, after it was asked to once
    backend.no_truncation()
    found = []
    for name, texts in documents.items():
        parts: list[np.ndarray] = []
        for start in track(range(0, len(texts), _ENCODED_AT_ONCE), f"tokenizing {name}"):
            encoded = backend.encode_batch_fast(list(texts[start : start + _ENCODED_AT_ONCE]), add_special_tokens=False)
            parts += [np.array(encoding.ids, dtype=np.uint32) for encoding in encoded if encoding.ids]
        if parts:
            ends = np.cumsum([len(part) for part in parts])
            found.append(Corpus(name, np.concatenate(parts), ends, weights[name]))
    return found


def marks(tokenizer: PreTrainedTokenizerFast) -> tuple[int, int]:
    """Return the ids in front of a text and behind it: BOS and EOS; EOS twice, where there is no BOS."""
    bos, eos = tokenizer.bos_token_id, int(tokenizer.eos_token_id)
    return eos if bos is None else int(bos), eos


class _Rows:
    """Rows made of drawn text."""

    _drawn: "_Drawn"

    @property
    def read_to(self) -> Any:
        """A position from which causal rows go on in the same texts, with chance begun anew."""
        return None, self._drawn.position[1]


class CausalRows(_Rows):
    """Rows for plain language modelling, for ever: a pure function of the arguments.

    A row comes from one source, drawn by weight, and is filled with its documents, each ended by EOS. A document that
    does not fit goes on in the source's next row, behind a BOS of its own.
    """

    def __init__(
        self, sources: Sequence[Corpus], row_tokens: int, bos: int, eos: int, seed: int, position: Any = None
    ) -> None:
        self._drawn = _Drawn(sources, seed, position)
        self._row_tokens, self._bos, self._eos = row_tokens, bos, eos

    @property
    def position(self) -> Any:
        """Where the next row begins, as JSON values."""
        return self._drawn.position

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Row:
        reader = self._drawn.reader()
        pieces, room = [], self._row_tokens
        while room > 0:
            text, ended = reader.read(room)
            if ended and len(text) < room:  # one that fills the row to its last place goes without its end mark
                text = np.append(text, self._eos)
            pieces.append((np.concatenate(([self._bos], text[:-1])), text))
            room -= len(text)
        return _row(pieces, self._row_tokens)


class UL2Rows(_Rows):
    """Rows of UL2's six tasks, for ever: a pure function of the arguments.

    Source and task of an example are drawn by weight and rate. Its text is the source's next tokens, documents run
    together (as T5 does). Half a row is the length of an example's inputs, and the most its targets may take.
    Attention is causal over inputs and targets; only targets are learned.

    Raises:
        ArtifactError: when the vocabulary has too few sentinels.
    """

    def __init__(
        self,
        sources: Sequence[Corpus],
        row_tokens: int,
        tokenizer: PreTrainedTokenizerFast,
        seed: int,
        position: Any = None,
    ) -> None:
        self._row_tokens, self._sentinel = row_tokens, first_sentinel(tokenizer, row_tokens)
        self._bos, self._eos = marks(tokenizer)
        self._prefixes = [np.array(tokenizer.encode(t.prefix, add_special_tokens=False), dtype=np.int64) for t in TASKS]
        self._raw = [lengths(task, row_tokens // 2).raw for task in TASKS]
        self._rates = np.array([task.rate for task in TASKS])
        drawn, left_over = position or (None, None)
        self._drawn = _Drawn(sources, seed, drawn)
        self._left_over: Piece | None = None
        if left_over:
            self._left_over = np.array(left_over[0], dtype=np.int64), np.array(left_over[1], dtype=np.int64)

    @property
    def position(self) -> Any:
        """Where the next row begins, as JSON values: with the example that did not fit into the last one."""
        return self._drawn.position, self._left_over and [side.tolist() for side in self._left_over]

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Row:
        pieces: list[Piece] = []
        used = 0
        while True:
            piece = self._left_over or self._example()
            self._left_over = None
            if used + len(piece[0]) > self._row_tokens:
                self._left_over = piece
                return _row(pieces, self._row_tokens)
            pieces.append(piece)
            used += len(piece[0])

    def _example(self) -> Piece:
        reader = self._drawn.reader()
        number = int(self._drawn.draw.choice(len(TASKS), p=self._rates))
        text = reader.run_together(self._raw[number])
        shown, asked = denoise(text, TASKS[number], self._drawn.draw, self._sentinel)
        inputs, targets = with_marks(self._prefixes[number], shown, asked, self._eos, self._row_tokens // 2)
        ids = np.concatenate(([self._bos], inputs, targets[:-1]))
        return ids, np.concatenate((np.full(len(inputs), IGNORED), targets))


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

    def __init__(self, source: Corpus, seed: int, position: tuple[int, int, int]) -> None:
        self.source = source
        self._seed = [seed, zlib.crc32(source.name.encode())]
        self._epoch, self._begun, left = position
        self._order = self._order_of(self._epoch)
        self._rest: Ids = np.zeros(0, dtype=np.int64)
        if left:
            self._rest = self._document(int(self._order[self._begun - 1]))[-left:]

    @property
    def position(self) -> tuple[int, int, int]:
        """Times around, documents begun this time, and tokens left of the last of them."""
        return self._epoch, self._begun, len(self._rest)

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
        if self._begun == len(self._order):
            self._epoch, self._begun = self._epoch + 1, 0
            self._order = self._order_of(self._epoch)
        self._begun += 1
        return self._document(int(self._order[self._begun - 1]))

    def _order_of(self, epoch: int) -> Ids:
        return np.random.default_rng([*self._seed, epoch]).permutation(len(self.source.ends))

    def _document(self, number: int) -> Ids:
        ends = self.source.ends
        start = int(ends[number - 1]) if number else 0
        return np.asarray(self.source.tokens[start : int(ends[number])], dtype=np.int64)


class _Drawn:
    """The sources, drawn by weight, and the randomness of what is made of their text."""

    def __init__(self, sources: Sequence[Corpus], seed: int, position: Any) -> None:
        generator, readers = position or (None, [(0, 0, 0)] * len(sources))
        self.draw = np.random.default_rng(seed)
        if generator:
            self.draw.bit_generator.state = generator
        self._readers = [_Reader(source, seed, tuple(at)) for source, at in zip(sources, readers, strict=True)]
        weights = np.array([source.weight for source in sources], dtype=np.float64)
        self._shares = weights / weights.sum()

    @property
    def position(self) -> Any:
        """Where everything is, as JSON values."""
        return self.draw.bit_generator.state, [reader.position for reader in self._readers]

    def reader(self) -> _Reader:
        """Draw a source."""
        return self._readers[int(self.draw.choice(len(self._readers), p=self._shares))]


def _row(pieces: Sequence[Piece], row_tokens: int) -> Row:
    """Join texts to a row, padded at its end; the padding is a text of its own, for attention."""
    used = sum(len(ids) for ids, _ in pieces)
    left = row_tokens - used
    ids = np.concatenate([*(ids for ids, _ in pieces), np.zeros(left, dtype=np.int64)])
    targets = np.concatenate([*(targets for _, targets in pieces), np.full(left, IGNORED)])
    positions = np.concatenate([*(np.arange(len(ids)) for ids, _ in pieces), np.arange(left)])
    return Row(ids, targets, positions, used)
