"""Cut a model's vocabulary: the rows of some pieces, and no others."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel


@torch.no_grad()
def keep_rows(model: PreTrainedModel, kept: Sequence[int]) -> None:
    """Keep the rows of some ids, in this order, of the embedding and of the output matrix, if that is another.

    The logits of the kept pieces are what they were, an output bias (Phi's, GPT-J's) included.

    Args:
        model: changed in place.
        kept: the old id of each new one.
    """
    rows = torch.tensor(kept)
    wanted = [tensor[rows].clone() for tensor in _by_piece(model)]
    model.resize_token_embeddings(len(kept), mean_resizing=False)
    for tensor, values in zip(_by_piece(model), wanted, strict=True):
        tensor.copy_(values)


def _by_piece(model: PreTrainedModel) -> list[torch.Tensor]:
    """Return the tensors that have a row, or a number, for each piece."""
    output: Any = model.get_output_embeddings()
    embedding: Any = model.get_input_embeddings()
    bias = getattr(output, "bias", None)
    return [embedding.weight, output.weight, *([] if bias is None else [bias])]
