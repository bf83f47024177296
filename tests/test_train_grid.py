"""Training on rounded weights: what is learned is what the file of few bits holds."""

from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
from test_train_loop import SETTINGS, assert_same, examples, losses, run, run_and_stop, tiny_model

from metier.compress.blocks import fit_scales, quantise, rounded
from metier.train.batches import collate
from metier.train.grid import Grid, on_grid
from metier.train.objective import adamw, answer_loss, update

ON_GRID = SETTINGS.model_copy(update={"quantisation": "Q4_0"})


def batch():
    return collate(examples(12), 0)


def stored(weight):
    kind = gguf.GGMLQuantizationType.Q4_0
    return gguf.dequantize(quantise(weight.numpy(), kind), kind)


def test_the_best_weights_are_what_a_file_of_this_type_holds(tmp_path):
    model, _ = run(tmp_path, ON_GRID)
    matrices = {name: p for name, p in model.named_parameters() if p.dim() > 1}
    untrained = dict(tiny_model().named_parameters())
    assert matrices
    for name, weight in matrices.items():
        assert np.array_equal(stored(weight.detach()), weight.detach().numpy()), name
        assert not torch.equal(weight, rounded(untrained[name], fit_scales(untrained[name], "Q4_0"), "Q4_0")), name


def test_loss_and_gradient_are_those_of_the_rounded_weights():
    model, rounded_model = tiny_model(), tiny_model()
    grid = Grid.fit(model, "Q4_0")
    with torch.no_grad():
        for parameter in rounded_model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.from_numpy(stored(parameter.detach())))
    wanted, _ = answer_loss(rounded_model, batch())
    wanted.backward()
    with on_grid(model, grid):
        found, _ = answer_loss(model, batch())
        found.backward()
    assert found.item() == wanted.item()
    for mine, theirs in zip(model.parameters(), rounded_model.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)


def test_a_step_too_small_for_the_grid_is_not_forgotten():
    model = tiny_model()
    grid, before = Grid.fit(model, "Q4_0"), {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = adamw(model, SETTINGS)
    update(model, optimizer, batch(), 1e-6, 1.0, grid)
    moved = {name: (p - before[name]).abs().max() for name, p in model.named_parameters() if p.dim() > 1}
    assert all(0 < distance < 1e-5 for distance in moved.values())


def test_the_exact_weights_come_back_after_an_error():
    model = tiny_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(ZeroDivisionError), on_grid(model, Grid.fit(model, "Q4_0")):
        raise ZeroDivisionError
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_a_killed_training_on_the_grid_goes_on_with_equal_losses_and_weights(tmp_path):
    model, facts = run(tmp_path / "whole", ON_GRID)
    whole = SimpleNamespace(weights=model.state_dict(), facts=facts, losses=losses(tmp_path / "whole"))
    run_and_stop(tmp_path / "killed", 7, ON_GRID)
    assert_same(whole, tmp_path / "killed", *run(tmp_path / "killed", ON_GRID))
