"""The numbers of a step: rounded weights are what the file holds, bfloat16 learns what float32 learns."""

from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
from test_train_loop import SETTINGS, assert_same, examples, losses, run, run_and_stop, tiny_model

from metier.artifact import write_json
from metier.compress.blocks import BLOCK, fit_scales, quantise, rounded
from metier.model.scratch import scratch
from metier.train import numerics
from metier.train.batches import collate
from metier.train.numerics import Grid, Numerics, multiplies_bfloat16, route_exactly
from metier.train.objective import Objective, batch_loss, update
from metier.train.optimizers import optimizer_for
from metier.train.router import is_router, routers

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
    wanted = batch_loss(rounded_model, batch()).total
    wanted.backward()
    with Numerics(grid).weights(model):
        found = batch_loss(model, batch()).total
        found.backward()
    assert found.item() == wanted.item()
    for mine, theirs in zip(model.parameters(), rounded_model.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)


def test_a_step_too_small_for_the_grid_is_not_forgotten():
    model = tiny_model()
    grid, before = Grid.fit(model, "Q4_0"), {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = optimizer_for(model, SETTINGS)
    update(model, optimizer, batch(), 1e-6, 1.0, Objective(numerics=Numerics(grid)))
    moved = {name: (p - before[name]).abs().max() for name, p in model.named_parameters() if p.dim() > 1}
    assert all(0 < distance < 1e-5 for distance in moved.values())


def test_the_exact_weights_come_back_after_an_error():
    model = tiny_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(ZeroDivisionError), Numerics(Grid.fit(model, "Q4_0")).weights(model):
        raise ZeroDivisionError
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_a_stopped_training_on_the_grid_goes_on_with_equal_losses_and_weights(tmp_path):
    model, facts = run(tmp_path / "whole", ON_GRID)
    whole = SimpleNamespace(weights=model.state_dict(), facts=facts, losses=losses(tmp_path / "whole"))
    run_and_stop(tmp_path / "stopped", 7, ON_GRID)
    assert_same(whole, tmp_path / "stopped", *run(tmp_path / "stopped", ON_GRID))


def test_bfloat16_products_learn_nearly_the_same_from_float32_weights(tmp_path):
    model, facts = run(tmp_path / "half", SETTINGS.model_copy(update={"precision": "bfloat16"}))
    _, exact = run(tmp_path / "whole")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert (facts["precision"], exact["precision"]) == ("bfloat16", "float32")
    mine, theirs = losses(tmp_path / "half"), losses(tmp_path / "whole")
    assert mine != theirs
    assert [loss for _, loss, _ in mine] == pytest.approx([loss for _, loss, _ in theirs], rel=0.02)


def test_no_copy_of_the_weights_is_kept_and_the_losses_are_the_same_bits():
    kept = [torch.autocast("cpu", dtype=torch.bfloat16), Numerics(bfloat16=True).products(torch.device("cpu"))]
    found = []
    for products in kept:
        model = tiny_model()
        with products:
            assert torch.is_autocast_cache_enabled() == (products is kept[0])
            loss = batch_loss(model, batch()).total
        loss.backward()
        found.append((loss, *(parameter.grad for parameter in model.parameters())))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("able", [True, False])
def test_auto_takes_bfloat16_only_where_the_hardware_multiplies_it(monkeypatch, tmp_path, able):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able})
    assert multiplies_bfloat16(torch.device("cpu")) is able
    _, facts = run(tmp_path, SETTINGS.model_copy(update={"precision": "auto", "budget": "2 steps"}))
    assert facts["precision"] == ("bfloat16" if able else "float32")


@pytest.mark.parametrize("able", [True, False])
def test_a_training_goes_on_in_the_precision_that_it_began_in(monkeypatch, tmp_path, able, capsys):
    settings = SETTINGS.model_copy(update={"precision": "auto"})
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able})
    run_and_stop(tmp_path, 7, settings)
    assert "as the training began" not in capsys.readouterr().err
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": not able})
    _, facts = run(tmp_path, settings)
    assert facts["precision"] == ("bfloat16" if able else "float32")
    assert f"in {facts['precision']}, as the training began" in capsys.readouterr().err


def test_a_plan_of_an_earlier_version_leaves_the_precision_to_the_hardware(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    write_json(tmp_path / "plan.json", {"steps": 2, "step_seconds": 0.0, "probe_seconds": 0.0})
    _, facts = run(tmp_path, SETTINGS.model_copy(update={"precision": "auto"}))
    assert (facts["steps"], facts["precision"]) == (2, "bfloat16")


def test_routers_are_not_rounded_for_no_file_rounds_them():
    model = scratch(320, 64, 1, 64, 0, architecture="moe", experts=4, experts_per_token=2)
    assert all(p.shape[-1] % BLOCK == 0 for p in routers(model)) and list(routers(model))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    with Grid.fit(model, "Q4_0").applied(model):
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, before[name]) == (parameter.dim() < 2 or is_router(name)), name


def test_the_experts_of_an_openmoe_keep_the_precision_of_the_rest():
    model = scratch(64, 32, 1, 32, 0, architecture="openmoe", experts=4, heads=2, head_dim=16)
    forwards = [module.forward for module in model.modules()]
    route_exactly(model)
    assert [module.forward for module in model.modules()] == forwards


def test_routers_compute_in_float32_where_all_else_does_not():
    model = scratch(64, 32, 1, 32, 0, architecture="moe", experts=4, expert_size=8)
    layer = model.get_decoder().layers[0]
    seen = {}
    router, query = layer.mlp.gate, layer.self_attn.q_proj
    router.register_forward_hook(lambda _, __, out: seen.update(scores=out[0] if isinstance(out, tuple) else out))
    query.register_forward_hook(lambda _, __, out: seen.update(queries=out))
    route_exactly(model)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        model(input_ids=torch.arange(8)[None])
    assert seen["scores"].dtype == torch.float32
    assert seen["queries"].dtype == torch.bfloat16


def test_a_machine_whose_accelerator_multiplies_bfloat16_is_told_when_it_does_not(monkeypatch):
    monkeypatch.setattr(numerics, "multiplies_bfloat16", lambda device: device.type == "cuda")
    assert Numerics().is_slow_on(torch.device("cuda")) and not Numerics(bfloat16=True).is_slow_on(torch.device("cuda"))
    assert not Numerics().is_slow_on(None) and not Numerics().is_slow_on(torch.device("mps"))
