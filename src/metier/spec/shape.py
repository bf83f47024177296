"""The shape of a model from scratch: what is left open is chosen, what does not fit together is refused."""

from dataclasses import dataclass
from typing import Literal

ArchitectureName = Literal["dense", "moe", "openmoe"]

HEAD_DIM = 32
EXPERTS = 8
EXPERTS_PER_TOKEN = 2
MOE_LAYER_INTERVAL = 4
EXPERT_MULTIPLE = 8
"""Widths of experts are multiples of it: torch's grouped products want rows of whole 16 bytes, bfloat16 ones too."""

_MEANT_FOR: dict[str, tuple[ArchitectureName, ...]] = {
    "heads": ("dense", "moe", "openmoe"),
    "key_value_heads": ("dense", "moe"),
    "head_dim": ("dense", "moe", "openmoe"),
    "feed_forward_size": ("dense", "moe", "openmoe"),
    "experts": ("moe", "openmoe"),
    "experts_per_token": ("moe", "openmoe"),
    "expert_size": ("moe",),
    "moe_layer_interval": ("openmoe",),
}

SIZES = tuple(_MEANT_FOR)
"""Keys of a description, beside width and layers, that state a size."""


class ImpossibleShapeError(ValueError):
    """Sizes that do not fit together: at which key, what was found, and what to write."""

    def __init__(self, key: str, found: str, fix: str) -> None:
        super().__init__(f"{key}: {found}. {fix}")
        self.key, self.found, self.fix = key, found, fix


@dataclass(frozen=True, kw_only=True)
class Shape:
    """All sizes of a model from scratch, but for its vocabulary."""

    architecture: ArchitectureName
    hidden_size: int
    layers: int
    heads: int
    key_value_heads: int
    head_dim: int
    feed_forward_size: int
    """Width of the feed-forward layer that a token passes through; of a ``moe``, of its experts together."""
    experts: int
    """In a layer; 0 in a dense model, like the other numbers of experts."""
    experts_per_token: int
    expert_size: int
    """Width of one expert's feed-forward layer."""
    moe_layer_interval: int
    """Every so many layers one has experts."""


def shape_of(architecture: ArchitectureName, hidden_size: int, layers: int, **stated: int | None) -> Shape:
    """Return a shape with the stated sizes (`SIZES`) and the others chosen.

    Of the same sizes, ``dense`` and ``moe`` are twins: a token passes through as many weights, but for the routers.
    So ``experts_per_token`` times ``expert_size`` is ``feed_forward_size``.

    Raises:
        ImpossibleShapeError: when the sizes do not fit together.
    """
    sizes = {key: value for key, value in stated.items() if value is not None}
    for key in sizes:
        if key not in _MEANT_FOR:
            raise TypeError(f"{key!r} is no size; known: {', '.join(SIZES)}")
        if architecture not in _MEANT_FOR[key]:
            others = " or ".join(repr(name) for name in _MEANT_FOR[key])
            fix = f"Remove the key, it is for architecture = {others}"
            raise ImpossibleShapeError(key, f"does not fit architecture {architecture!r}", fix)
    return Shape(
        architecture=architecture,
        hidden_size=hidden_size,
        layers=layers,
        **_attention(architecture, hidden_size, sizes),
        **_feed_forward(architecture, hidden_size, sizes),
        moe_layer_interval=_interval(architecture, layers, sizes),
    )


def _attention(architecture: ArchitectureName, hidden_size: int, sizes: dict[str, int]) -> dict[str, int]:
    head_dim = sizes.get("head_dim", HEAD_DIM)
    if head_dim % 2:
        raise ImpossibleShapeError("head_dim", f"{head_dim} is odd", "Write an even number: pairs are rotated")
    heads = sizes.get("heads", max(1, hidden_size // head_dim))
    quarter = max(number for number in range(1, max(1, heads // 4) + 1) if heads % number == 0)
    groups = heads if architecture == "openmoe" else sizes.get("key_value_heads", quarter)
    if heads % groups:
        divisors = [str(number) for number in range(1, heads + 1) if heads % number == 0]
        fix = f"Write a number that divides heads = {heads}: {', '.join(divisors)}"
        raise ImpossibleShapeError("key_value_heads", f"{groups} of {heads} heads", fix)
    return {"heads": heads, "key_value_heads": groups, "head_dim": head_dim}


def _feed_forward(architecture: ArchitectureName, hidden_size: int, sizes: dict[str, int]) -> dict[str, int]:
    width = sizes.get("feed_forward_size", 4 * hidden_size)
    if architecture == "dense":
        return {"feed_forward_size": width, "experts": 0, "experts_per_token": 0, "expert_size": 0}
    experts = sizes.get("experts", EXPERTS)
    used = sizes.get("experts_per_token", min(EXPERTS_PER_TOKEN, experts))
    if used > experts:
        fix = f"Write at most {experts}, or a higher number of experts"
        raise ImpossibleShapeError("experts_per_token", f"{used}, of {experts} experts", fix)
    numbers = {"experts": experts, "experts_per_token": used}
    if architecture == "openmoe":  # every feed-forward layer and every expert have one width
        return {"feed_forward_size": width, "expert_size": width, **numbers}
    whole = used * EXPERT_MULTIPLE
    if "expert_size" not in sizes and width % whole:
        like = max(width // whole, 1) * whole
        fix = f"Write a multiple of {EXPERT_MULTIPLE} x experts_per_token = {whole}, such as {like}"
        raise ImpossibleShapeError("feed_forward_size", f"{width} for {used} experts", fix)
    size = sizes.get("expert_size", width // used)
    if size % EXPERT_MULTIPLE:
        fix = f"Write a multiple of {EXPERT_MULTIPLE}: most programs compute no other experts"
        raise ImpossibleShapeError("expert_size", f"{size}", fix)
    if "feed_forward_size" in sizes and size * used != width:
        fix = f"Remove one of the two, or write feed_forward_size = {size * used}"
        raise ImpossibleShapeError("expert_size", f"{used} experts of {size} are not {width} together", fix)
    return {"feed_forward_size": size * used, "expert_size": size, **numbers}


def _interval(architecture: ArchitectureName, layers: int, sizes: dict[str, int]) -> int:
    if architecture != "openmoe":
        return int(architecture == "moe")
    interval = sizes.get("moe_layer_interval", min(MOE_LAYER_INTERVAL, layers))
    if interval > layers:
        found = f"{interval}, and there are {layers} layers: none would have experts"
        raise ImpossibleShapeError("moe_layer_interval", found, f"Write at most {layers}")
    return interval
