"""What a checkpoint says comes next, where it is decided: what a file is compared with on its walk."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from metier.export.parity import MARGIN_NATS, Decided
from metier.train.batches import Example


@torch.no_grad()
def decided_tokens(model: PreTrainedModel, examples: Sequence[Example]) -> list[Decided]:
    """Return the answer positions where the checkpoint's best token leads its second by more than `MARGIN_NATS`."""
    found = []
    for prompt, answer in examples:
        ids = prompt + answer
        logits_TV = model(input_ids=torch.tensor([ids], device=model.device)).logits[0, len(prompt) - 1 : -1]
        best_T2 = logits_TV.float().log_softmax(-1).topk(2)
        for offset, (values, tokens) in enumerate(zip(best_T2.values, best_T2.indices, strict=True)):
            if values[0] - values[1] > MARGIN_NATS:
                found.append(Decided(ids[: len(prompt) + offset], int(tokens[0]), float(values[0])))
    return found
