"""What a model can do without, measured on the job's own text.

Layers: those whose loss is the least when they are gone, as ShortGPT (Men et al. 2024, arXiv 2403.03853) shows to be
possible; runs of neighbours are tried too (Gromov et al. 2024, arXiv 2403.17887). Feed-forward channels: by what they
add to the layer's answer, as in Minitron (Muralidharan et al. 2024, arXiv 2407.14679, section 2.2), which takes the
activations alone, and Wanda (Sun et al. 2024, arXiv 2306.11695), which weighs them by the weights they meet. Experts:
by the weights that routers give them.

N = tokens of a batch, E = experts, F = channels, H = width of the model.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import torch
from transformers import PreTrainedModel

Rows = tuple[torch.Tensor, torch.Tensor]
"""Token ids and a mask, 1 where there is a token and 0 in the padding, both of shape (rows, places)."""


def layers_to_drop(
    count: int, most: int, loss: Callable[[tuple[int, ...]], float], known: Sequence[Sequence[int]] = ((),)
) -> list[tuple[int, ...]]:
    """Return the layers to drop for every number of layers from 0 to the most.

    One more is dropped by adding a layer to those found before, or by dropping a run of neighbours instead:
    whatever has the lowest loss.

    Args:
        count: layers of the model.
        most: most layers to drop.
        loss: tells the loss without some layers.
        known: what was found for a lower most: the search goes on from there.
    """
    measured = cache(loss)
    found = [tuple(layers) for layers in known]
    for number in range(len(found), most + 1):
        longer = {tuple(sorted({*found[-1], layer})) for layer in range(count) if layer not in found[-1]}
        runs = {tuple(range(first, first + number)) for first in range(count - number + 1)}
        found.append(min(sorted(longer | runs), key=measured))
    return found


@torch.no_grad()
def channel_importance(model: PreTrainedModel, batches: Iterable[Rows]) -> list[torch.Tensor]:
    """Return for each layer and feed-forward channel the root mean square of what it adds to the layer's answer.

    A channel with activation a and weights w towards the answer adds a * w: importance is rms(a) * |w|.

    Args:
        model: a dense model.
        batches: text.

    Returns:
        A tensor of shape (F,) a layer.
    """
    downs: list[torch.nn.Linear] = [layer.mlp.down_proj for layer in _layers(model)]
    squares = [torch.zeros(down.in_features, dtype=torch.float64) for down in downs]
    tokens, real_N = 0, torch.zeros(0, dtype=torch.bool)

    def watch(number: int) -> Callable[..., None]:
        def look(_: Any, inputs: tuple[torch.Tensor]) -> None:
            activations_NF = inputs[0].flatten(0, 1)[real_N]
            squares[number] += activations_NF.cpu().double().square().sum(0)  # some accelerators have no float64

        return look

    hooks = [down.register_forward_pre_hook(watch(number)) for number, down in enumerate(downs)]
    try:
        for ids, mask in batches:
            real_N = mask.flatten().bool().to(model.device)
            tokens += int(real_N.sum())
            _read(model, ids, mask)
    finally:
        for hook in hooks:
            hook.remove()
    norms = [down.weight.cpu().double().norm(dim=0) for down in downs]
    return [(square / tokens).sqrt() * norm for square, norm in zip(squares, norms, strict=True)]


@torch.no_grad()
def expert_importance(model: PreTrainedModel, batches: Iterable[Rows]) -> list[torch.Tensor]:
    """Return for each layer and expert the mean of the weights that its answers have where it is chosen, else 0.

    Those of a token's experts add up to one wherever the model lets them.

    Args:
        model: a mixture of experts.
        batches: text.

    Returns:
        A tensor of shape (E,) a layer.
    """
    chosen = int(model.config.num_experts_per_tok)
    adds_up_to_one = getattr(model.config, "norm_topk_prob", True)  # Mixtral's always do, and it has no setting for it
    sums: list[torch.Tensor] = []
    tokens = 0
    for ids, mask in batches:
        real_N = mask.flatten().bool().to(model.device)
        tokens += int(real_N.sum())
        routers = _read(model, ids, mask, output_router_logits=True).router_logits
        sums = sums or [torch.zeros(logits_NE.shape[-1], dtype=torch.float64) for logits_NE in routers]
        for sum_E, logits_NE in zip(sums, routers, strict=True):
            scores_NE = logits_NE.reshape(-1, len(sum_E))[real_N].cpu().double()
            weights_NK, experts_NK = scores_NE.softmax(-1).topk(chosen)
            if adds_up_to_one:
                weights_NK /= weights_NK.sum(-1, keepdim=True)
            sum_E.scatter_add_(0, experts_NK.flatten(), weights_NK.flatten())
    return [sum_E / tokens for sum_E in sums]


def most_important(importance: Sequence[torch.Tensor], kept: int) -> list[torch.Tensor]:
    """Return for each layer the numbers of the most important, in their old order; of equals, the first."""
    return [scores.sort(descending=True, stable=True).indices[:kept].sort().values for scores in importance]


def _read(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, **asked: Any) -> Any:
    decoder: Any = model.get_decoder()
    return decoder(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False, **asked)


def _layers(model: PreTrainedModel) -> list[Any]:
    decoder: Any = model.get_decoder()
    return list(decoder.layers)
