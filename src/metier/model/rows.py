"""Cut a model's vocabulary: the rows of some pieces, and no others."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel


@torch.no_grad()
def keep_rows(model: PreTrainedModel, kept: Sequence[int]) -> None:
    """Keep the rows of some ids, in this order, of the embedding and of the output matrix, if that is another.

    The logits of the kept pieces are what they were.

    Args:
        model: changed in place.
        kept: the old id of each new one.
    """
    rows = torch.tensor(kept)
    wanted = [matrix.weight[rows].clone() for matrix in _matrices(model)]
    model.resize_token_embeddings(len(kept), mean_resizing=False)
    for matrix, weight in zip(_matrices(model), wanted, strict=True):
        matrix.weight.copy_(weight)


def _matrices(model: PreTrainedModel) -> list[Any]:
    return [model.get_input_embeddings(), model.get_output_embeddings()]
