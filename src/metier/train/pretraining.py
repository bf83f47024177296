"""Pretraining: plain text in packed rows, by one objective or one after the other.

Usable from a script: `corpora` makes token ids of texts, `pretrain` trains any causal language model on them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Self

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from metier.errors import ArtifactError
from metier.model.architectures import ARCHITECTURES
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
        ArtifactError: when UL2 is asked of a vocabulary with too few sentinels, or the model lets texts that are
            packed into a row see each other.
        SpecError: when the budget has no room for a single step.
    """
    return fit(
        lambda: keeping_texts_apart(make_model()),
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


@torch.no_grad()
def keeping_texts_apart(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model, after a look at whether a text in a row is read as it is alone.

    That is so where a class hands positions on to its attention mask: those of GGUF's architectures are tested to.

    Raises:
        ArtifactError: when it is not.
    """
    if model.config.model_type in (*ARCHITECTURES, "openmoe"):
        return model
    middle = model.config.vocab_size // 2
    ids_1T = torch.arange(middle, middle + 4, device=model.device)[None]
    positions_1T = torch.tensor([[0, 1, 0, 1]], device=model.device)
    trains = model.training
    packed, alone = (
        model.eval()(input_ids=ids, position_ids=positions, use_cache=False).logits[0, -2:].float()
        for ids, positions in ((ids_1T, positions_1T), (ids_1T[:, 2:], positions_1T[:, 2:]))
    )
    model.train(trains)
    if not torch.allclose(packed, alone, rtol=1e-3, atol=1e-3 * float(alone.abs().max())):
        found = f"in models of type {model.config.model_type!r} texts in one row see each other"
        raise ArtifactError("pretrain", found, f"Begin with one of these: {', '.join(ARCHITECTURES)}; or from scratch")
    return model


class PackedBatches:
    """The batches of a pretraining, for ever: UL2's until the switch, if there is one, then causal ones.

    The causal ones go on in the texts where UL2's ended.

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
            self._rows = self._of(self._objective, self._rows.read_to)
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
