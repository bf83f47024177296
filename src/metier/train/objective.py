"""What is minimised, and one step of minimising it: the loss on the targets, and what else the job asks for."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from metier.spec.training import Losses
from metier.train.batches import IGNORED, Batch
from metier.train.numerics import EXACT, Numerics
from metier.train.router import experts_a_token, router_losses, scores

OUTPUT_Z = 1e-4
"""Weight of the output's z-loss for mixtures of experts, by default: that of OpenMoE's runs."""

PLAIN = Losses(output_z=0.0, load_balance=0.0, router_z=0.0)
"""The loss on the targets alone."""


class Loss(NamedTuple):
    """What a batch costs."""

    total: torch.Tensor
    """What is minimised."""
    nats: torch.Tensor
    """Mean cross entropy of a target token."""
    targets: int
    """Number of target tokens."""
    parts: dict[str, torch.Tensor]
    """The other losses by name, before their weights."""


LossFunction = Callable[[PreTrainedModel, Batch, Losses], Loss]
"""What a batch costs a model, with the losses beside the one on the targets: such as `batch_loss`."""


def batch_loss(
    model: PreTrainedModel, batch: Batch, losses: Losses = PLAIN, teacher: PreTrainedModel | None = None
) -> Loss:
    """Return the loss of a batch: of answers, or of packed rows of text.

    The output matrix, the widest product of a small model, is applied only where a target is predicted. Padding has
    no part in any of the losses.

    Args:
        model: what learns.
        batch: rows and targets.
        losses: what is minimised beside the loss on the targets.
        teacher: a model of the same vocabulary whose distribution takes the place of the targets: minimised is the
            Kullback-Leibler divergence from the teacher's to the model's (Hinton et al. 2015, arXiv 1503.02531, at
            temperature 1; alone, as in Minitron, arXiv 2407.14679, section 3). The loss reported is still that on
            the targets.
    """
    top_k = experts_a_token(model.config) if losses.load_balance or losses.router_z else None
    outputs = model.get_decoder()(**_inputs(model, batch, routing=top_k is not None))
    targets_NT = batch.targets_NT.to(model.device)
    wanted_NT = targets_NT != IGNORED
    logits_AV = model.get_output_embeddings()(outputs.last_hidden_state[wanted_NT]).float()
    targets_A = targets_NT[wanted_NT]
    nats = functional.cross_entropy(logits_AV, targets_A)
    total, parts = nats, {}
    if teacher is not None:
        total = divergence(logits_AV, _taught(teacher, batch, model.device))
    elif losses.label_smoothing:
        total = smoothed(logits_AV, targets_A, losses.label_smoothing)
    weight = losses.output_z if losses.output_z is not None else OUTPUT_Z * (experts_a_token(model.config) is not None)
    if weight:
        parts["output_z"] = logits_AV.logsumexp(dim=-1).square().mean()
        total = total + weight * parts["output_z"]
    if top_k is not None:
        real_N = batch.mask_NT.to(model.device).flatten() == 1
        parts["load_balance"], parts["router_z"] = router_losses(scores(outputs, model), real_N, top_k)
        total = total + losses.load_balance * parts["load_balance"] + losses.router_z * parts["router_z"]
    return Loss(total, nats, len(targets_A), parts)


def divergence(logits_AV: torch.Tensor, wanted_AV: torch.Tensor) -> torch.Tensor:
    """Return the mean Kullback-Leibler divergence, in nats, from the wanted logits' distribution to the other's."""
    return functional.kl_div(
        logits_AV.log_softmax(dim=-1), wanted_AV.log_softmax(dim=-1), log_target=True, reduction="batchmean"
    )


@torch.no_grad()
def _taught(teacher: PreTrainedModel, batch: Batch, device: torch.device) -> torch.Tensor:
    """Return a teacher's logits where a target is predicted; the teacher is moved to the device."""
    move: Any = teacher.to
    move(device)
    outputs = teacher.get_decoder()(**_inputs(teacher, batch, routing=False))
    wanted_NT = batch.targets_NT.to(teacher.device) != IGNORED
    logits_AV: torch.Tensor = teacher.get_output_embeddings()(outputs.last_hidden_state[wanted_NT]).float()
    return logits_AV


def smoothed(logits_AV: torch.Tensor, targets_A: torch.Tensor, share: float) -> torch.Tensor:
    """Return the mean cross entropy with targets that give ``share`` of their probability to the V - 1 other pieces.

    That is T5X's definition (Szegedy et al. 2016, arXiv 1512.00567, section 7, spreads it over all V, as torch does),
    without the constant that it takes off.
    """
    pieces = logits_AV.shape[-1]
    each = share / (pieces - 1)
    target = functional.cross_entropy(logits_AV, targets_A)
    every = (pieces * logits_AV.logsumexp(dim=-1) - logits_AV.sum(dim=-1)).mean()
    return (1 - share - each) * target + each * every


@torch.no_grad()
def mean_loss(model: PreTrainedModel, batches: Iterable[Batch], numerics: Numerics = EXACT) -> float:
    """Return the loss in nats a target token over some batches."""
    model.eval()
    total, tokens = 0.0, 0
    with numerics.weights(model), numerics.products(model.device):
        for batch in batches:
            loss = batch_loss(model, batch)
            total += loss.nats.item() * loss.targets
            tokens += loss.targets
    return total / tokens


def update(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    rate: float,
    clip_norm: float,
    losses: Losses = PLAIN,
    numerics: Numerics = EXACT,
    loss_of: LossFunction = batch_loss,
) -> dict[str, float]:
    """Make one step; return its loss in nats a target token, its gradient norm, and its other losses by name."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    model.train()
    with numerics.weights(model):
        with numerics.products(model.device):
            loss = loss_of(model, batch, losses)
        loss.total.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    others = {name: part.item() for name, part in loss.parts.items()}
    return {"loss_nats": loss.nats.item(), "grad_norm": float(norm), **others}


def _inputs(model: PreTrainedModel, batch: Batch, *, routing: bool) -> dict[str, Any]:
    """Return what a batch is to the model; texts packed into a row are told apart by positions that start again."""
    inputs: dict[str, Any] = {"input_ids": batch.ids_NT.to(model.device), "use_cache": False}
    if batch.positions_NT is None:
        inputs["attention_mask"] = batch.mask_NT.to(model.device)
    else:
        inputs["position_ids"] = batch.positions_NT.to(model.device)
    if routing:
        inputs["output_router_logits"] = True
    return inputs
