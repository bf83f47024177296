"""What is learned, and one step of learning it: the answer's tokens, and nothing else."""

from collections.abc import Iterable

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from metier.spec.job import Train
from metier.train.batches import Batch
from metier.train.grid import Grid, on_grid


def answer_loss(model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, int]:
    """Return the mean loss in nats over a batch's answer tokens, and their number.

    The output matrix, the widest product of a small model, is applied only where an answer token is predicted.
    """
    hidden_NTD = model.get_decoder()(
        input_ids=batch.ids_NT.to(model.device), attention_mask=batch.mask_NT.to(model.device), use_cache=False
    ).last_hidden_state
    targets_NT = batch.targets_NT[:, 1:].to(model.device)
    wanted_NT = targets_NT != -100
    logits_AV = model.get_output_embeddings()(hidden_NTD[:, :-1][wanted_NT])
    targets_A = targets_NT[wanted_NT]
    return functional.cross_entropy(logits_AV.float(), targets_A), len(targets_A)


@torch.no_grad()
def mean_loss(model: PreTrainedModel, batches: Iterable[Batch]) -> float:
    """Return the loss in nats an answer token over some batches."""
    total, tokens = 0.0, 0
    for batch in batches:
        loss, count = answer_loss(model, batch)
        total += loss.item() * count
        tokens += count
    return total / tokens


def adamw(model: PreTrainedModel, settings: Train) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) whose weight decay spares the norms."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, fused=True)


def update(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    rate: float,
    clip_norm: float,
    grid: Grid | None = None,
) -> tuple[float, float]:
    """Make one step, with loss and gradient on the grid if there is one; return its loss and its gradient norm."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    with on_grid(model, grid):
        loss, _ = answer_loss(model, batch)
        loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item(), float(norm)
