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
    matrices: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    rows = torch.tensor(kept)
    wanted = [matrix.weight[rows].clone() for matrix in matrices]
    model.resize_token_embeddings(len(kept), mean_resizing=False)
    for matrix, weight in zip((model.get_input_embeddings(), model.get_output_embeddings()), wanted, strict=True):
        matrix.weight.copy_(weight)  # type: ignore[union-attr]
