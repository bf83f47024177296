"""OpenMoE computes what the authors' code computes, and stays itself when cached, padded, saved or frozen."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from metier.model.openmoe import OpenMoeConfig, OpenMoeForCausalLM
from metier.model.openmoe.losses import load_balance_loss, router_z_loss
from metier.model.openmoe.modeling import text_mask
from metier.model.openmoe.routing import Routing, jax_capacity, jax_groups, rank_of, route
from metier.train.router import freeze_routers

FIXTURE = Path(__file__).parent / "fixtures" / "openmoe"
EXPECTED = load_file(FIXTURE / "expected.safetensors")
PUBLISHED = json.loads((FIXTURE / "config.json").read_text())
AS_RELEASED = {"router_mode_train": "pytorch", "router_mode_eval": "pytorch", "released_inference": True}
DROPS = {"eval": (0, 4), "train": (3, 15)}
CAPACITY = {"eval": 24, "train": 16, "leftpad": 24, "skew": 20}


def fixture_model(**changes):
    model = OpenMoeForCausalLM(OpenMoeConfig(**(PUBLISHED | changes)))
    model.load_state_dict(load_file(FIXTURE / "model.safetensors"))
    return model.eval()


def tiny(seed=0, **changes):
    torch.manual_seed(seed)
    shape = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "head_dim": 8}
    shape |= {"num_attention_heads": 3, "num_experts": 6, "moe_layer_interval": 2, "initializer_range": 0.5}
    return OpenMoeForCausalLM(OpenMoeConfig(**(shape | changes))).eval()


def of_case(case):
    inputs = {"input_ids": EXPECTED[f"{case}.input_ids"]}
    if f"{case}.attention_mask" in EXPECTED:
        inputs["attention_mask"] = EXPECTED[f"{case}.attention_mask"]
    return inputs


def off(found, case, key):
    return (found - EXPECTED[f"{case}.{key}"]).abs().max().item()


def kept_one_by_one(expert_NK, experts, capacity):
    """Fill the experts as the specification says: all first choices, then all second ones, in the order of tokens."""
    taken, kept = [0] * experts, torch.zeros_like(expert_NK, dtype=torch.bool)
    for choice in range(expert_NK.shape[1]):
        for token in range(len(expert_NK)):
            expert = int(expert_NK[token, choice])
            kept[token, choice] = taken[expert] < capacity
            taken[expert] += 1
    return kept


@pytest.mark.parametrize("case", ["eval", "train", "leftpad", "skew"])
def test_every_number_is_that_of_the_authors_code(case):
    model = fixture_model(**AS_RELEASED).train(case == "train")
    with torch.no_grad():
        out = model(**of_case(case), output_hidden_states=True, output_routing=True)
    assert off(out.logits, case, "logits") <= 1e-5
    assert len(out.hidden_states) == 5
    for i, hidden in enumerate(out.hidden_states):
        assert off(hidden, case, f"hidden.{i}") <= 1e-5
    balance = torch.stack([load_balance_loss(routing) for routing in out.routing])
    router_z = torch.stack([router_z_loss(routing) for routing in out.routing])
    assert torch.allclose(balance, EXPECTED[f"{case}.router_aux_loss_per_layer"], rtol=1e-6, atol=0)
    assert torch.allclose(router_z, EXPECTED[f"{case}.router_z_loss_per_layer"], rtol=1e-6, atol=0)
    assert out.aux_loss == balance.mean() and out.z_loss == router_z.mean()


@pytest.mark.parametrize("case", ["eval", "train", "leftpad", "skew"])
def test_the_same_choices_are_dropped_as_in_the_authors_code(case):
    model = fixture_model(**AS_RELEASED).train(case == "train")
    with torch.no_grad():
        routings = model(**of_case(case), output_routing=True).routing
    for layer, routing in zip((1, 3), routings, strict=True):
        assert routing.capacity == CAPACITY[case]
        assert torch.equal(routing.kept_NK, kept_one_by_one(routing.expert_NK, 8, routing.capacity))
        if f"{case}.router_logits.layer{layer}" in EXPECTED:
            theirs = EXPECTED[f"{case}.router_logits.layer{layer}"]
            assert torch.allclose(routing.logits_NE, theirs, atol=1e-5)
            assert torch.equal(routing.expert_NK, theirs.topk(2).indices)
    if case in DROPS:
        assert tuple((~routing.kept_NK).sum().item() for routing in routings) == DROPS[case]
    else:
        assert case == "leftpad" or all((~routing.kept_NK).sum() > 10 for routing in routings)


def test_loss_and_gradients_are_those_of_the_authors_code():
    model = fixture_model(**AS_RELEASED).train()
    ids = EXPECTED["train.input_ids"]
    loss = model(ids, labels=ids, num_items_in_batch=len(ids)).loss
    assert loss.item() == pytest.approx(EXPECTED["train.loss"].item(), rel=1e-6)
    loss.backward()
    named = dict(model.named_parameters())
    checked = [name for name in EXPECTED if name.startswith("train.grad.")]
    assert len(checked) == 5
    for name in checked:
        assert (named[name.removeprefix("train.grad.")].grad - EXPECTED[name]).abs().max() <= 1e-4, name


def test_cached_steps_drop_and_keep_what_they_did_in_the_authors_code():
    model = fixture_model(**AS_RELEASED)
    ids = EXPECTED["eval.input_ids"][:1, :12]
    with torch.no_grad():
        full = model(ids, output_routing=True)
        out = model(ids[:, :8], use_cache=True, output_routing=True)
        parts, kept = [out.logits], []
        for step in range(8, 12):
            out = model(ids[:, step : step + 1], cache=out.cache, output_routing=True)
            parts.append(out.logits)
            kept += [routing.kept_NK for routing in out.routing]
    assert off(full.logits, "decode", "full_logits") <= 1e-5
    assert not all(routing.kept_NK.all() for routing in full.routing)
    assert off(torch.cat(parts, dim=1), "decode", "incremental_logits") <= 1e-5
    assert all(mask.all() for mask in kept)


def test_the_greedy_continuation_is_that_of_the_authors_code():
    ids = EXPECTED["eval.input_ids"][:1, :8]
    out = fixture_model(**AS_RELEASED).generate(ids, max_new_tokens=8, do_sample=False)
    assert ids.tolist() == [[0, 74, 56, 58, 50, 27, 10, 49]]
    assert out[0, 8:].tolist() == [34, 2, 92, 67, 23, 63, 83, 55]


@pytest.mark.parametrize("case", ["0", "1", "2"])
def test_routing_is_that_of_the_jax_code(case):
    arrays = np.load(FIXTURE / "jax_routing.npz")
    logits_GTE = torch.from_numpy(arrays[f"{case}.logits"])
    groups, tokens, experts = logits_GTE.shape
    capacity = int(arrays[f"{case}.capacity"])
    config = OpenMoeConfig(
        num_experts=experts,
        router_mode_train="jax",
        router_group_size=tokens,
        router_capacity_factor_train=capacity * experts / tokens,
    )
    routing = route(logits_GTE.reshape(-1, experts), config, training=True)
    assert (routing.groups, routing.capacity) == (groups, capacity)
    combine_NE = torch.zeros(groups * tokens, experts)
    combine_NE.scatter_(1, routing.expert_NK, routing.weight_NK * routing.kept_NK)
    theirs_NE = torch.from_numpy(arrays[f"{case}.combine"]).reshape(-1, experts)
    assert torch.equal(combine_NE != 0, theirs_NE != 0)
    assert not routing.kept_NK.all()
    assert torch.allclose(combine_NE, theirs_NE, rtol=0, atol=1e-6)
    assert load_balance_loss(routing).item() == pytest.approx(float(arrays[f"{case}.aux_loss"]), rel=1e-6)
    assert router_z_loss(routing).item() == pytest.approx(float(arrays[f"{case}.z_loss"]), rel=1e-6)


def test_a_jax_group_has_the_capacity_of_the_published_runs():
    assert (jax_capacity(4096, 32, 1.25, 4), jax_capacity(4096, 32, 2.0, 4)) == (160, 256)


def test_a_jax_capacity_is_rounded_to_the_nearest_and_never_below_the_least():
    assert [jax_capacity(100, 16, factor, 4) for factor in (1.1, 1.0, 0.5)] == [7, 6, 4]


@pytest.mark.parametrize(
    ("tokens", "largest", "multiple", "groups"), [(4096, 4096, 1, 1), (100, 32, 1, 4), (96, 32, 4, 4), (60, 7, 3, 12)]
)
def test_jax_groups_divide_the_tokens_and_are_a_multiple(tokens, largest, multiple, groups):
    assert jax_groups(tokens, largest, multiple) == groups


@pytest.mark.parametrize(("name", "parameters"), [("base", 799663104), ("8b", 11855046656), ("34b", 46270737408)])
def test_the_presets_have_their_true_number_of_parameters(name, parameters):
    with torch.device("meta"):
        model = OpenMoeForCausalLM(OpenMoeConfig.preset(name))
    assert sum(weight.numel() for weight in model.parameters()) == parameters
    config = model.config
    moe = {"base": [3, 7, 11], "8b": [5, 11, 17, 23], "34b": [3, 7, 11, 15, 19, 23, 27, 31]}
    assert [layer for layer in range(config.num_hidden_layers) if config.is_moe(layer)] == moe[name]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), length=st.integers(2, 20), cut=st.integers(1, 19), pads=st.integers(0, 6))
def test_cached_decoding_is_the_full_forward_whatever_the_padding(seed, length, cut, pads):
    model = tiny(seed)
    ids = torch.randint(2, 61, (2, length), generator=torch.Generator().manual_seed(seed))
    ids[:, 0] = 0
    padded = torch.cat([torch.zeros(2, pads, dtype=torch.long), ids], dim=1)
    mask = text_mask(padded, 0)
    assert mask.sum().item() == 2 * length
    cut = min(cut, length - 1) + pads
    with torch.no_grad():
        alone = model(ids).logits
        full = model(padded, attention_mask=mask).logits[:, pads:]
        out = model(padded[:, :cut], attention_mask=mask[:, :cut], use_cache=True)
        parts = [out.logits]
        for step in range(cut, length + pads):
            out = model(padded[:, step : step + 1], attention_mask=mask[:, : step + 1], cache=out.cache)
            parts.append(out.logits)
    assert torch.allclose(alone, full, atol=1e-4)
    assert torch.allclose(torch.cat(parts, dim=1)[:, pads:], alone, atol=1e-4)


def test_generation_sees_the_start_token_although_its_id_is_the_paddings():
    model = fixture_model()
    ids = EXPECTED["eval.input_ids"][:1, :8]
    found = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=None)
    for _ in range(6):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    assert found.tolist() == ids.tolist()


def test_a_padded_batch_continues_as_each_of_its_rows_alone():
    model = tiny(3)
    rows = [[0, 5, 9, 33, 2], [0, 7]]
    batch = torch.tensor([rows[0], [0] * 3 + rows[1]])
    together = model.generate(batch, max_new_tokens=6, do_sample=False, eos_token_id=None)
    for row, ids in enumerate(rows):
        alone = model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False, eos_token_id=None)
        assert together[row, 5:].tolist() == alone[0, len(ids) :].tolist()


@pytest.mark.parametrize("mode", ["pytorch", "jax"])
def test_without_a_limit_capacity_changes_nothing(mode):
    dropless = fixture_model()
    wide = fixture_model(router_mode_eval=mode, router_capacity_factor_eval=1e5)
    ids = EXPECTED["skew.input_ids"]
    with torch.no_grad():
        ours = wide(ids, output_routing=True)
        assert torch.equal(dropless(ids).logits, ours.logits)
    assert all(routing.kept_NK.all() for routing in ours.routing)


def test_a_dropped_token_gets_nothing_from_its_experts():
    layer = tiny().model.layers[1].mlp
    x_BTH = torch.randn(1, 5, 16)
    _, routing = layer(x_BTH)
    nothing = routing._replace(kept_NK=torch.zeros_like(routing.kept_NK))
    assert layer.experts(x_BTH[0], nothing).abs().max() == 0


def test_experts_give_the_weighted_sum_computed_one_token_at_a_time():
    layer = tiny().model.layers[1].mlp
    x_BTH = torch.randn(1, 40, 16)
    y_BTH, routing = layer(x_BTH)
    kept_NK = torch.rand(40, 2) < 0.7
    y_NH = layer.experts(x_BTH[0], routing._replace(kept_NK=kept_NK))
    for token, x_H in enumerate(x_BTH[0]):
        wanted = torch.zeros(16)
        for choice, expert in enumerate(routing.expert_NK[token].tolist()):
            linear, gated = (x_H @ layer.experts.wi_gate[expert]).chunk(2)
            answer = (linear * torch.nn.functional.silu(gated) * (x_H @ layer.experts.wi_up[expert])) @ (
                layer.experts.wo[expert]
            )
            wanted += answer * routing.weight_NK[token, choice] * kept_NK[token, choice]
        assert torch.allclose(y_NH[token], wanted, atol=1e-5)
    assert y_BTH.shape == x_BTH.shape


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999), tokens=st.integers(1, 50), experts=st.integers(2, 9), groups=st.sampled_from([1, 2, 5])
)
def test_places_in_the_queue_are_those_of_filling_one_by_one(seed, tokens, experts, groups):
    random = torch.Generator().manual_seed(seed)
    expert_NK = torch.rand(tokens * groups, experts, generator=random).argsort(dim=1)[:, :2]
    rank_NK = rank_of(expert_NK, experts, groups)
    for capacity in (1, 3, 4):
        parts = [kept_one_by_one(part, experts, capacity) for part in expert_NK.split(tokens)]
        assert torch.equal(rank_NK < capacity, torch.cat(parts))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), tokens=st.integers(1, 40))
def test_where_tokens_stand_changes_what_is_dropped_but_never_what_is_chosen(seed, tokens):
    random = torch.Generator().manual_seed(seed)
    logits_NE = torch.randn(tokens, 6, generator=random)
    order = torch.randperm(tokens, generator=random)
    plain, full = OpenMoeConfig(num_experts=6), OpenMoeConfig(num_experts=6, router_mode_eval="pytorch")
    before, after = route(logits_NE, plain, training=False), route(logits_NE[order], plain, training=False)
    assert torch.equal(before.expert_NK[order], after.expert_NK)
    assert torch.equal(before.weight_NK[order], after.weight_NK)
    before, after = route(logits_NE, full, training=False), route(logits_NE[order], full, training=False)
    assert torch.equal(before.expert_NK[order], after.expert_NK)
    for choice in range(2):  # an expert keeps as many, whoever they are
        filled = [torch.bincount(r.expert_NK[r.kept_NK], minlength=6) for r in (before, after)]
        assert torch.equal(*filled), choice


def test_equal_scores_go_to_the_lower_experts():
    logits_NE = torch.tensor([[0.0] * 8, [1.0, 3.0, 1.0, 3.0, 3.0, 0.0, 0.0, 0.0], [5.0, *[1.0] * 7]])
    routing = route(logits_NE, OpenMoeConfig(num_experts=8), training=False)
    assert routing.expert_NK.tolist() == [[0, 1], [1, 3], [0, 1]]


def test_weights_are_the_probabilities_themselves():
    routing = route(torch.randn(9, 8), OpenMoeConfig(num_experts=8), training=False)
    assert torch.equal(routing.weight_NK, routing.logits_NE.softmax(-1).topk(2).values)
    assert (routing.weight_NK.sum(-1) < 1).all()


def test_noise_is_added_in_training_alone():
    logits_NE = torch.randn(50, 8)
    for policy, largest in (("Jitter", 0.011), ("Gaussian", 1.0)):
        config = OpenMoeConfig(num_experts=8, router_noisy_policy=policy)
        assert torch.equal(route(logits_NE, config, training=False).logits_NE, logits_NE)
        moved = (route(logits_NE, config, training=True).logits_NE - logits_NE).abs()
        assert 0 < moved.max() <= largest * max(1.0, logits_NE.abs().max())


def test_the_routers_can_be_frozen():
    model = tiny().train()
    ids = torch.randint(2, 61, (2, 9))
    freeze_routers(model)
    model(ids, labels=ids).loss.backward()
    named = dict(model.named_parameters())
    assert [name for name, weight in named.items() if weight.grad is None] == [
        "model.layers.1.mlp.gate_weight",
        "model.layers.3.mlp.gate_weight",
    ]


def test_gradient_checkpointing_changes_no_gradient():
    ids = torch.randint(2, 61, (2, 9))
    grads = []
    for checkpointing in (False, True):
        model = tiny(router_mode_train="pytorch").train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(ids, labels=ids).loss.backward()
        grads.append({name: weight.grad for name, weight in model.named_parameters()})
    assert all(torch.allclose(grads[0][name], grads[1][name], atol=1e-6) for name in grads[0])


def test_eager_attention_is_the_same_attention():
    model = tiny()
    ids = torch.randint(2, 61, (2, 9))
    with torch.no_grad():
        before = model(ids).logits
        model.set_attn_implementation("eager")
        after = model(ids, output_attentions=True)
    assert torch.allclose(before, after.logits, atol=1e-4)
    assert [weights.shape for weights in after.attentions] == [(2, 3, 9, 9)] * 4


def test_the_auto_classes_know_a_saved_model(tmp_path):
    model = tiny(router_mode_train="jax", released_inference=True)
    model.save_pretrained(tmp_path)
    named = {"_name_or_path": ""}
    assert AutoConfig.from_pretrained(tmp_path).to_dict() | named == model.config.to_dict() | named
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(again, OpenMoeForCausalLM)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert torch.equal(model.model.rotary_emb.inv_freq, again.model.rotary_emb.inv_freq)


def test_a_fresh_model_begins_with_the_variances_of_the_jax_code():
    torch.manual_seed(0)
    model = OpenMoeForCausalLM(OpenMoeConfig(**(PUBLISHED | {"hidden_size": 256, "vocab_size": 500})))
    named = dict(model.named_parameters())
    wanted = {"model.embed_tokens": 1.0, "lm_head": (0.1 / 256) ** 0.5, "self_attn.k_proj": (0.1 / 256) ** 0.5}
    wanted |= {"self_attn.q_proj": (0.1 / 256) ** 0.5 / 4, "mlp.experts.wi_up": (0.1 / 256) ** 0.5}
    wanted |= {"mlp.experts.wo": (0.1 / 48) ** 0.5, "mlp.down_proj": (0.1 / 48) ** 0.5, "gate_weight": 0.02}
    for part, std in wanted.items():
        found = [weight.std().item() for name, weight in named.items() if part in name]
        assert found and found == pytest.approx([std] * len(found), rel=0.1), part


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"num_expert": 8}, "unknown key 'num_expert'; did you mean 'num_experts'"),
        ({"sliding_window": 8}, "unknown key 'sliding_window'"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not one of 'swiglu'"),
        ({"router_mode_eval": "expert choice"}, "router_mode_eval"),
        ({"router_noisy_policy": "noise"}, "router_noisy_policy"),
        ({"router_topk": 17}, "router_topk = 17 is more than num_experts = 16"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000 is not a whole number from 1 to 1024"),
        ({"hidden_size": 0}, "hidden_size = 0"),
        ({"head_dim": 63}, "odd"),
        ({"num_key_value_heads": 5}, "no multiple"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps = nan"),
        ({"label_smoothing": -0.1}, "label_smoothing"),
        ({"router_capacity_factor_eval": float("inf")}, "router_capacity_factor_eval"),
        ({"mlp_gated": False}, "mlp_gated"),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_is_refused(changes, found):
    with pytest.raises(ValueError, match=found):
        OpenMoeConfig(**changes)


def test_older_names_of_keys_mean_the_same():
    old = {"topk": 1, "capacity_factor_train": 3.0, "capacity_factor_eval": 4.0, "min_capacity": 6, "gated": True}
    old |= {"noisy_policy": "Jitter", "drop_tks": True, "expert_parallel": None, "layer_norm_epsilon": 1e-5}
    config = OpenMoeConfig(**old)
    assert (config.router_topk, config.router_min_capacity, config.router_noisy_policy) == (1, 6, "Jitter")
    assert (config.router_capacity_factor_train, config.router_capacity_factor_eval) == (3.0, 4.0)
    assert config.rms_norm_eps == 1e-5


def test_a_routing_says_what_it_decided():
    assert Routing._fields == ("logits_NE", "expert_NK", "weight_NK", "kept_NK", "capacity", "groups")
