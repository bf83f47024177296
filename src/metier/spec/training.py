"""How models learn, as tables of the job description: what pretraining and training have in common, and the losses."""

import re
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from metier.errors import SpecError
from metier.spec.strict import Strict, mistake

_BUDGET = re.compile(r"(?P<amount>[0-9]+(?:\.[0-9]+)?) ?(?P<unit>s|m|h|steps)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_TOKENS = re.compile(r"[0-9]+ ?tokens")

Schedule = Literal["linear", "inverse_sqrt", "constant"]
"""What the learning rate does after the warm-up."""

ADAPTERS_RATE = 10
"""How many times the rate of all weights adapters learn at (Schulman et al. 2025, "LoRA Without Regret")."""


OF_OPENMOE = ("capacity_factor", "router_noise", "dropout")
"""Keys of a training that only models of architecture OpenMoE have a use for."""


class Training(Strict):
    """What every training must be told."""

    table: ClassVar[str] = "train"
    """Where the keys stand in a job description."""

    budget: str = Field("10m", description="Wall clock ('90s', '10m', '2h') or number of steps ('300 steps').")
    optimizer: Literal["adamw", "adafactor"] = Field(
        "adamw", description="'adafactor' takes a third of AdamW's memory and steps relative to a weight's size."
    )
    peak_lr: float | None = Field(
        None,
        gt=0,
        description="Highest learning rate; by default 6e-5 for a released base, 3e-3 from scratch, ten times that "
        "for [train.lora]; Adafactor 1e-3 and 1e-2.",
    )
    schedule: Schedule = Field(
        "linear",
        description="After the warm-up: 'linear' falls to zero, 'inverse_sqrt' with the root of the steps, 'constant' "
        "stays. Warming up is a linear rise, but with 'inverse_sqrt' it is the peak.",
    )
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        "float32",
        description="Of the factors of matrix products; weights stay float32. 'auto' takes bfloat16 where the hardware "
        "multiplies it.",
    )
    batch_tokens: int = Field(1200, ge=16, description="Tokens per step, prompts included.")
    micro_batch_tokens: int | None = Field(
        None,
        ge=16,
        description="Maximum padded tokens that a process computes at once: a batch is cut into parts and their "
        "gradients are added up; by default it is not.",
    )
    activation_checkpointing: bool = Field(
        False, description="Forget what layers computed and compute it again for the gradient: less memory, more time."
    )
    shard: bool = Field(
        False,
        description="With several processes: each holds a part of every weight, gradient and moment (FSDP), for models "
        "that do not fit whole.",
    )
    warmup_share: float = Field(0.1, ge=0, lt=1, description="Share of the steps that warm up.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decoupled weight decay.")
    clip_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")
    freeze_router_after: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="For a mixture of experts: share of the steps after which its routers stop learning.",
    )
    capacity_factor: float | Literal["none"] | None = Field(
        None,
        description="For OpenMoE: while it learns, an expert has room for capacity_factor x tokens / experts choices, "
        "and what exceeds it is dropped. All choices of a token count, so that of two 37.5% or more are dropped at "
        "OpenMoE's own 1.25, and none at 2 where experts are used alike. 'none' drops nothing, as exams do; by default "
        "it is as the model has it, from scratch 'none'.",
    )
    router_noise: Literal["jitter", "gaussian", "none"] | None = Field(
        None,
        description="For OpenMoE: what is done to the routers' scores while it learns: 'jitter' multiplies by 0.99 to "
        "1.01, 'gaussian' adds a deviation of 1 / experts, 'none' leaves them; by default as the model has it.",
    )
    dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="For OpenMoE: dropout after every layer's parts, 0.05 for its chat model; by default as the model "
        "has it, from scratch 0.",
    )
    validations: int = Field(
        4, ge=1, description="How often the validation loss is measured after the start, at even intervals."
    )
    checkpoint_seconds: float = Field(60.0, gt=0, description="Time between two checkpoints.")

    @field_validator("budget")
    @classmethod
    def _budget(cls, value: str) -> str:
        match = _BUDGET.fullmatch(value)
        if not match or not 0 < float(match["amount"]) < 1e9:
            fix = "Write a time above zero such as '90s', '10m' or '2h', or '300 steps'"
            raise mistake("", f"found {value!r:.60}", fix)
        if match["unit"] == "steps" and not match["amount"].isdigit():
            raise mistake("", f"found {value!r:.60}", "Write a whole number of steps, such as '300 steps'")
        return value

    @field_validator("capacity_factor")
    @classmethod
    def _some_room(cls, value: float | str | None) -> float | str | None:
        if isinstance(value, float) and not 1e-3 <= value <= 1e6:
            raise mistake("", f"found {value:g}", "Write a number from 0.001 to 1000000, such as 1.25, or 'none'")
        return value

    @model_validator(mode="after")
    def _decay_is_of_adamw(self) -> Self:
        if self.optimizer != "adamw" and "weight_decay" in self.model_fields_set:
            raise mistake("weight_decay", f"does not fit optimizer {self.optimizer!r}", "Remove it, it is AdamW's")
        return self

    @property
    def budget_seconds(self) -> float | None:
        """The wall-clock budget, or None when the budget is in steps."""
        match = _BUDGET.fullmatch(self.budget)
        return float(match["amount"]) * _SECONDS[match["unit"]] if match and match["unit"] != "steps" else None

    @property
    def budget_steps(self) -> int | None:
        """The budget in steps, or None when it is a wall-clock time."""
        return None if self.budget_seconds is not None else int(self.budget.split("steps")[0])

    def key(self, name: str) -> str:
        """Return the key of the job description that a setting comes from, for messages."""
        return f"{self.table}.{name}"

    @property
    def learned(self) -> dict[str, Any]:
        """What the result depends on: all but how it is computed, which may change while a training is under way."""
        how = {"activation_checkpointing", "shard", "checkpoint_seconds"}
        if not self.limits_room:  # room is that of what is computed at once
            how.add("micro_batch_tokens")
        return self.model_dump(exclude=how | {key for key in OF_OPENMOE if getattr(self, key) is None})

    @property
    def limits_room(self) -> bool:
        """Whether experts are given less room than they may want."""
        return self.capacity_factor not in (None, "none")

    def check_steps(self, steps: int) -> None:
        """Refuse what so many steps have no room for; of a wall-clock budget, their number is known from a probe on.

        Raises:
            SpecError: when something is to happen after the end.
        """

    def peak(self, *, from_scratch: bool) -> float:
        """Return the highest learning rate."""
        released, scratch = (1e-3, 1e-2) if self.optimizer == "adafactor" else (6e-5, 3e-3)
        return self.peak_lr or (scratch if from_scratch else released)


class Lora(Strict):
    """Learn small matrices beside the frozen ones, added to them at the end (LoRA). Without it all weights learn."""

    rank: int = Field(16, ge=1, description="Width of the adapters: what they can hold, and what they cost.")
    alpha: float = Field(
        32.0, gt=0, description="An adapter is scaled by alpha / rank. Left alone, one rate serves every rank."
    )
    targets: Literal["linear", "attention"] = Field(
        "linear",
        description="What gets adapters: 'linear', every matrix of the layers, experts too, or 'attention' alone.",
    )
    also: list[Literal["embedding", "norms"]] = Field(
        default=[], description="Weights that learn themselves beside the adapters, at a tenth of their rate."
    )


class Train(Training):
    """How the model learns the job."""

    max_tokens: int = Field(256, ge=8, description="Maximum length of an example, in tokens; longer ones are left out.")
    joined_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="For translations: share of the examples that are made of two to four rows, of at most max_tokens "
        "characters together, so that a model that is shown short texts learns long ones.",
    )
    quantisation: Literal["Q5_0", "Q4_0"] | None = Field(
        None,
        description="Round the weights to this GGUF type while training, so that the file of this type loses nothing.",
    )
    lora: Lora | None = Field(None, description="Learn adapters instead of all weights.")

    @model_validator(mode="after")
    def _adapters_leave_the_rest_alone(self) -> Self:
        if self.lora and self.quantisation:
            found = "the weights that it rounds are frozen with [train.lora], and adapters are not rounded"
            raise mistake("quantisation", found, "Remove one of the two")
        if self.lora and self.optimizer == "adafactor":
            found = "its steps are relative to the size of a weight, and adapters begin at zero"
            raise mistake("optimizer", found, "Write 'adamw': what it keeps of adapters is small")
        if self.lora and self.freeze_router_after is not None:
            found = "routers learn nothing with [train.lora]"
            raise mistake("freeze_router_after", found, "Remove it")
        if self.lora and self.shard:
            raise mistake("shard", "adapters are learned beside whole weights", "Remove it, or [train.lora]")
        return self

    def peak(self, *, from_scratch: bool) -> float:
        """Return the highest learning rate; of adapters, where there are any."""
        rate = super().peak(from_scratch=from_scratch)
        return rate if self.lora is None or self.peak_lr else ADAPTERS_RATE * rate


class Pretrain(Training):
    """How the model learns from plain text, before it learns the job. Without this table it does not."""

    table: ClassVar[str] = "pretrain"

    budget: str = Field(
        "10m",
        description="Wall clock ('90s', '10m', '2h'), number of steps ('300 steps') or of tokens ('5000000 tokens').",
    )
    objective: Literal["causal", "ul2"] = Field(
        "causal", description="'causal' predicts every next token; 'ul2' is UL2's mixture of hidden spans."
    )
    switch_tokens: int | None = Field(
        None, gt=0, description="For 'ul2': tokens after which the objective becomes 'causal'."
    )
    row_tokens: int = Field(256, ge=32, description="Length of a row; texts are packed into rows.")
    batch_tokens: int = Field(2048, ge=32, description="Tokens per step: as many whole rows as fit.")
    keep_checkpoints: int = Field(
        0, ge=0, description="Models to keep on the way, evenly spaced, each as a Hugging Face folder."
    )

    @field_validator("budget")
    @classmethod
    def _budget(cls, value: str) -> str:
        return value if _TOKENS.fullmatch(value) and int(value.split("tokens")[0]) else Training._budget(value)

    @model_validator(mode="after")
    def _rows_and_switch_fit(self) -> Self:
        if self.batch_tokens < self.row_tokens:
            found = f"{self.batch_tokens} tokens do not hold a row of {self.row_tokens}"
            raise mistake("batch_tokens", found, f"Write at least {self.row_tokens}")
        if self.switch_tokens is not None and self.objective != "ul2":
            fix = "Remove it, or write objective = 'ul2'"
            raise mistake("switch_tokens", f"does not fit objective {self.objective!r}", fix)
        if self.budget_steps is not None and (late := self._switch_too_late(self.budget_steps)):
            raise mistake("switch_tokens", *late)
        return self

    def check_steps(self, steps: int) -> None:
        """Refuse a switch that so many steps do not come to: no step would learn what the loss is watched on."""
        if late := self._switch_too_late(steps):
            raise SpecError("pretrain.switch_tokens", *late)

    def _switch_too_late(self, steps: int) -> tuple[str, str] | None:
        """Return what is wrong with a switch that so many steps do not come to, and what to write."""
        if self.switch_step is None or self.switch_step < steps:
            return None
        end = f"'{self.budget}' makes {steps} steps of {self.step_tokens} tokens"
        least = f"at most {(steps - 1) * self.step_tokens}, or " if steps > 1 else ""
        return (
            f"{self.switch_tokens} is not before the end: {end}",
            f"Write {least}a longer budget, or remove it and learn 'ul2' alone",
        )

    @property
    def step_tokens(self) -> int:
        """Places in the rows of a step."""
        return self.batch_tokens // self.row_tokens * self.row_tokens

    @property
    def switch_step(self) -> int | None:
        """The first step of the causal objective after UL2's, or None for no switch."""
        return None if self.switch_tokens is None else -(-self.switch_tokens // self.step_tokens)

    @property
    def budget_steps(self) -> int | None:
        """The budget in steps, or None when it is a wall-clock time."""
        if _TOKENS.fullmatch(self.budget):
            return -(-int(self.budget.split("tokens")[0]) // self.step_tokens)
        return super().budget_steps


class Losses(Strict):
    """What is minimised beside the loss on the targets; a training's reported loss is the latter alone."""

    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of a target's probability that the other pieces are given; not while a cut model is healed, "
        "whose targets are the whole model's distribution.",
    )
    output_z: float | None = Field(
        None, ge=0, description="Weight of log^2 Z of the output; by default 1e-4 for a mixture of experts, else 0."
    )
    load_balance: float = Field(0.01, ge=0, description="For a mixture of experts: weight of the load balance loss.")
    router_z: float = Field(1e-4, ge=0, description="For a mixture of experts: weight of the routers' z-loss.")
