"""How much the facts of a job are, and how much of them a model from scratch can hold.

Capacities are those of Allen-Zhu and Li 2024, "Physics of Language Models: Part 3.3, Knowledge Capacity Scaling Laws"
(arXiv 2404.05405), results 1 and 4: they were measured on made-up biographies, with models larger than ours mostly.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import log2
from typing import Any, Self

from metier.errors import ArtifactError
from metier.home import run_dir
from metier.spec.base import Base
from metier.spec.built import made_rows
from metier.spec.job import Job
from metier.spec.shape import ImpossibleShapeError
from metier.spec.weights import Weights, of_shape

BITS_WELL_LEARNED, BITS_LEARNED = 2.0, 1.0
"""What a parameter holds when each fact was seen 1,000 times, and 100 times; all parameters count."""
BITS_IN_INT4 = 0.7
"""What of it is left in a file of 4 bits a weight; one of 8 bits keeps all."""
MIXTURE_LOSS = 1.3
"""So many times less a parameter of a mixture of experts holds, of all its parameters, whatever a token passes."""

BYTES_A_PIECE, MARKS = 4, 3
"""Of questions and answers, and the start, the end and the line between them: 50 bytes in 15 tokens (`jobs/history`,
6,000 pieces; 21 tokens with 1,000)."""

_WIDEST, _MOST_LAYERS = 8192, 128


def counted(facts: Iterable[tuple[str, str]]) -> dict[str, dict[str, float]]:
    """Return for each relation the number of its ``facts``, and the ``bits`` that it takes to say which value is whose.

    Bits are the facts times the empirical entropy of the relation's values, sum of c log2(n / c) over values that come
    c times among n facts: log2(n) a fact where all differ. That is rather little: how values are spelt and what
    subjects are called is not counted. It is too much where one relation tells of another, as a birth of a death.

    Args:
        facts: relation and value of each.
    """
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for relation, value in facts:
        values[relation][value] += 1
    return {
        relation: {"facts": n, "bits": round(sum(count * log2(n / count) for count in of.values()), 1)}
        for relation, of in values.items()
        for n in [of.total()]
    }


@dataclass(frozen=True)
class Taught:
    """What the data step of a job of task ``qa`` counted."""

    facts: int
    bits: float
    """See `counted`."""
    rows: int
    """Of the training."""
    text_bytes: int
    """Of their questions and answers."""
    questions_a_fact: float

    @property
    def tokens(self) -> int:
        """Roughly how many tokens the training rows have."""
        return self.text_bytes // BYTES_A_PIECE + MARKS * self.rows

    @classmethod
    def from_result(cls, result: dict[str, Any]) -> Self:
        """Read it from what `metier.data.questions.prepare` returned."""
        known = result["questions"]["train"]["known"]
        questions = sum(sum(known.get(form, {}).values()) for form in ("ask", "reverse"))
        taught = result["facts"]["taught"]
        bits = sum(one["bits"] for one in result["knowledge"].values())
        return cls(taught, bits, result["rows"]["train"], result["train_bytes"], questions / taught)


def read_taught(job: Job) -> Taught | None:
    """Return what was counted when the job's facts were made into questions, or None where that is not done.

    Raises:
        ArtifactError: when the data step's manifest is damaged, or of a version that did not count.
    """
    manifest = made_rows(job) if job.task == "qa" else None
    if manifest is None:
        return None
    try:
        return Taught.from_result(manifest["result"])
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        folder = run_dir(job.name) / "data"
        fix = f"Remove {folder} and run 'metier build' again"
        raise ArtifactError(str(folder / "manifest.json"), f"does not count the facts ({error!r})", fix) from error


@dataclass(frozen=True)
class Knowledge:
    """What a model is to hold, and what it can."""

    facts: int
    bits: float
    well_learned_bits: float
    """What the model holds when each fact was seen 1,000 times."""
    learned_bits: float
    """And 100 times."""
    int4_bits: float
    """What a file of 4 bits a weight holds at most."""
    seen: float
    """How often the budget lets the model see each fact."""
    enough: bool
    """Whether the model, trained long enough, holds all."""
    changes: tuple[str, ...]
    """What would make it large enough, if it is not; each alone."""


def holds(weights: Weights, bits_a_parameter: float) -> float:
    """Return how many bits a model holds at so many a parameter."""
    return weights.parameters * bits_a_parameter / (MIXTURE_LOSS if weights.experts else 1.0)


def knowledge_of(taught: Taught, base: Base, weights: Weights, tokens: int) -> Knowledge:
    """Set a model from scratch beside the facts it is to hold.

    Args:
        taught: the facts.
        base: its shape.
        weights: the model's.
        tokens: that it is trained on.
    """
    well = holds(weights, BITS_WELL_LEARNED)
    return Knowledge(
        facts=taught.facts,
        bits=taught.bits,
        well_learned_bits=well,
        learned_bits=holds(weights, BITS_LEARNED),
        int4_bits=holds(weights, BITS_IN_INT4),
        seen=tokens / taught.tokens * taught.questions_a_fact,
        enough=taught.bits <= well,
        changes=() if taught.bits <= well else tuple(_larger(base, weights.pieces, taught.bits)),
    )


def _larger(base: Base, pieces: int, bits: float) -> Iterator[str]:
    """Yield the least width, and the fewest layers, that hold so many bits when the rest stays as it is."""
    wider = range(base.hidden_size + 32, _WIDEST + 1, 32)
    deeper = range(base.layers + 1, _MOST_LAYERS + 1)
    for key, numbers in {"hidden_size": wider, "layers": deeper}.items():
        for number in numbers:
            try:
                weights = of_shape(base.model_copy(update={key: number}).shape, pieces)
            except ImpossibleShapeError:
                continue
            if holds(weights, BITS_WELL_LEARNED) >= bits:
                yield f"write {key} = {number} under [base]: {weights.parameters / 1e6:.2f} M parameters"
                break
