"""Pretraining: plain text in packed rows, by one objective or one after the other.

Usable from a script: `corpora` makes token ids of texts, `pretrain` trains any causal language model on them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Self

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from metier.spec.training import Losses, Pretrain
from metier.train.batches import Batch
from metier.train.loop import fit
from metier.train.objective import PLAIN
from metier.train.packing import CausalRows, Corpus, UL2Rows, batched, corpora, marks

__all__ = ["PackedBatches", "corpora", "pretrain", "watched"]

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
    keep: Callable[[int, PreTrainedModel], None] = lambda done, model: None,
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
        lambda position: PackedBatches(tokenizer, learned, settings, seed, position),
        watched(tokenizer, held_out, settings, seed),
        settings,
        peak_lr,
        folder,
        seed=seed,
        losses=losses,
        keep=keep,
        kept=settings.keep_checkpoints,
    )


class PackedBatches:
    """The batches of a pretraining, for ever: UL2's until the switch, if there is one, then causal ones.

    A position holds that of the rows, so that going there costs nothing.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        sources: Sequence[Corpus],
        settings: Pretrain,
        seed: int,
        position: Any = None,
    ) -> None:
        self._step: int
        self._step, rows_position = position or (0, None)
        self._settings, self._of = settings, partial(_rows, tokenizer, sources, settings, seed)
        self._rows = self._of(self._objective, rows_position)

    @property
    def position(self) -> Any:
        """Batches given, and where the rows are, as JSON values."""
        return self._step, self._rows.position

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        batch = next(batched(self._rows, self._settings.batch_tokens // self._settings.row_tokens))
        self._step += 1
        if self._step == self._settings.switch_step:
            self._rows = self._of(self._objective)
        return batch

    @property
    def _objective(self) -> str:
        """The objective of the next batch."""
        switch = self._settings.switch_step
        return self._settings.objective if switch is None or self._step < switch else "causal"


def watched(
    tokenizer: PreTrainedTokenizerFast, sources: Sequence[Corpus], settings: Pretrain, seed: int
) -> list[Batch]:
    """Return batches of held-out text under the objective that the pretraining ends with."""
    objective = "causal" if settings.switch_step is not None else settings.objective
    tokens = min(sum(len(source.tokens) for source in sources), _WATCHED_TOKENS)
    rows = _rows(tokenizer, sources, settings, seed, objective)
    chosen = islice(rows, max(1, tokens // settings.row_tokens))
    return list(batched(chosen, settings.batch_tokens // settings.row_tokens))


def _rows(
    tokenizer: PreTrainedTokenizerFast,
    sources: Sequence[Corpus],
    settings: Pretrain,
    seed: int,
    objective: str,
    position: Any = None,
) -> CausalRows | UL2Rows:
    if objective == "ul2":
        return UL2Rows(sources, settings.row_tokens, tokenizer, seed, position)
    return CausalRows(sources, settings.row_tokens, *marks(tokenizer), seed, position)
