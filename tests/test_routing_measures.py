"""The numbers of the routing analysis, against planted routing, chance and brute force."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.analysis import measures
from metier.analysis.collect import batches, frequent_ids
from metier.analysis.counts import DROP_RULES, GROUPS, OWN, RULES, Counts, Sizes, room_of
from metier.analysis.stability import Agreement, Choices, cosines, settled_at
from metier.analysis.texts import Text
from metier.analysis.watch import Routing

GOLDEN = Path(__file__).parent / "golden" / "jax_drops.json"


def drawn_choices(rng, tokens, experts, chosen):
    return np.argsort(rng.random((tokens, experts)), axis=1)[:, :chosen]


def routing(experts_NK, experts, kept_NK=None):
    chosen = experts_NK.shape[1]
    weights = np.tile(np.linspace(0.6, 0.2, chosen, dtype=np.float32), (len(experts_NK), 1))
    return Routing(experts_NK, weights, np.full((len(experts_NK), experts), 1 / experts, np.float32), kept_NK)


def kept_by_a_loop(experts_NK, experts, room):
    """All first choices come before all second ones, and earlier tokens before later ones."""
    taken = [0] * experts
    kept_NK = np.zeros(experts_NK.shape, bool)
    for choice in range(experts_NK.shape[1]):
        for token in range(len(experts_NK)):
            kept_NK[token, choice] = taken[experts_NK[token, choice]] < room
            taken[experts_NK[token, choice]] += 1
    return kept_NK


@st.composite
def choices(draw):
    experts = draw(st.integers(1, 9))
    chosen = draw(st.integers(1, min(experts, 3)))
    tokens = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return drawn_choices(rng, tokens, experts, chosen), experts


def test_what_is_dropped_is_what_the_router_of_the_original_training_code_dropped():
    golden = json.loads(GOLDEN.read_text("utf-8"))
    assert golden["capacity"] == room_of("jax", 0.25, 32, 4, 2)
    for experts_NK, expected in zip(golden["experts"], golden["kept"], strict=True):
        experts = np.array(experts_NK)
        counts = Counts(Sizes(1, 4, 2, 1, len(experts), np.array([0])), 0.25, "sequence")
        counts.add(0, 0, np.zeros((1, len(experts)), np.int64), [routing(experts, 4)])
        dropped_T = (~np.array(expected, bool)).sum(1)
        assert counts.dropped_RLDT[RULES.index("jax"), 0, 0].tolist() == dropped_T.tolist()


@pytest.mark.parametrize(
    ("rule", "factor", "tokens", "experts", "room"),
    [
        ("jax", 1.25, 4096, 32, 160),
        ("jax", 2.0, 4096, 32, 256),
        ("pytorch", 1.25, 2048, 32, 160),
        ("pytorch", 2.0, 2048, 32, 256),
        ("pytorch", 1.25, 48, 8, 16),  # 15 is made even
        ("jax", 2.0, 4, 32, 4),
        ("pytorch", 2.0, 4, 32, 4),
    ],
)
def test_the_two_rules_have_the_room_that_the_sources_of_openmoe_have(rule, factor, tokens, experts, room):
    assert room_of(rule, factor, tokens, experts, 2) == room


def test_the_largest_spread_of_openmoe_8b_is_that_of_its_figures():
    assert measures.largest_spread(32, 2) == pytest.approx(0.1210, abs=5e-5)


@given(st.integers(2, 20), st.integers(1, 4), st.integers(1, 300), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_no_group_spreads_more_than_the_largest_and_one_sent_always_to_the_same_experts_reaches_it(
    experts, chosen, tokens, seed
):
    chosen = min(chosen, experts)
    rng = np.random.default_rng(seed)
    same = np.zeros(experts)
    same[rng.permutation(experts)[:chosen]] = tokens
    largest = measures.largest_spread(experts, chosen)
    assert measures.spread(same) == pytest.approx(largest, abs=1e-9)
    anything = np.bincount(drawn_choices(rng, tokens, experts, chosen).ravel(), minlength=experts)
    assert measures.spread(anything) <= largest + 1e-9


@pytest.mark.parametrize(("experts", "chosen"), [(8, 1), (16, 2), (32, 8)])
def test_random_routing_shows_the_specialisation_that_chance_predicts(experts, chosen):
    rng = np.random.default_rng(0)
    tokens_G = np.full(300, 150)
    counts_GE = np.stack(
        [np.bincount(drawn_choices(rng, n, experts, chosen).ravel(), minlength=experts) for n in tokens_G]
    )
    found = measures.specialisation(counts_GE, tokens_G, counts_GE.sum(0), chosen)
    assert found.mean == pytest.approx(found.chance, rel=0.06)
    assert found.load < 0.2 * found.chance
    everything = counts_GE.sum(0)
    balance = measures.balance(everything, int(tokens_G.sum()), chosen)
    assert 0.4 < balance.variation / balance.variation_chance < 2
    assert balance.unused == 0


def test_unequal_load_alone_is_told_apart_from_specialisation():
    rng = np.random.default_rng(0)
    favoured = rng.choice(8, size=(100, 150), p=[0.65, *[0.05] * 7])  # the same preference for every group
    counts_GE = np.stack([np.bincount(row, minlength=8) for row in favoured])
    found = measures.specialisation(counts_GE, np.full(100, 150), counts_GE.sum(0), 1)
    assert found.mean > 5 * found.chance
    assert found.mean == pytest.approx(found.load, rel=0.1)


def test_distance_is_0_for_equal_use_and_1_for_no_expert_in_common():
    assert measures.distance(np.array([2, 4, 0]), np.array([1, 2, 0])) == 0
    assert measures.distance(np.array([2, 0]), np.array([0, 9])) == 1


def test_coactivation_is_the_share_of_an_experts_tokens_that_another_gets_too():
    pairs = np.array([[4, 3, 1], [3, 3, 0], [1, 0, 1]])
    expected = [[0, 0.75, 0.25], [1, 0, 0], [1, 0, 0]]
    assert measures.coactivation(pairs).tolist() == expected


def test_bins_hold_everything_and_the_last_one_may_be_short():
    assert measures.binned(np.arange(7), 3).tolist() == [3, 12, 6]


@given(choices(), st.sampled_from(GROUPS), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_every_count_adds_up_to_the_tokens_read(made, group, seed):
    experts_NK, experts = made
    tokens, chosen = experts_NK.shape
    rng = np.random.default_rng(seed)
    ids_BT = rng.integers(0, 9, (1, tokens)) if seed % 2 or tokens % 2 else rng.integers(0, 9, (2, tokens // 2))
    followed = np.array([1, 3, 4])
    counts = Counts(Sizes(1, experts, chosen, 2, ids_BT.shape[1] + 3, followed), 1.25, group)
    counts.add(1, 0, ids_BT, [routing(experts_NK, experts)])
    assert counts.tokens == tokens
    assert counts.use_LDHE.sum() == counts.at_LTE.sum() == tokens * chosen
    assert counts.use_LDHE[0, 1, 0].tolist() == np.bincount(experts_NK.ravel(), minlength=experts).tolist()
    assert (counts.pairs_LEE[0].diagonal() == counts.use_LDHE[0].sum((0, 1))).all()
    assert counts.pairs_LEE.sum() == tokens * chosen**2
    assert counts.tokens_I.tolist() == [(ids_BT == id_).sum() for id_ in followed]
    for slot, id_ in enumerate(followed):
        of_id = experts_NK[ids_BT.ravel() == id_]
        assert counts.of_id_LIE[0, slot].tolist() == np.bincount(of_id.ravel(), minlength=experts).tolist()
    for number, rule in enumerate(RULES):
        groups = np.split(experts_NK, len(ids_BT)) if group == "sequence" else [experts_NK]
        room = room_of(rule, 1.25, len(groups[0]), experts, chosen)
        kept_NK = np.concatenate([kept_by_a_loop(one, experts, room) for one in groups])
        assert counts.dropped_RLDT[number].sum() == (~kept_NK).sum()
        assert counts.lost_RLDT[number].sum() == (~kept_NK.any(1)).sum()
    assert not counts.dropped_RLDT[DROP_RULES.index(OWN)].any()


def test_drops_are_counted_at_the_position_of_the_token_that_lost():
    experts_NK = np.zeros((12, 1), np.int64)  # two rows of six, all to expert 0, which has room for 4
    counts = Counts(Sizes(1, 8, 1, 1, 6, np.array([0])), 1.0, "sequence")
    counts.add(0, 0, np.zeros((2, 6)), [routing(experts_NK, 8)])
    for number in range(len(RULES)):
        assert counts.dropped_RLDT[number, 0, 0].tolist() == [0, 0, 0, 0, 2, 2]
    counts = Counts(Sizes(1, 8, 1, 1, 6, np.array([0])), 1.0, "batch")  # now the second row finds nothing left
    counts.add(0, 0, np.zeros((2, 6)), [routing(experts_NK, 8)])
    assert counts.dropped_RLDT[0, 0, 0].tolist() == [1, 1, 1, 1, 2, 2]


def test_the_drops_a_model_makes_itself_are_counted_beside_the_simulated_ones():
    own = np.array([[True, False], [False, False], [True, True]])
    counts = Counts(Sizes(1, 4, 2, 1, 3, np.array([0])), 2.0, "sequence")
    counts.add(0, 0, np.zeros((1, 3)), [routing(np.array([[0, 1], [1, 2], [3, 0]]), 4, own)])
    rule = DROP_RULES.index(OWN)
    assert counts.has_own_drops
    assert counts.dropped_RLDT[rule, 0, 0].tolist() == [1, 2, 0]
    assert counts.lost_RLDT[rule, 0, 0].tolist() == [0, 1, 0]


def test_agreement_counts_shared_choices_whatever_their_order():
    then = np.array([[0, 1], [2, 3], [4, 5]])
    memory = Choices.sized(1, 2, 3)
    memory.add([routing(then, 8)])
    agreement = Agreement(memory)
    agreement.add([routing(np.array([[1, 0], [3, 7]]), 8)])
    agreement.add([routing(np.array([[6, 7]]), 8)])
    assert agreement.saturation.tolist() == [0.5]
    assert agreement.equal_share == pytest.approx([1 / 3])


def test_more_tokens_than_there_is_room_for_are_compared_as_far_as_remembered(monkeypatch):
    monkeypatch.setattr("metier.analysis.stability.CHOICES_BYTES", 2 * 2 * 3)
    memory = Choices.sized(1, 2, 100)
    rows = np.array([[0, 1], [2, 3], [4, 5], [6, 7]])
    memory.add([routing(rows, 8)])
    agreement = Agreement(memory)
    agreement.add([routing(rows, 8)])
    assert (memory.filled, agreement.tokens, agreement.saturation[0]) == (3, 3, 1.0)


def test_routing_is_settled_from_the_checkpoint_after_the_last_that_differed():
    assert settled_at([0.2, 0.95, 0.91]) == 1
    assert settled_at([0.95, 0.5, 0.93]) == 2
    assert settled_at([0.95, 0.9]) is None


def test_the_cosine_of_routing_vectors_does_not_depend_on_how_often_an_id_occurs():
    one = np.array([[3, 1, 0], [1, 0, 0]])
    assert cosines(one, one * 7) == pytest.approx([1, 1])
    assert cosines(one[1:], np.array([[0, 5, 0]])) == pytest.approx([0])


def test_batches_hold_all_rows_once_and_never_mix_lengths_texts_or_halves():
    rows = [np.full(4, n, np.int32) for n in range(5)] + [np.array([9], np.int32)]
    texts = [Text("a", rows), Text("b", rows[:1])]
    made = list(batches(texts, 2))
    assert [(b.text, b.half, b.ids_BT.shape) for b in made] == [
        (0, 0, (2, 4)),
        (0, 0, (1, 4)),
        (0, 1, (2, 4)),
        (0, 1, (1, 1)),
        (1, 1, (1, 4)),
    ]
    assert frequent_ids(texts).tolist() == [0, 1, 2, 3, 4, 9]


@pytest.mark.parametrize(("tokens", "experts", "chosen", "room"), [(24, 8, 2, 6), (256, 8, 2, 40), (64, 4, 1, 20)])
def test_random_choices_drop_what_chance_says(tokens, experts, chosen, room):
    rng = np.random.default_rng(0)
    loads = [np.bincount(drawn_choices(rng, tokens, experts, chosen).ravel(), minlength=experts) for _ in range(4000)]
    dropped = np.maximum(np.array(loads) - room, 0).sum(axis=1) / (tokens * chosen)
    error = 4 * dropped.std() / np.sqrt(len(dropped))
    assert measures.chance_drops(tokens, room, experts, chosen) == pytest.approx(dropped.mean(), abs=error)
    assert measures.chance_drops(tokens, room, experts, chosen) > max(0, 1 - room * experts / (tokens * chosen))


def test_chance_drops_nothing_where_there_is_room_for_all_and_what_is_left_where_all_are_chosen():
    assert measures.chance_drops(50, 50, 8, 2) == 0
    assert measures.chance_drops(50, 40, 4, 4) == pytest.approx(0.2)
    assert 0 < measures.chance_drops(65_536, 16_500, 8, 2) < 0.01
