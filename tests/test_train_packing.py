"""Packed rows: every token once, almost no padding, and texts that do not see each other."""

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train_losses import MIXTURES

from metier.errors import ArtifactError
from metier.model.scratch import scratch
from metier.spec.training import Losses
from metier.tokenizer.learn import learn
from metier.train.objective import batch_loss
from metier.train.packing import CausalRows, Corpus, Row, UL2Rows, batched, corpora
from metier.train.ul2 import TASKS, sentinels_needed

BOS, EOS = 2, 1
TEXT = ["the red fox saw two hens", "a hen saw no fox", "forty-two owls and a bee", "ants, bees and cows " * 9]


def corpus(lengths, name="text", weight=1.0, first=10):
    """Documents of ids that are all different, so that each can be found again."""
    return Corpus(name, np.arange(first, first + sum(lengths), dtype=np.uint32), np.cumsum(lengths), weight)


@pytest.fixture(scope="module")
def tokenizer():
    return learn(TEXT, 400, sentinels=sentinels_needed(64)).tokenizer()


some_lengths = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@settings(deadline=None)
@given(some_lengths, st.integers(2, 50), st.integers(0, 5))
def test_causal_rows_hold_every_token_once_an_epoch_and_no_padding(lengths, row_tokens, seed):
    source = corpus(lengths)
    seen = []
    for row in CausalRows([source], row_tokens, BOS, EOS, seed):
        assert row.tokens == len(row.ids_T) == row_tokens and (row.targets_T != -100).all()
        seen += [token for token in row.targets_T.tolist() if token != EOS]
        if len(seen) >= sum(lengths):
            break
    assert sorted(seen[: sum(lengths)]) == source.tokens.tolist()


@settings(deadline=None)
@given(some_lengths, st.integers(2, 50), st.integers(0, 5))
def test_every_text_of_a_causal_row_is_shifted_by_one_behind_its_bos(lengths, row_tokens, seed):
    ends = set((np.cumsum(lengths) + 9).tolist())
    for row in islice(CausalRows([corpus(lengths)], row_tokens, BOS, EOS, seed), 10):
        starts = np.flatnonzero(row.positions_T == 0)
        assert starts[0] == 0 and (row.ids_T[starts] == BOS).all()
        assert np.array_equal(
            row.positions_T, np.arange(row_tokens) - np.repeat(starts, np.diff([*starts, row_tokens]))
        )
        inside = np.flatnonzero(row.positions_T > 0)
        assert np.array_equal(row.ids_T[inside], row.targets_T[inside - 1])
        for place in np.flatnonzero(row.targets_T == EOS):
            assert int(row.ids_T[place]) in ends, "a text is ended where its document ends"
        for place in starts[1:]:
            assert row.targets_T[place - 1] == EOS


def test_sources_come_by_weight_and_in_another_order_every_epoch():
    sources = [corpus([5] * 20, "a", 3.0), corpus([5] * 20, "b", 1.0, first=1000)]
    rows = list(islice(CausalRows(sources, 6, BOS, EOS, 0), 2000))
    share = sum(row.targets_T[0] >= 1000 for row in rows) / len(rows)
    assert share == pytest.approx(0.25, abs=0.04)
    firsts = [int(row.targets_T[0]) for row in rows if row.targets_T[0] < 1000]
    assert sorted(firsts[:20]) == sorted(firsts[20:40]) and firsts[:20] != firsts[20:40]
    other = [int(row.targets_T[0]) for row in islice(CausalRows(sources[:1], 6, BOS, EOS, 1), 20)]
    assert sorted(other) == sorted(firsts[:20]) and other != firsts[:20], "another seed, another order"


def test_rows_are_a_pure_function_of_their_arguments(tokenizer):
    sources = corpora(tokenizer, {"a": TEXT, "b": TEXT[::-1]}, {"a": 1.0, "b": 2.0})
    for rows in (lambda s: CausalRows(sources, 32, BOS, EOS, s), lambda s: UL2Rows(sources, 64, tokenizer, s)):
        one, again, other = (list(islice(rows(seed), 30)) for seed in (0, 0, 1))
        assert all(np.array_equal(x, y) for a, b in zip(one, again, strict=True) for x, y in zip(a, b, strict=True))
        assert any(not np.array_equal(a.ids_T, b.ids_T) for a, b in zip(one, other, strict=True))


def texts_of(row: Row):
    """The texts of a row as pairs of inputs and learned targets, as one would write them down."""
    starts = np.flatnonzero(row.positions_T[: row.tokens] == 0)
    for start, end in zip(starts, [*starts[1:], row.tokens], strict=True):
        whole = [int(t) for t in row.ids_T[start + 1 : end]]
        learned = row.targets_T[start:end] != -100
        begin = int(np.argmax(learned))
        assert learned[begin:].all()
        yield whole[:begin], [*whole[begin:], int(row.targets_T[end - 1])]


def test_ul2_rows_are_prefix_inputs_and_targets_each_with_its_end(tokenizer):
    sources = corpora(tokenizer, {"a": TEXT * 5}, {"a": 1.0})
    prefixes = {task.prefix: tokenizer.encode(task.prefix, add_special_tokens=False) for task in TASKS}
    seen = dict.fromkeys(prefixes, 0)
    for row in islice(UL2Rows(sources, 64, tokenizer, 0), 300):
        assert (row.ids_T[row.positions_T == 0][:1] == BOS).all() and row.tokens <= 64
        assert (row.targets_T[row.tokens :] == -100).all()
        for inputs, targets in texts_of(row):
            assert inputs[-1] == targets[-1] == EOS and len(inputs) <= 32 and len(targets) <= 32
            (prefix,) = [text for text, ids in prefixes.items() if inputs[: len(ids)] == ids]
            seen[prefix] += 1
            spanned = tokenizer.convert_tokens_to_ids("<extra_id_0>") == targets[0]
            assert spanned == (prefix != "[S2S] ")
    total = sum(seen.values())
    shares = [seen[prefix] / total for prefix in ("[NLU] ", "[NLG] ", "[S2S] ")]
    assert shares == pytest.approx([0.2, 0.3, 0.5], abs=0.08)


def test_a_vocabulary_without_sentinels_is_refused_for_ul2():
    plain = learn(TEXT, 400).tokenizer()
    with pytest.raises(ArtifactError, match=r"0 of them are there. Set pretrain\.objective to 'causal'"):
        next(UL2Rows(corpora(plain, {"a": TEXT}, {"a": 1.0}), 64, plain, 0))


def assert_texts_do_not_see_each_other(model):
    rows = list(islice(CausalRows([corpus([7, 5, 9, 3], first=10)], 24, BOS, EOS, 1), 2))
    (batch,) = batched(rows, 2)
    packed = batch_loss(model, batch)
    total, targets = 0.0, 0
    for row in rows:
        starts = np.flatnonzero(row.positions_T == 0)
        for start, end in zip(starts, [*starts[1:], 24], strict=True):
            part = Row(*(column[start:end] for column in row[:3]), int(end - start))
            loss = batch_loss(model, next(batched([part], 1)))
            total, targets = total + loss.nats.item() * loss.targets, targets + loss.targets
    assert targets == packed.targets == 48
    assert packed.nats.item() == pytest.approx(total / targets, rel=1e-5)


@torch.no_grad()
def test_texts_in_a_row_do_not_see_each_other_in_a_dense_model():
    assert_texts_do_not_see_each_other(scratch(64, 64, 6, 64, seed=1).eval())


@MIXTURES
@torch.no_grad()
def test_texts_in_a_row_do_not_see_each_other_in_a_mixture(make):
    assert_texts_do_not_see_each_other(make().eval())


@MIXTURES
@torch.no_grad()
def test_the_padding_of_packed_rows_changes_no_loss(make):
    model = make().eval()
    row = Row(np.array([2, 9, 8, 0, 0]), np.array([9, 8, 1, -100, -100]), np.array([0, 1, 2, 0, 1]), 3)
    short = Row(*(column[:3] for column in row[:3]), 3)
    one, other = (batch_loss(model, next(batched([r], 1)), Losses()) for r in (row, short))
    assert one.total.item() == pytest.approx(other.total.item(), rel=1e-5)


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 9))
def test_batches_hold_the_rows_in_order(rows, rows_a_batch):
    made = list(islice(CausalRows([corpus([7, 5, 9, 3])], 8, BOS, EOS, 1), rows))
    batches = list(batched(made, rows_a_batch))
    assert torch.equal(torch.cat([b.ids_NT for b in batches]), torch.tensor(np.stack([r.ids_T for r in made])))
    assert all(len(b.ids_NT) == rows_a_batch for b in batches[:-1])
    assert sum(b.tokens for b in batches) == 8 * rows
