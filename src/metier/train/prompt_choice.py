"""Choose the prompt format by measurement: what the untrained base finds easiest, for its length.

Every candidate wraps the same validation rows. Its loss is in nats an answer token. Trained on and shipped is the
candidate of the lowest product of the loss and the tokens of an example, among those whose examples are short enough
to be trained on: an example that costs half the tokens is seen twice as often in the same time. The candidate of the
lowest loss alone is how the untrained base is prompted when it is a contestant.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from metier.data.records import Record
from metier.model.loading import padding
from metier.progress import track
from metier.tasks.prompt import PromptFormat
from metier.train.batches import collate, encode
from metier.train.objective import mean_loss

_ROWS_A_BATCH = 8


class Candidate(NamedTuple):
    """One prompt format and what the untrained base makes of it."""

    prompt: PromptFormat
    loss_nats: float
    tokens: float
    """Mean tokens of an example: prompt and answer."""
    longest: int
    """Tokens of the longest example."""

    @property
    def price(self) -> float:
        """Nats an answer token times tokens an example: the lower, the better."""
        return self.loss_nats * self.tokens

    def to_json(self) -> dict[str, Any]:
        """Return the candidate as JSON-able values."""
        return {
            "prompt": self.prompt.to_json(),
            "loss_nats": round(self.loss_nats, 4),
            "tokens": round(self.tokens, 2),
            "longest": self.longest,
            "price": round(self.price, 2),
        }


def fitting(
    tokenizer: PreTrainedTokenizerFast, prompts: Sequence[PromptFormat], rows: Sequence[Record], max_tokens: int
) -> list[Record]:
    """Return the rows that are within ``max_tokens`` under the plainest format: those that every format is tried on."""
    plain = min(prompts, key=lambda prompt: len(prompt.render("")))
    return [row for row in rows if encode(tokenizer, plain, [row], max_tokens)]


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[PromptFormat],
    rows: Sequence[Record],
) -> list[Candidate]:
    """Return every format with the untrained model's loss on the rows, lowest price first.

    Args:
        model: the untrained model.
        tokenizer: its tokenizer.
        prompts: the candidates.
        rows: one row at least, held out from training; of any length.
    """
    found = []
    for prompt in track(prompts, "trying prompts"):
        examples = sorted(encode(tokenizer, prompt, rows, max_tokens=10**9), key=lambda e: e.tokens)
        chunks = [examples[i : i + _ROWS_A_BATCH] for i in range(0, len(examples), _ROWS_A_BATCH)]
        loss = mean_loss(model, [collate(chunk, padding(tokenizer)) for chunk in chunks])
        found.append(Candidate(prompt, loss, sum(e.tokens for e in examples) / len(examples), examples[-1].tokens))
    return sorted(found, key=lambda candidate: candidate.price)


def typical_examples(records: Sequence[Record], number: int, unknown: str | None = None) -> tuple[tuple[str, str], ...]:
    """Return a few fixed training rows of middling length to show in a prompt, in a stable order.

    Args:
        records: training rows.
        number: how many to show.
        unknown: what is answered where the answer is not known: one example in the middle shows that, if a row does.
    """
    told = [row for row in records if row.output != unknown]
    untold = _middling([row for row in records if row.output == unknown], 1)
    shown = _middling(told, number - len(untold))
    return (*shown[: number // 2], *untold, *shown[number // 2 :])


def _middling(records: Sequence[Record], number: int) -> tuple[tuple[str, str], ...]:
    one_line = [r for r in records[:10_000] if "\n" not in r.input + r.output]
    by_length = sorted(one_line, key=lambda r: (len(r.input) + len(r.output), r.input))
    middle = by_length[len(by_length) // 4 : -len(by_length) // 4 or None]
    stride = max(len(middle) // max(number, 1), 1)
    return tuple((r.input, r.output) for r in middle[::stride][:number])
