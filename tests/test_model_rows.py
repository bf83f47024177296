"""Rows of a cut vocabulary: the logits of what is kept are the base's."""

import pytest
import torch
from doubles import of_any_architecture, phi

from metier.model.architectures import ARCHITECTURES
from metier.model.rows import keep_rows

KEPT = [0, 1, 2, 7, 11, 30, 31, 59]


@pytest.mark.parametrize(
    ("name", "tied"),
    [(name, tied) for name in ARCHITECTURES for tied in (True, False) if tied or name != "gemma3_text"],
)
def test_the_logits_of_the_kept_pieces_are_the_bases(name, tied):
    model = of_any_architecture(name, 60, tied)
    new_ids = torch.tensor([[2, 3, 7, 5, 6, 4]])
    with torch.no_grad():
        before = model(torch.tensor(KEPT)[new_ids]).logits
        keep_rows(model, KEPT)
        after = model(new_ids).logits
    assert after.shape[-1] == len(KEPT) == model.config.vocab_size
    torch.testing.assert_close(after, before[..., KEPT])  # products of another size are rounded in another order
    assert model.config.tie_word_embeddings is tied
    same = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert same is tied


def test_an_output_bias_is_that_of_the_kept_pieces():
    model = phi(60)
    new_ids = torch.tensor([[2, 3, 7, 5, 6, 4]])
    with torch.no_grad():
        before = model(torch.tensor(KEPT)[new_ids]).logits
        keep_rows(model, KEPT)
        after = model(new_ids).logits
    torch.testing.assert_close(after, before[..., KEPT])
