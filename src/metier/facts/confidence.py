"""How sure an answer is: the model's own probability of it, put right by how often such answers were right."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Calibration:
    """Turns the log-probability of an answer into the probability that it is right, and says what is sure enough.

    A logistic curve over the logit of the answer's probability (Platt 1999, "Probabilistic Outputs for Support Vector
    Machines"), fitted to answers of the very file that ships.

    Attributes:
        slope: of the curve; 1 where the model is right as often as it believes.
        intercept: of the curve, in logits.
        threshold: least confidence, 0 to 1, of an answer that is given; above 1 where no threshold keeps the risk.
        risk: most answers that may be wrong, of those given.
    """

    slope: float
    intercept: float
    threshold: float
    risk: float

    def confidence(self, logprob: float) -> float:
        """Return the probability, 0 to 1, that an answer of this log-probability, in nats, is right."""
        score = self.slope * logit(logprob) + self.intercept
        return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))

    def sure(self, logprob: float) -> bool:
        """Return whether an answer is sure enough to be given."""
        return self.confidence(logprob) >= self.threshold

    def to_json(self) -> dict[str, float]:
        """Return the curve as JSON-able values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(**{name: float(value[name]) for name in ("slope", "intercept", "threshold", "risk")})


def logit(logprob: float) -> float:
    """Return the logit of a probability given as its logarithm, within -30 to 30 so that certainty is a number."""
    bounded = min(max(logprob, -30.0), -1e-13)
    return bounded - math.log(-math.expm1(bounded))
