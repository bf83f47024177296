"""How many pieces a job needs, by measurement: what each size costs in bytes, in tokens and in loss.

A trimmed vocabulary is another segmentation and another softmax, so nats a token of two sizes cannot be compared;
nats a character of the same answers can. The trimmed model is not made for it: its hidden states are those of the base
on the same pieces, its logits those of the kept rows.

V pieces, T tokens of a row, A of them in the answer, H width of the model.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from metier.data.records import Record
from metier.progress import track
from metier.spec.weights import Weights
from metier.tasks.prompt import PromptFormat
from metier.tokenizer.pieces import Kind, Pieces
from metier.tokenizer.trim import choose

LEAST = 1000
"""The lowest rung of the ladder, in pieces asked for; each further one is twice as high, up to all that are used."""

LOSS_SLACK = 0.02
TOKENS_SLACK = 0.03
"""By how much the chosen size may be above the best of the ladder: nats a character, and tokens a row."""


@dataclass(frozen=True)
class Size:
    """What one size of the vocabulary costs."""

    asked: int
    """The most used pieces that are kept."""
    pieces: int
    """What there is in the end: with bytes, specials and the closure under merges."""
    parameters: int
    file_mib: Mapping[str, float]
    """Size of the file by quantisation."""
    input_tokens: float
    """Mean tokens of an input."""
    output_tokens: float
    """Mean tokens of an output."""
    nats_a_character: float
    """What the untrained base, trimmed, finds of the validation answers, their end included."""

    @property
    def tokens(self) -> float:
        """Mean tokens of a row."""
        return self.input_tokens + self.output_tokens

    def to_json(self) -> dict[str, Any]:
        """Return the size as JSON-able values."""
        rounded = {
            "file_mib": {name: round(size, 1) for name, size in self.file_mib.items()},
            "input_tokens": round(self.input_tokens, 2),
            "output_tokens": round(self.output_tokens, 2),
            "nats_a_character": round(self.nats_a_character, 4),
        }
        return asdict(self) | rounded


def ladder(used: int) -> list[int]:
    """Return the sizes that are tried, for a text that uses so many pieces."""
    rungs = [LEAST]
    while rungs[-1] < used:
        rungs.append(2 * rungs[-1])
    return [*rungs[:-1], used]


def measure(
    model: PreTrainedModel,
    pieces: Pieces,
    counts: Counter[int],
    always: Sequence[int],
    rows: Sequence[Record],
    prompt: PromptFormat,
    quantisations: Sequence[str],
) -> list[Size]:
    """Measure every size of the ladder, the smallest first.

    Args:
        model: the untrained base, with its whole vocabulary.
        pieces: that vocabulary.
        counts: use of each id in the job's text.
        always: ids kept whatever their use.
        rows: validation rows.
        prompt: how the base is asked.
        quantisations: of the files whose sizes are told.
    """
    weights = Weights({name: tuple(weight.shape) for name, weight in model.named_parameters()})
    states = _States(model)
    output: Any = model.get_output_embeddings()
    output_VH, bias_V = output.weight.detach(), getattr(output, "bias", None)
    found = []
    rungs = ladder(sum(pieces.kinds[i] is Kind.NORMAL for i in counts))
    for asked in track(rungs, "measuring vocabularies"):
        small, old = pieces.subset(choose(pieces, counts, asked, always))
        cut = weights.with_pieces(len(small))
        inputs, outputs, nats, characters = 0, 0, 0.0, 0
        tokenizer, rows_V = small.tokenizer(), torch.tensor(old)
        kept_VH, kept_V = output_VH[rows_V], None if bias_V is None else bias_V.detach()[rows_V]
        for row in rows:
            ids, answer = _ids(tokenizer, prompt, row)
            logits_AV = functional.linear(states([old[i] for i in ids], len(answer)), kept_VH, kept_V)
            nats += float(functional.cross_entropy(logits_AV, torch.tensor(answer), reduction="sum"))
            characters += len(row.output)
            inputs += len(tokenizer.encode(row.input, add_special_tokens=False))
            outputs += len(answer) - 1
        found.append(
            Size(
                asked=asked,
                pieces=len(small),
                parameters=cut.parameters,
                file_mib={name: cut.file_mib(name) for name in quantisations},
                input_tokens=inputs / len(rows),
                output_tokens=outputs / len(rows),
                nats_a_character=nats / characters,
            )
        )
    return found


def choice(sizes: Sequence[Size], file_mib: float | None) -> Size:
    """Return the smallest size that is nearly as good as the best, or the largest smaller one whose file fits.

    Args:
        sizes: of the ladder, the smallest first.
        file_mib: the largest file that is wanted, None for any.
    """
    loss = min(size.nats_a_character for size in sizes) * (1 + LOSS_SLACK)
    tokens = min(size.tokens for size in sizes) * (1 + TOKENS_SLACK)
    good = next((n for n, size in enumerate(sizes) if size.nats_a_character <= loss and size.tokens <= tokens), -1)
    fitting = [s for s in sizes[: good + 1 or None] if file_mib is None or min(s.file_mib.values()) <= file_mib]
    return fitting[-1] if fitting else sizes[0]


class _States:
    """The base's hidden states of the answers; a row that is cut as before is not computed again."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._decoder: Any = model.eval().get_decoder()
        self._known: dict[tuple[int, ...], torch.Tensor] = {}

    @torch.no_grad()
    def __call__(self, ids: list[int], answer_tokens: int) -> torch.Tensor:
        """Return the states, [A, H], from which the answer at the end of a row is to be told."""
        key = tuple(ids)
        if key not in self._known:
            states_TH = self._decoder(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]
            self._known[key] = states_TH[-answer_tokens - 1 : -1].clone()
        return self._known[key]


def _ids(tokenizer: PreTrainedTokenizerFast, prompt: PromptFormat, row: Record) -> tuple[list[int], list[int]]:
    asked = tokenizer.encode(prompt.render(row.input))
    answer = [*tokenizer.encode(prompt.answer(row.output), add_special_tokens=False), int(tokenizer.eos_token_id)]
    return asked + answer, answer
