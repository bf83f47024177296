"""UL2's mixture of denoisers as OpenMoE trains on it: what is hidden, and how inputs and targets are written.

UL2: Tay et al. 2022 (arXiv 2205.05131). Span corruption: Raffel et al. 2020 (T5, JMLR 21/140). The six tasks, their
rates, texts and lengths are those of OpenMoE's training configuration (Xue et al. 2024, arXiv 2402.01739).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from metier.errors import ArtifactError
from metier.tokenizer.learn import SENTINEL

Ids = npt.NDArray[np.int64]


class Task(NamedTuple):
    """One denoising task: hide ``noise`` of the text in spans of ``mean_span`` tokens; without spans, all of its end.

    ``prefix`` is the text in front of the inputs, ``rate`` the share of the examples.
    """

    prefix: str
    rate: float
    noise: float = 0.5
    mean_span: int | None = None


TASKS = (
    Task("[NLU] ", 0.1, noise=0.15, mean_span=3),
    Task("[NLU] ", 0.1, noise=0.15, mean_span=8),
    Task("[NLG] ", 0.1, noise=0.5, mean_span=3),
    Task("[NLG] ", 0.1, noise=0.5, mean_span=8),
    Task("[NLG] ", 0.1, noise=0.5, mean_span=64),
    Task("[S2S] ", 0.5),
)


class Lengths(NamedTuple):
    """Lengths of a task's examples in tokens; inputs and targets with their end mark.

    The last task, which continues a text, splits its raw tokens at random: its inputs and targets are at most this.
    """

    raw: int
    inputs: int
    targets: int
    spans: int


def lengths(task: Task, inputs_tokens: int) -> Lengths:
    """Return the longest raw text whose inputs fit into ``inputs_tokens`` (T5's ``random_spans_helper``)."""
    if task.mean_span is None:
        return Lengths(inputs_tokens - 1, inputs_tokens - 1, inputs_tokens - 1, 0)
    raw = inputs_tokens - 1
    while _lengths(raw + 1, task).inputs <= inputs_tokens:
        raw += 1
    found = _lengths(raw, task)
    if task.noise == 0.5 and found.targets > found.inputs:  # by a rounding: T5 keeps the two sides equal
        found = _lengths(raw - 1, task)
    return found


def _lengths(raw: int, task: Task) -> Lengths:
    hidden, spans = _hidden(raw, task)
    return Lengths(raw, raw - hidden + spans + 1, hidden + spans + 1, spans)


def _hidden(raw: int, task: Task) -> tuple[int, int]:
    """Return how many tokens are hidden, and in how many spans."""
    assert task.mean_span is not None
    hidden = min(max(round(raw * task.noise), 1), raw - 1)
    return hidden, max(1, round(hidden / task.mean_span))


def sentinels_needed(row_tokens: int) -> int:
    """Return how many sentinels a vocabulary must have for rows of a length."""
    return max(lengths(task, row_tokens // 2).spans for task in TASKS)


def denoise(text: Ids, task: Task, draw: np.random.Generator, first_sentinel: int) -> tuple[Ids, Ids]:
    """Split a text into what is shown and what is asked for; together they hold each of its tokens once.

    Spans: shown and hidden runs take turns, shown first, with lengths drawn uniformly from all splits. Each hidden
    run is a sentinel in the inputs, each shown run one in the targets, counting ``first_sentinel``,
    ``first_sentinel`` - 1, ... on both sides. Without spans: the text is cut in two anywhere.

    Args:
        text: token ids, two at least.
        task: which task.
        draw: where randomness comes from.
        first_sentinel: id of ``<extra_id_0>``.

    Returns:
        Inputs and targets, without prefix and end marks.
    """
    if task.mean_span is None:
        at = int(draw.integers(1, len(text)))
        return text[:at], text[at:]
    hidden, spans = _hidden(len(text), task)
    runs = np.empty(2 * spans, dtype=np.int64)
    runs[0::2] = _random_parts(len(text) - hidden, spans, draw)
    runs[1::2] = _random_parts(hidden, spans, draw)
    run = np.repeat(np.arange(2 * spans), runs)
    starts = np.cumsum(runs) - runs
    first = np.zeros(len(text), dtype=bool)
    first[starts] = True
    is_hidden = run % 2 == 1
    marked = np.where(first, first_sentinel - run // 2, text)
    inputs = np.where(is_hidden, marked, text)[~is_hidden | first]
    targets = np.where(is_hidden, text, marked)[is_hidden | first]
    return inputs, targets


def _random_parts(total: int, parts: int, draw: np.random.Generator) -> Ids:
    """Return lengths of at least one that sum up to the total, uniform among all such splits."""
    cuts = np.sort(draw.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate(([0], cuts, [total]))).astype(np.int64)


def with_marks(prefix: Ids, inputs: Ids, targets: Ids, eos: int, side_tokens: int) -> tuple[Ids, Ids]:
    """Put the prefix in front, cut either side to ``side_tokens`` - 1 and end it.

    As in OpenMoE the lengths leave no room for the prefix: it pushes the end of full inputs off.
    """
    end = np.array([eos], dtype=np.int64)
    shown = np.concatenate((prefix, inputs))[: side_tokens - 1]
    return np.concatenate((shown, end)), np.concatenate((targets[: side_tokens - 1], end))


def first_sentinel(tokenizer: PreTrainedTokenizerFast, row_tokens: int) -> int:
    """Return the id of ``<extra_id_0>``.

    Raises:
        ArtifactError: when the vocabulary has too few sentinels for rows of this length, or in another order.
    """
    needed = sentinels_needed(row_tokens)
    vocabulary = tokenizer.get_vocab()
    found = [vocabulary.get(SENTINEL.format(k)) for k in range(needed)]
    first = found[0]
    if first is None or found != [first - k for k in range(needed)]:
        raise ArtifactError(
            f"the tokenizer of {tokenizer.name_or_path or 'the model'}",
            f"UL2 in rows of {row_tokens} tokens needs {SENTINEL.format(0)} to {SENTINEL.format(needed - 1)}, with ids "
            f"that count down; {sum(i is not None for i in found)} of them are there",
            "Set pretrain.objective to 'causal', or start from scratch, where they are reserved",
        )
    return int(first)
