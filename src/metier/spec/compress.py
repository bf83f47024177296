"""How much smaller than the trained model the shipped one may be, as a table of the job description."""

from typing import Literal, NamedTuple

from pydantic import Field, field_validator

from metier.errors import SpecError
from metier.spec.quantisation import BLOCK
from metier.spec.strict import Strict, mistake
from metier.spec.training import Training


class Cut(NamedTuple):
    """A smaller model that is made of the trained one."""

    layers: int
    """Layers dropped."""
    feed_forward: float
    """Share of the feed-forward channels that are kept."""
    experts: float
    """Share of each layer's experts that are kept."""

    @property
    def name(self) -> str:
        """What the cut is called in tables, folders and files: ``drop2-ff75``; ``whole`` where nothing is cut."""
        parts = {"drop": self.layers, "ff": _kept_percent(self.feed_forward), "experts": _kept_percent(self.experts)}
        return "-".join(f"{part}{number:g}" for part, number in parts.items() if number) or "whole"

    def kept_channels(self, channels: int) -> int:
        """Return how many of a layer's feed-forward channels stay: whole blocks of a file's types."""
        kept = max(round(channels * self.feed_forward / BLOCK), 1) * BLOCK
        return channels if self.feed_forward == 1 else min(kept, channels)

    def kept_experts(self, experts: int, used: int) -> int:
        """Return how many of a layer's experts stay, at least as many as a token is sent to."""
        return max(round(experts * self.experts), used)


WHOLE_MODEL = Cut(0, 1.0, 1.0)
"""The trained model itself."""


def file_name(cut: str, quantisation: str) -> str:
    """Return what the file of a cut is called, beside the job's name: the quantisation, after the name of the cut."""
    return quantisation if cut == WHOLE_MODEL.name else f"{cut}-{quantisation}"


def _kept_percent(share: float) -> float:
    """Return a share in percent; 0 where nothing is cut."""
    return round(100 * share, 2) if share < 1 else 0


class Compress(Strict):
    """What may be cut from the trained model; every combination of the lists is a candidate beside the whole model."""

    prefer: Literal["size", "speed"] = Field(
        "size", description="Of the candidates that pass and fit, the smallest or the fastest ships."
    )
    layers: list[int] = Field(default=[0], min_length=1, description="Numbers of layers to drop, such as [0, 2, 4].")
    feed_forward: list[float] = Field(
        default=[1.0],
        min_length=1,
        description="Shares of the feed-forward channels to keep, such as [1.0, 0.75]; not of a mixture's experts.",
    )
    experts: list[float] = Field(
        default=[1.0],
        min_length=1,
        description="For a mixture of experts: shares of each layer's experts to keep, such as [1.0, 0.5].",
    )
    heal: str = Field(
        "2m", description="How long each cut model learns from the whole one: '90s', '10m', '2h' or '300 steps'."
    )

    peak_lr: float | None = Field(
        None,
        gt=0,
        description="Highest learning rate of the healing, which is of all weights; by default the training's, after "
        "[train.lora] the default one, of a model from scratch a third of it.",
    )

    @field_validator("layers")
    @classmethod
    def _layers(cls, value: list[int]) -> list[int]:
        if min(value) < 0 or len(set(value)) < len(value):
            raise mistake("", f"found {value}", "Write different numbers from 0, such as [0, 2]")
        return value

    @field_validator("feed_forward", "experts")
    @classmethod
    def _shares(cls, value: list[float]) -> list[float]:
        if not all(0.01 <= share <= 1 for share in value) or len(set(map(_kept_percent, value))) < len(value):
            raise mistake("", f"found {value}", "Write different shares from 0.01 to 1.0, such as [1.0, 0.75]")
        return value

    @field_validator("heal")
    @classmethod
    def _budget(cls, value: str) -> str:
        return Training._budget(value)

    @property
    def cuts(self) -> list[Cut]:
        """Every combination but the whole model, the smallest cuts first."""
        every = (Cut(n, share, kept) for n in self.layers for share in self.feed_forward for kept in self.experts)
        return sorted(set(every) - {WHOLE_MODEL}, key=lambda cut: (cut.layers, -cut.feed_forward, -cut.experts))

    def check(self, layers: int, *, mixture: bool) -> None:
        """Refuse cuts that a model has no parts for.

        Args:
            layers: how many it has.
            mixture: whether it is a mixture of experts.

        Raises:
            SpecError: when it has too few layers, no experts, or no dense feed-forward layers.
        """
        if max(self.layers) >= layers:
            fix = f"Write numbers below {layers}"
            raise SpecError("compress.layers", f"{max(self.layers)} to drop, and the model has {layers}", fix)
        if mixture and min(self.feed_forward) < 1:
            fix = "Remove the key; a mixture is made smaller by compress.experts"
            raise SpecError("compress.feed_forward", "the model is a mixture of experts", fix)
        if not mixture and min(self.experts) < 1:
            raise SpecError("compress.experts", "the model has no experts", "Remove the key")
