"""How many bits of the facts of a job a model has stored: what they cost it, beside what they cost who knows none."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from metier.data.questions.about import about_path, read_about
from metier.data.records import Record, read_records
from metier.model.loading import padding
from metier.tasks.prompt import PromptFormat
from metier.train.batches import IGNORED, Example, collate, encode, one_pass
from metier.train.objective import predict

_BATCH_TOKENS = 4096
_LEAST_LEFT = 1e-6
"""Probability that is left for answers, at least, where a model is sure not to know."""


@dataclass(frozen=True)
class Relation:
    """What was found of the facts of one relation. Bits are a fact's, but for those that are stored."""

    facts: int
    """That are taught."""
    asked: int
    """Of these, how many a question of the exams is about."""
    withheld: int
    """Withheld facts that a question is about."""
    known_bits: float
    """What the value of a taught fact costs the model, mean."""
    unknown_bits: float | None
    """What the true value of a withheld fact costs it, mean; None where none is asked for."""
    entropy_bits: float
    """What it costs who knows how often each value comes, and not whose it is."""
    stored_bits: float
    """Of all facts of the relation: see `stored`."""


@dataclass(frozen=True)
class Stored:
    """What a model has stored."""

    bits: float
    relations: dict[str, Relation]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return asdict(self)


def stored(
    known: Mapping[str, Sequence[float]],
    withheld: Mapping[str, Sequence[float]],
    taught: Mapping[str, Mapping[str, float]],
) -> Stored:
    """Return the bits stored: of each relation, facts times the difference of two costs, where it is above zero.

    The one cost is that of a value of which the model was taught; the other that of a value of which it was not. The
    latter is the mean over withheld facts, or the empirical entropy of the relation's values if that is less: a model
    that is sure of wrong answers pays far more for what it does not know than anybody who knows nothing has to, and
    that is no knowledge. A decoder's gain over the prior is never above the mutual information of model and values, in
    expectation (Barber and Agakov 2003, "The IM Algorithm"), so a relation is never credited with more than its facts
    hold. Across relations it can be: one that tells of another is counted with it.

    Args:
        known: by relation, the bits that each asked value of the taught facts costs.
        withheld: the same of the withheld facts.
        taught: by relation, the number of taught ``facts`` and their ``bits`` (`metier.spec.knowledge.counted`).
    """
    found = {}
    for relation, counts in taught.items():
        if not known.get(relation):
            continue  # nothing is asked of it: nothing is shown
        facts, entropy = int(counts["facts"]), counts["bits"] / counts["facts"]
        others = withheld.get(relation, ())
        unknown = mean(others) if others else None
        cost = mean(known[relation])
        ignorant = entropy if unknown is None else min(entropy, unknown)
        found[relation] = Relation(
            facts, len(known[relation]), len(others), cost, unknown, entropy, facts * max(0.0, ignorant - cost)
        )
    return Stored(sum(one.stored_bits for one in found.values()), found)


def stored_by(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompt: PromptFormat,
    data: Path,
    taught: Mapping[str, Mapping[str, float]],
    unknown: str,
) -> Stored:
    """Return what a model has stored of a job's facts, by the exams' questions for values, in words it never learned.

    Args:
        model: the trained model.
        tokenizer: its tokenizer.
        prompt: how it is asked.
        data: the folder that the data step left.
        taught: the facts by relation, as in `stored`.
        unknown: the words for not knowing.

    Raises:
        DataError: when the exams cannot be read.
    """
    known, withheld = (
        _by_relation(model, tokenizer, prompt, _values(data, exams, kind), unknown)
        for kind, exams in {"known": ("validation", "test"), "withheld": ("validation_unknown", "test_unknown")}.items()
    )
    return stored(known, withheld, taught)


def cost_bits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompt: PromptFormat,
    records: Sequence[Record],
    unknown: str,
) -> list[float]:
    """Return what each record's output costs a model in bits, its end included, given that it does answer.

    That is -log2 of the output's probability divided by that of not saying ``unknown``.
    """
    pad = padding(tokenizer)
    say, give_up = (
        _nats(model, encode(tokenizer, prompt, rows, max_tokens=2**31), pad)
        for rows in (records, [record._replace(output=unknown) for record in records])
    )
    left_N = (-torch.expm1(give_up)).clamp(min=_LEAST_LEFT)
    return ((left_N.log() - say) / log(2)).tolist()


@torch.no_grad()
def _nats(model: PreTrainedModel, examples: Sequence[Example], pad: int) -> torch.Tensor:
    """Return the log-probability of each example's answer and its end, (N,), in nats, float64."""
    found_N = torch.zeros(len(examples), dtype=torch.float64)
    model.eval()
    for numbers in one_pass([example.tokens for example in examples], _BATCH_TOKENS) if examples else ():
        batch = collate([examples[number] for number in numbers], pad)
        wanted_NT = batch.targets_NT != IGNORED
        inputs = {"input_ids": batch.ids_NT, "attention_mask": batch.mask_NT, "use_cache": False}
        _, logits_AV = predict(model, inputs, wanted_NT)
        logs_A = logits_AV.double().log_softmax(-1).gather(1, batch.targets_NT[wanted_NT][:, None])[:, 0]
        found_N.index_add_(0, torch.tensor(numbers)[wanted_NT.nonzero()[:, 0]], logs_A)
    return found_N


def _values(data: Path, exams: Iterable[str], kind: str) -> list[tuple[str, Record]]:
    """Return the questions for values of some exams, each with its relation and the value as the store has it."""
    found = []
    for exam in exams:
        path = data / f"{exam}.jsonl"
        for row, about in zip(read_records(path), read_about(about_path(path)), strict=True):
            if about.kind == kind and about.form == "ask":
                found.append((about.relation, row._replace(output=about.value)))
    return found


def _by_relation(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompt: PromptFormat,
    asked: Sequence[tuple[str, Record]],
    unknown: str,
) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    costs = cost_bits(model, tokenizer, prompt, [record for _, record in asked], unknown)
    for (relation, _), cost in zip(asked, costs, strict=True):
        found[relation].append(cost)
    return found
