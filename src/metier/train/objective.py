"""What is minimised, and one step of minimising it: the loss on the targets, and what else the job asks for."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from metier.errors import ArtifactError
from metier.spec.training import Losses
from metier.train import processes
from metier.train.batches import IGNORED, Batch, shares
from metier.train.numerics import EXACT, Numerics
from metier.train.router import choices, drops, experts_a_token, is_mixture, router_losses, scores

OUTPUT_Z = 1e-4
"""Weight of the output's z-loss for mixtures of experts, by default: that of OpenMoE's runs."""

PLAIN = Losses(output_z=0.0, load_balance=0.0, router_z=0.0)
"""The loss on the targets alone."""


class Whole(NamedTuple):
    """What the means of a loss are taken over: the batch of a step, of all processes, computed a part at a time."""

    targets: int
    """Number of target tokens."""
    tokens: int
    """Number of tokens, padding not counted."""
    chosen_LE: torch.Tensor | None = None
    """For a mixture of L layers of experts: how many tokens choose each of the E. None: as the part at hand does."""


class Loss(NamedTuple):
    """What a batch costs; of a part of a batch, its share: the shares add up to what the batch costs."""

    total: torch.Tensor
    """What is minimised."""
    nats: torch.Tensor
    """Mean cross entropy of a target token."""
    targets: int
    """Number of target tokens."""
    parts: dict[str, torch.Tensor]
    """The other losses by name, before their weights; and what experts had no room for."""


LossFunction = Callable[[PreTrainedModel, Batch, Losses, Whole | None], Loss]
"""What a batch costs a model, with the losses beside the one on the targets: such as `batch_loss`."""


def batch_loss(
    model: PreTrainedModel,
    batch: Batch,
    losses: Losses = PLAIN,
    whole: Whole | None = None,
    teacher: PreTrainedModel | None = None,
) -> Loss:
    """Return the loss of a batch, of answers or of packed rows of text; or the share that a part of ``whole`` has.

    The output matrix, the widest product of a small model, is applied only where a target is predicted. Padding has
    no part in any of the losses.

    Args:
        model: what learns.
        batch: rows and targets.
        losses: what is minimised beside the loss on the targets.
        whole: the batch that this one is a part of.
        teacher: a model of the same vocabulary whose distribution takes the place of the targets: minimised is the
            Kullback-Leibler divergence from the teacher's to the model's (Hinton et al. 2015, arXiv 1503.02531, at
            temperature 1; alone, as in Minitron, arXiv 2407.14679, section 3). The loss reported is still that on
            the targets.
    """
    whole = whole or size(batch)
    top_k = experts_a_token(model.config) if losses.load_balance or losses.router_z else None
    targets_NT = batch.targets_NT.to(model.device)
    wanted_NT = targets_NT != IGNORED
    outputs, logits_AV = _predicted(model, batch, wanted_NT, routing=top_k is not None)
    targets_A = targets_NT[wanted_NT]
    nats = functional.cross_entropy(logits_AV, targets_A, reduction="sum") / whole.targets
    total, parts = nats, {}
    if teacher is not None:
        total = divergence(logits_AV, _taught(teacher, batch, model.device), whole.targets)
    elif losses.label_smoothing:
        total = smoothed(logits_AV, targets_A, losses.label_smoothing, whole.targets)
    weight = losses.output_z if losses.output_z is not None else OUTPUT_Z * (experts_a_token(model.config) is not None)
    if weight:
        parts["output_z"] = logits_AV.logsumexp(dim=-1).square().sum() / whole.targets
        total = total + weight * parts["output_z"]
    if top_k is not None:
        layers = _real_scores(model, batch, outputs)
        chosen_LE = whole.chosen_LE if whole.chosen_LE is not None else processes.all_reduce_sum(choices(layers, top_k))
        parts["load_balance"], parts["router_z"] = router_losses(layers, chosen_LE, whole.tokens)
        total = total + losses.load_balance * parts["load_balance"] + losses.router_z * parts["router_z"]
    parts |= drops(outputs, batch.mask_NT.to(model.device).flatten() == 1, whole.tokens)
    return Loss(total, nats, len(targets_A), parts)


@dataclass(frozen=True)
class Objective:
    """What a training minimises, and how it is computed; by default the loss on the targets, exactly."""

    losses: Losses = PLAIN
    """What is minimised beside the loss on the targets."""
    numerics: Numerics = EXACT
    """How losses are computed."""
    loss_of: LossFunction = batch_loss
    """Tells what a batch costs."""


TARGETS = Objective()


def size(batch: Batch) -> Whole:
    """Return what the means of a batch's losses are taken over."""
    return Whole(int((batch.targets_NT != IGNORED).sum()), batch.tokens)


def predict(model: PreTrainedModel, inputs: dict[str, Any], wanted_NT: torch.Tensor) -> tuple[Any, torch.Tensor]:
    """Return what the decoder returns, and the scores of all pieces at the A places that are wanted, (A, V)."""
    outputs = model.get_decoder()(**inputs)
    return outputs, model.get_output_embeddings()(outputs.last_hidden_state[wanted_NT])


def check_head(model: PreTrainedModel, where: str) -> None:
    """Refuse a model whose scores are not those of its output matrix, as `predict` takes them to be: some scale them.

    Raises:
        ArtifactError: when they differ.
    """
    ids_1T = torch.arange(min(8, model.config.vocab_size), device=model.device)[None]
    everywhere_1T = torch.ones_like(ids_1T, dtype=torch.bool)
    with torch.no_grad():
        own_AV = model(input_ids=ids_1T, use_cache=False).logits[everywhere_1T]
        _, logits_AV = predict(model, {"input_ids": ids_1T, "use_cache": False}, everywhere_1T)
    if not torch.allclose(own_AV, logits_AV, rtol=1e-3, atol=1e-3):
        found = f"models of type {model.config.model_type!r} change their scores after the output matrix"
        raise ArtifactError(where, f"{found}, which training would not see", "Choose another base")


def divergence(logits_AV: torch.Tensor, wanted_AV: torch.Tensor, targets: int) -> torch.Tensor:
    """Return the Kullback-Leibler divergence from the wanted logits' distribution to the other's, in nats.

    The sum over the A places at hand is divided by ``targets``.
    """
    logs_AV, wanted_logs_AV = logits_AV.log_softmax(dim=-1), wanted_AV.log_softmax(dim=-1)
    return functional.kl_div(logs_AV, wanted_logs_AV, log_target=True, reduction="sum") / targets


@torch.no_grad()
def _taught(teacher: PreTrainedModel, batch: Batch, device: torch.device) -> torch.Tensor:
    """Return a teacher's logits where a target is predicted; the teacher is moved to the device."""
    move: Any = teacher.to
    move(device)
    wanted_NT = batch.targets_NT.to(device) != IGNORED
    return _predicted(teacher, batch, wanted_NT, routing=False)[1].float()


def smoothed(logits_AV: torch.Tensor, targets_A: torch.Tensor, share: float, targets: int) -> torch.Tensor:
    """Return the cross entropy with targets that give ``share`` of their probability to the V - 1 other pieces.

    That is T5X's definition (Szegedy et al. 2016, arXiv 1512.00567, section 7, spreads it over all V, as torch does),
    without the constant that it takes off. The sum over the A targets at hand is divided by ``targets``.
    """
    pieces = logits_AV.shape[-1]
    each = share / (pieces - 1)
    target = functional.cross_entropy(logits_AV, targets_A, reduction="sum") / targets
    every = (pieces * logits_AV.logsumexp(dim=-1) - logits_AV.sum(dim=-1)).sum() / targets
    return (1 - share - each) * target + each * every


@torch.no_grad()
def mean_loss(model: PreTrainedModel, batches: Iterable[Batch], numerics: Numerics = EXACT) -> float:
    """Return the loss in nats a target token over some batches, of which every process computes its share."""
    model.eval()
    total, tokens = 0.0, 0
    with numerics.weights(model), numerics.products(model.device):
        for batch in batches:
            for part in shares(batch, numerics.micro_tokens, processes.world_size(), processes.rank()):
                loss = batch_loss(model, part)
                if loss.targets:
                    total += loss.nats.item() * loss.targets
                    tokens += loss.targets
    sums = processes.all_reduce_sum(torch.tensor([total, tokens], dtype=torch.float64))
    return float(sums[0] / sums[1])


def update(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    rate: float,
    clip_norm: float,
    objective: Objective = TARGETS,
) -> dict[str, float]:
    """Make one step; return its loss in nats a target token, its gradient norm, and its other `parts` by name.

    All are those of the whole batch, however many processes share it and into how many parts each cuts its share.

    Args:
        model: the model, in training.
        optimizer: what moves its weights.
        batch: the batch of all processes.
        rate: learning rate of the step.
        clip_norm: gradients are scaled down to this norm.
        objective: what is minimised.
    """
    losses, numerics = objective.losses, objective.numerics
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate_share", 1.0)
    model.train()
    parts = shares(batch, numerics.micro_tokens, processes.world_size(), processes.rank())
    found: list[dict[str, torch.Tensor]] = []
    with numerics.weights(model):
        whole = size(batch)
        if len(parts) > 1 and (losses.load_balance or losses.router_z) and is_mixture(model):
            whole = whole._replace(chosen_LE=_chosen(model, parts, numerics))
        for part in parts:
            with numerics.products(model.device):
                loss = objective.loss_of(model, part, losses, whole)
            loss.total.backward()
            found.append({"loss_nats": loss.nats.detach(), **{name: one.detach() for name, one in loss.parts.items()}})
    processes.add_gradients(model)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    sums = processes.all_reduce_sum(torch.stack([torch.stack(list(one.values())) for one in found]).sum(dim=0))
    loss_nats, *others = sums.tolist()
    return {
        "loss_nats": loss_nats,
        "grad_norm": float(processes.full_tensor(norm)),
        **dict(zip(list(found[0])[1:], others, strict=True)),
    }


@torch.no_grad()
def _chosen(model: PreTrainedModel, parts: Iterable[Batch], numerics: Numerics) -> torch.Tensor:
    """Return how many tokens of the whole batch choose each expert: the parts are read once without learning.

    A part's balance loss needs it before the part's gradient is taken.
    """
    top_k = experts_a_token(model.config)
    assert top_k is not None
    chosen = []
    for part in parts:
        with numerics.products(model.device):
            nowhere_NT = torch.zeros_like(part.targets_NT, dtype=torch.bool, device=model.device)
            outputs, _ = _predicted(model, part, nowhere_NT, routing=True)
        chosen.append(choices(_real_scores(model, part, outputs), top_k))
    return processes.all_reduce_sum(torch.stack(chosen).sum(dim=0))


def _real_scores(model: PreTrainedModel, batch: Batch, outputs: Any) -> list[torch.Tensor]:
    """Return each layer's router scores, (N, E), of the tokens that are no padding."""
    real_N = batch.mask_NT.to(model.device).flatten() == 1
    return [layer_NE.reshape(-1, layer_NE.shape[-1])[real_N] for layer_NE in scores(outputs, model)]


def _predicted(
    model: PreTrainedModel, batch: Batch, wanted_NT: torch.Tensor, *, routing: bool
) -> tuple[Any, torch.Tensor]:
    """Return the outputs and float32 scores of a batch, by the model's own `predict` where it is sharded."""
    forward = getattr(model, predict.__name__, partial(predict, model))
    outputs, logits_AV = forward(_inputs(model, batch, routing=routing), wanted_NT)
    return outputs, logits_AV.float()


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
