"""See a model's routers decide: the one seam between any mixture of experts and the analysis.

Every router of ``transformers`` 5 returns, first, ``(logits, weights, experts)``: a score for each expert, and the
weights and numbers of the chosen ones. OpenMoE's sparse layer returns a decision with ``logits_NE``, ``weight_NK``,
``expert_NK`` and ``kept_NK`` beside its answer. So routers are found by what they return, not by what they are called.
"""

# N = tokens of the batch, row after row; E = experts; K = experts chosen for a token

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from metier.errors import ArtifactError


class Routing(NamedTuple):
    """What one router decided for a batch; a token's choices are sorted by weight, largest first."""

    experts_NK: NDArray[np.int64]
    weights_NK: NDArray[np.float32]
    """The weights the experts' answers are added up with, as the model uses them."""
    probabilities_NE: NDArray[np.float32]
    """Softmax of the router's scores (or the scores, where they are probabilities already)."""
    kept_NK: NDArray[np.bool_] | None = None
    """Which choices the model's own capacity limit kept; None for a model without one."""


@dataclass
class Watch:
    """The routers of a model, and what they decided in the latest forward pass."""

    layers: list[str]
    """Names of the router modules, first layer first."""
    experts: int
    chosen: int
    latest: list[Routing] = field(default_factory=list)
    """One a layer."""

    @property
    def shape(self) -> tuple[list[str], int, int]:
        """What two checkpoints of one training have in common."""
        return self.layers, self.experts, self.chosen


@contextmanager
def watched(model: nn.Module, name: str) -> Iterator[Watch]:
    """Watch a model's routers while the context is open.

    Args:
        model: a causal language model of any architecture.
        name: what it is called in messages.

    Raises:
        ArtifactError: when it has no routers, or when its layers differ in their experts.
    """
    found = _find(model, name)
    sizes = {(seen.probabilities_NE.shape[1], seen.experts_NK.shape[1]) for seen in found.values()}
    if len(sizes) > 1:
        raise ArtifactError(
            name, f"its layers differ in experts and choices ({sorted(sizes)})", "Only equal layers can be compared"
        )
    experts, chosen = sizes.pop()
    watch = Watch(list(found), experts, chosen)
    handles = [
        model.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output: watch.latest.append(_required(read(output), name))
        )
        for layer in found
    ]
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


def read(output: Any) -> Routing | None:
    """Return a router's decision from what its module returned; None when this is no router's answer."""
    decision = _decision(output)
    if decision is None:
        return None
    scores, weights, experts = (part.detach() for part in decision[:3])
    if experts.is_floating_point() or experts.dtype == torch.bool or experts.is_complex() or scores.dim() < 2:
        return None
    scores_NE, weights_NK, experts_NK = (part.reshape(-1, part.shape[-1]) for part in (scores, weights, experts))
    fits = scores_NE.is_floating_point() and weights_NK.is_floating_point() and weights_NK.shape == experts_NK.shape
    if not fits or len(scores_NE) != len(experts_NK) or experts_NK.shape[1] > scores_NE.shape[1]:
        return None
    # DeepSeek's kind of router returns the chosen ones in any order; the drop rules want the first choice first.
    order_NK = weights_NK.float().argsort(dim=1, descending=True, stable=True)
    kept = decision[3]
    return Routing(
        experts_NK=experts_NK.gather(1, order_NK).cpu().numpy().astype(np.int64),
        weights_NK=weights_NK.float().gather(1, order_NK).cpu().numpy(),
        probabilities_NE=_probabilities(scores_NE.float()).cpu().numpy(),
        kept_NK=None if kept is None else kept.gather(1, order_NK).cpu().numpy(),
    )


def _decision(output: Any) -> tuple[Tensor, Tensor, Tensor, Tensor | None] | None:
    """Return scores, weights, chosen experts and, under a capacity limit, which choices were kept."""
    if not isinstance(output, tuple):
        return None
    for part in output:
        if hasattr(part, "expert_NK"):
            return part.logits_NE, part.weight_NK, part.expert_NK, None if part.capacity is None else part.kept_NK
    if len(output) >= 3 and all(torch.is_tensor(part) for part in output[:3]):
        return output[0], output[1], output[2], None
    return None


def _probabilities(scores_NE: Tensor) -> Tensor:
    sums_N = scores_NE.sum(1)
    if bool((scores_NE >= 0).all()) and torch.allclose(sums_N, torch.ones_like(sums_N), atol=1e-4):
        return scores_NE  # Gemma 4's routers return probabilities
    return scores_NE.softmax(dim=1)


def _find(model: nn.Module, name: str) -> dict[str, Routing]:
    """Run two tokens through the model and return the modules that answered as routers do, in order of their call."""
    found: dict[str, Routing] = {}
    answers: list[Tensor] = []

    def listen(layer: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            seen, decision = read(output), _decision(output)
            # A module that hands on what one inside it decided is no router.
            if seen is None or decision is None or any(decision[2] is one for one in answers):
                return
            answers.append(decision[2])
            found.setdefault(layer, seen)

        return hook

    handles = [module.register_forward_hook(listen(layer)) for layer, module in model.named_modules() if layer]
    try:
        forward(model, np.array([[0, 0]], np.int32))
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise _no_routers(model, name)
    return found


def forward(model: Any, ids_BT: NDArray[np.int32]) -> None:
    """Run rows of equal length through the model; only what its routers see is of interest."""
    body = getattr(model, "base_model", model)  # without the head: its logits are as wide as the vocabulary
    with torch.no_grad():
        body(input_ids=torch.from_numpy(ids_BT.astype(np.int64)).to(model.device), use_cache=False)


def _required(seen: Routing | None, name: str) -> Routing:
    if seen is None:
        raise ArtifactError(name, "a router changed the form of its answer", "Report this model's architecture")
    return seen


def _no_routers(model: Any, name: str) -> ArtifactError:
    facts = model.config.get_text_config().to_dict() if hasattr(model, "config") else {}
    kind = facts.get("model_type", "?")
    counts = [value for key, value in facts.items() if "experts" in key and isinstance(value, int) and value > 1]
    if counts:
        return ArtifactError(
            name,
            f"has experts, and routers of a form that is not read (architecture {kind!r})",
            "Use a mixture whose routers return logits, weights and chosen experts",
        )
    return ArtifactError(
        name, f"has no experts: it is a dense model (architecture {kind!r})", "Name a mixture-of-experts model"
    )
