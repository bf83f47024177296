"""Smaller models: valid configurations, the same function where what goes does nothing, the given model untouched."""

from types import SimpleNamespace

import pytest
import torch
from doubles import gemma
from hypothesis import given, settings
from hypothesis import strategies as st
from test_parity import of_any_architecture

from metier.compress.importance import channel_importance, expert_importance, layers_to_drop, most_important
from metier.compress.structure import check_cuts, narrowed, with_experts, without_layers
from metier.errors import SpecError
from metier.export.huggingface import write_folder
from metier.model.architectures import ARCHITECTURES, architecture_of
from metier.model.loading import load
from metier.spec.compress import Compress, Cut
from metier.steps import compress
from metier.train.batches import Example

PIECES = 400
MIXTURES = [name for name, one in ARCHITECTURES.items() if "expert_count" in one.further]
DENSE = [name for name in ARCHITECTURES if name not in MIXTURES]
ANSWERS_OF_A_LAYER = ("o_proj.weight", "mlp.down_proj.weight", "mlp.experts.down_proj")


def text(rows=4, width=20, seed=1):
    ids = torch.randint(10, PIECES, (rows, width), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[0, width // 2 :] = 0
    return ids, mask


@torch.no_grad()
def same_function(one, other, atol=0.0):
    ids, mask = text(seed=2)
    found = [model(input_ids=ids, attention_mask=mask).logits[mask.bool()] for model in (one, other)]
    return torch.allclose(*found, rtol=0, atol=atol)


@torch.no_grad()
def silenced(model, layer):
    """Let a layer add nothing."""
    for name, weight in model.named_parameters():
        if f"layers.{layer}." in name and name.endswith(ANSWERS_OF_A_LAYER):
            weight.zero_()
    return model


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_without_a_layer_that_adds_nothing_is_the_same_function(name, tied, tmp_path, trained):
    model = of_any_architecture(name, PIECES, tied or name == "gemma3_text")
    last = model.config.num_hidden_layers - 1
    dropped = last if name == "gemma3_text" else 0  # of Gemma 3 the others would change their kind of attention
    smaller = without_layers(silenced(model, dropped), {dropped})
    assert same_function(model, smaller)
    assert smaller.config.num_hidden_layers == last and model.config.num_hidden_layers == last + 1
    assert architecture_of(smaller.config, name).model_type == name
    write_folder(tmp_path, smaller, trained.tokenizer)
    again = load(tmp_path).model
    assert same_function(smaller, again) and again.num_parameters() == smaller.num_parameters()


def test_gemmas_layers_attend_by_their_place_when_one_is_dropped():
    model = gemma(PIECES, layers=12)
    smaller = without_layers(model, {2, 7})
    assert smaller.config.layer_types == gemma(PIECES, layers=10).config.layer_types
    assert architecture_of(smaller.config, "smaller").name == "gemma3"
    kept = [layer for layer in range(12) if layer not in (2, 7)]
    for place, layer in enumerate(kept):
        pair = (smaller.model.layers[place], model.model.layers[layer])
        one, other = (part.state_dict() for part in pair)
        assert all(torch.equal(one[key], other[key]) for key in other)
    assert smaller.model.layers[5].self_attn.is_sliding is False and smaller.model.layers[6].self_attn.is_sliding


def test_a_smaller_model_shares_no_memory_with_the_one_it_was_made_from():
    model = of_any_architecture("qwen3", PIECES, True)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    smaller = without_layers(model, {0})
    with torch.no_grad():
        for weight in smaller.parameters():
            weight.fill_(3.0)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def memory(model):
    return {weight.untyped_storage().data_ptr() for weight in model.state_dict().values()}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_that_is_only_looked_at_shares_all_memory_and_is_the_same_function_as_a_copy(name, tied):
    model = of_any_architecture(name, PIECES, tied or name == "gemma3_text")
    copied, shared = without_layers(model, {0}), without_layers(model, {0}, shared=True)
    assert memory(shared) < memory(model) and not memory(copied) & memory(model)
    assert same_function(copied, shared)
    one_matrix = shared.get_input_embeddings().weight is shared.get_output_embeddings().weight
    assert one_matrix is bool(model.config.tie_word_embeddings)


def test_the_search_for_layers_copies_no_weights_and_leaves_them_as_they_are(tmp_path, monkeypatch):
    model = of_any_architecture("qwen3", PIECES, True)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    tried = []
    monkeypatch.setattr(compress, "mean_loss", lambda model, batches: tried.append(memory(model)) or len(tried))
    asked = SimpleNamespace(compress=SimpleNamespace(layers=[1]), train=SimpleNamespace(batch_tokens=100))
    found, facts = compress._Smaller(asked, model, 0, [Example([3], [4])], tmp_path).make(Cut(1, 1.0, 1.0))
    assert len(tried) == 2 and all(used < memory(model) for used in tried)
    assert facts["layers_dropped"] == [0] and not memory(found) & memory(model)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


@settings(max_examples=30)
@given(data=st.data(), name=st.sampled_from(DENSE))
def test_a_model_narrowed_by_channels_of_zero_weight_is_the_same_function(data, name):
    model = of_any_architecture(name, PIECES, True)
    width = model.config.intermediate_size
    kept = 32 * data.draw(st.integers(1, width // 32 - 1), label="blocks")
    with torch.no_grad():
        for layer in model.model.layers:
            silent = data.draw(st.permutations(range(width)))[: width - kept]
            kinds = data.draw(st.lists(st.sampled_from(["gate", "up", "down"]), min_size=1, max_size=3))
            for number, channel in enumerate(silent):
                kind = kinds[number % len(kinds)]
                projection = getattr(layer.mlp, f"{kind}_proj").weight
                projection.select(1 if kind == "down" else 0, channel).zero_()
    importance = channel_importance(model, [text()])
    smaller = narrowed(model, most_important(importance, kept))
    assert smaller.config.intermediate_size == kept and model.config.intermediate_size == width
    assert architecture_of(smaller.config, name).model_type == name
    assert same_function(model, smaller, atol=1e-4)  # products are summed in another order


@torch.no_grad()
def routed_by_id(name):
    """A mixture whose even ids go to experts 0 and 1, odd ones to 2 and 3; only its last layer's experts answer."""
    model = of_any_architecture(name, PIECES, True)
    embedding = model.get_input_embeddings().weight.zero_()
    embedding[0::2, 0] = embedding[1::2, 1] = 1
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.post_attention_layernorm.weight.fill_(1)
        layer.mlp.gate.weight.zero_()
        for expert in range(4):
            layer.mlp.gate.weight[expert, expert // 2] = 1 - 0.25 * (expert % 2)
    for layer in model.model.layers[:-1]:
        layer.mlp.experts.down_proj.zero_()
    return model


@pytest.mark.parametrize("name", MIXTURES)
def test_experts_that_are_never_chosen_have_no_importance_and_go_first(name):
    model = routed_by_id(name)
    ids, mask = text()
    for parity, used in ((0, [0, 1]), (1, [2, 3])):
        importance = expert_importance(model, [(ids // 2 * 2 + parity, mask)])
        assert all((scores > 0).nonzero().flatten().tolist() == used for scores in importance)
        fewer = with_experts(model, most_important(importance, 2))
        assert fewer.config.num_experts == 2 and model.config.num_experts == 4
        assert architecture_of(fewer.config, name).model_type == name
        with torch.no_grad():
            whole, cut = (one(input_ids=ids // 2 * 2 + parity).logits for one in (model, fewer))
        # the weights of the chosen add up to one; those of OLMoE grow, as there are fewer to share with
        assert torch.allclose(whole, cut, atol=1e-5) is (name != "olmoe")
    assert torch.equal(model(input_ids=ids).logits, with_experts(model, [torch.arange(4)] * 2)(input_ids=ids).logits)


@pytest.mark.parametrize("name", MIXTURES)
def test_importance_of_an_expert_is_the_mean_weight_of_its_answers_in_the_model(name):
    model = of_any_architecture(name, PIECES, True)
    ids, mask = text()
    used = []
    gate = model.model.layers[1].mlp.gate
    hook = gate.register_forward_hook(lambda _, inputs, outputs: used.append(outputs[1:]))
    found = expert_importance(model, [(ids, mask)])[1]
    hook.remove()
    weights_NE = torch.zeros(mask.numel(), 4).scatter(1, used[0][1], used[0][0])
    assert torch.allclose(found.float(), weights_NE[mask.flatten().bool()].mean(0), atol=1e-6)
    assert found.sum() < 0.99 if name == "olmoe" else found.sum().item() == pytest.approx(1)


def test_padding_has_no_say_in_what_is_important():
    model = of_any_architecture("qwen3", PIECES, True)
    ids, mask = text()
    other = torch.where(mask == 1, ids, 7)
    one, two = (channel_importance(model, [(rows, mask)]) for rows in (ids, other))
    assert all(torch.equal(*pair) for pair in zip(one, two, strict=True))


def test_importance_is_the_norm_of_what_a_channel_adds_to_the_answer():
    model = of_any_architecture("llama", PIECES, True)
    ids, mask = torch.randint(10, PIECES, (2, 12)), torch.ones((2, 12), dtype=torch.long)
    seen = []
    down = model.model.layers[1].mlp.down_proj
    hook = down.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(0, 1)))
    found = channel_importance(model, [(ids[:1], mask[:1]), (ids[1:], mask[1:])])[1]
    hook.remove()
    added_NFH = torch.cat(seen)[:, :, None].double() * down.weight.T[None].double()
    assert torch.allclose(found, added_NFH.square().sum(-1).mean(0).sqrt(), rtol=1e-6)
    assert not down._forward_pre_hooks


def test_layers_are_dropped_by_the_loss_that_is_left():
    price = {0: 9.0, 1: 1.0, 2: 2.0, 3: 0.5, 4: 8.0}
    asked = []

    def loss(dropped):
        asked.append(dropped)
        return sum(price[layer] for layer in dropped)

    assert layers_to_drop(5, 3, loss) == [(), (3,), (1, 3), (1, 2, 3)]
    assert len(asked) == len(set(asked)), "a loss was taken twice"
    assert layers_to_drop(5, 0, loss) == [()]
    whole, asked[:] = list(asked), []
    assert layers_to_drop(5, 3, loss, [[], [3]]) == [(), (3,), (1, 3), (1, 2, 3)], "the search goes on"
    assert asked == [dropped for dropped in whole if len(dropped) > 1]


def test_a_run_of_neighbours_is_found_that_no_single_layer_leads_to():
    def loss(dropped):  # as where layers go by twos
        return 0.1 if dropped == (2, 3) else len(dropped) + dropped[0] / 10

    assert layers_to_drop(6, 2, loss) == [(), (0,), (2, 3)]


@pytest.mark.parametrize(
    ("name", "asked", "named"),
    [
        ("qwen3", {"layers": [0, 2]}, "compress.layers: 2 to drop, and the model has 2"),
        ("qwen3", {"experts": [0.5]}, "compress.experts: the model has no experts"),
        ("mixtral", {"feed_forward": [0.5]}, "compress.feed_forward: the model is a mixture of experts"),
        ("qwen3", {"feed_forward": [0.99]}, r"compress\.feed_forward: 0\.99 keeps all of \d+ channels"),
        ("mixtral", {"experts": [0.95]}, r"compress\.experts: 0\.95 keeps all of \d+ experts"),
    ],
)
def test_what_a_model_does_not_have_cannot_be_cut(name, asked, named):
    with pytest.raises(SpecError, match=named):
        check_cuts(of_any_architecture(name, PIECES, True).config, Compress(**asked))


def test_no_cut_keeps_more_channels_than_there_are():
    assert [Cut(0, 0.75, 1.0).kept_channels(channels) for channels in (24, 32, 64, 256)] == [24, 32, 64, 192]


def test_what_a_model_has_can_be_cut():
    check_cuts(of_any_architecture("qwen3", PIECES, True).config, Compress(layers=[1], feed_forward=[0.5]))
    check_cuts(of_any_architecture("olmoe", PIECES, True).config, Compress(layers=[0, 1], experts=[1.0, 0.5]))
