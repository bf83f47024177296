"""Pretraining: plain text in packed rows, by one objective or one after the other.

Usable from a script: `corpora` makes token ids of texts, `pretrain` trains any causal language model on them.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from metier.spec.training import Losses, Pretrain
from metier.train.batches import Batch
from metier.train.loop import fit
from metier.train.objective import PLAIN
from metier.train.packing import Corpus, Row, batched, causal_rows, corpora, marks, ul2_rows

__all__ = ["batches", "corpora", "pretrain", "watched"]

_WATCHED_TOKENS = 32_768
"""Most tokens that the validation loss is taken of."""


def pretrain(
    make_model: Callable[[], PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
    learned: Sequence[Corpus],
    held_out: Sequence[Corpus],
    settings: Pretrain,
    folder: Path,
    *,
    peak_lr: float,
    seed: int,
    losses: Losses = PLAIN,
    keep: Callable[[int, PreTrainedModel], None] | None = None,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Train on plain text to the end of the budget; see `metier.train.loop.fit`.

    Args:
        make_model: returns the untrained model, the same at every call.
        tokenizer: the model's; for UL2 with its sentinels.
        learned: what is learned.
        held_out: what the loss is watched on.
        settings: budget, objective, rows, optimiser, schedule.
        folder: where plan, log and checkpoints live.
        peak_lr: the highest learning rate.
        seed: seed of what is drawn: order, tasks, hidden spans.
        losses: what is minimised beside the loss on the targets.
        keep: called ``settings.keep_checkpoints`` times with steps done and the model at that time.

    Returns:
        The model of the lowest validation loss, and the training's facts.

    Raises:
        ArtifactError: when UL2 is asked of a vocabulary with too few sentinels.
        SpecError: when the budget has no room for a single step.
    """
    return fit(
        make_model,
        lambda: batches(tokenizer, learned, settings, seed),
        watched(tokenizer, held_out, settings, seed),
        settings,
        peak_lr,
        folder,
        losses=losses,
        keep=keep,
        kept=settings.keep_checkpoints,
    )


def batches(
    tokenizer: PreTrainedTokenizerFast, sources: Sequence[Corpus], settings: Pretrain, seed: int
) -> Iterator[Batch]:
    """Yield the batches of a pretraining for ever: UL2's until the switch, if there is one, then causal ones."""
    rows_a_batch = settings.batch_tokens // settings.row_tokens

    def of(objective: str) -> Iterator[Batch]:
        return batched(_rows(objective, tokenizer, sources, settings, seed), rows_a_batch)

    if settings.switch_step is None:
        return of(settings.objective)
    return chain(islice(of("ul2"), settings.switch_step), of("causal"))


def watched(
    tokenizer: PreTrainedTokenizerFast, sources: Sequence[Corpus], settings: Pretrain, seed: int
) -> list[Batch]:
    """Return batches of held-out text under the objective that the pretraining ends with."""
    objective = "causal" if settings.switch_step is not None else settings.objective
    tokens = min(sum(len(source.tokens) for source in sources), _WATCHED_TOKENS)
    rows = _rows(objective, tokenizer, sources, settings, seed)
    chosen = islice(rows, max(1, tokens // settings.row_tokens))
    return list(batched(chosen, settings.batch_tokens // settings.row_tokens))


def _rows(
    objective: str,
    tokenizer: PreTrainedTokenizerFast,
    sources: Sequence[Corpus],
    settings: Pretrain,
    seed: int,
) -> Iterator[Row]:
    if objective == "ul2":
        return ul2_rows(sources, settings.row_tokens, tokenizer, seed)
    return causal_rows(sources, settings.row_tokens, *marks(tokenizer), seed)
