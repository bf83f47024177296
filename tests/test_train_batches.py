"""Batches, the loss and the learning rate."""

import itertools
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.data.records import Record
from metier.model.scratch import scratch
from metier.train import batches
from metier.train.batches import Example, Examples, JobBatches, collate, encode, one_pass, plan_batches, shares
from metier.train.objective import batch_loss, mean_loss
from metier.train.schedule import learning_rate

some_lengths = st.lists(st.integers(1, 60), min_size=1, max_size=120)


def first_epoch(lengths, batch_tokens, seed):
    """Batches until every example was seen as often as there are examples."""
    found, seen = [], 0
    for batch in plan_batches(lengths, batch_tokens, seed):
        found.append(batch)
        seen += len(batch)
        if seen >= len(lengths):
            return found
    raise AssertionError


@given(some_lengths, st.integers(16, 300), st.integers(0, 5))
def test_an_epoch_has_every_example_once(lengths, batch_tokens, seed):
    epoch = first_epoch(lengths, batch_tokens, seed)
    assert sorted(itertools.chain(*epoch)) == list(range(len(lengths)))


@given(some_lengths, st.integers(16, 300), st.integers(0, 5))
def test_the_plan_is_a_pure_function(lengths, batch_tokens, seed):
    again = [list(itertools.islice(plan_batches(lengths, batch_tokens, seed), 40)) for _ in range(2)]
    assert again[0] == again[1]


@given(some_lengths, st.integers(16, 300))
def test_no_rectangle_of_several_examples_exceeds_the_batch_size(lengths, batch_tokens):
    for batch in (*first_epoch(lengths, batch_tokens, 0), *one_pass(lengths, batch_tokens)):
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= batch_tokens


@given(some_lengths, st.integers(16, 300))
def test_one_pass_has_every_example_once(lengths, batch_tokens):
    assert sorted(itertools.chain(*one_pass(lengths, batch_tokens))) == list(range(len(lengths)))


def test_epochs_and_seeds_differ():
    lengths = [5 + i % 9 for i in range(200)]
    two = list(itertools.islice(plan_batches(lengths, 100, 0), 2 * len(first_epoch(lengths, 100, 0))))
    assert two[: len(two) // 2] != two[len(two) // 2 :]
    assert next(plan_batches(lengths, 100, 0)) != next(plan_batches(lengths, 100, 1))


def test_padding_stays_below_five_percent_on_lengths_of_sentences():
    draw = random.Random(0)
    lengths = [min(max(round(draw.lognormvariate(3.2, 0.6)), 4), 256) for _ in range(5000)]
    rectangles = sum(len(batch) * max(lengths[i] for i in batch) for batch in first_epoch(lengths, 1200, 0))
    assert 1 - sum(lengths) / rectangles < 0.05


def test_a_plan_without_examples_is_refused():
    with pytest.raises(ValueError, match="no examples"):
        next(plan_batches([], 100, 0))


some_examples = st.lists(
    st.builds(lambda a, b: Example([2] * a, [7] * b), st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=30
)


@given(some_examples, st.integers(16, 80), st.integers(0, 60))
def test_batches_of_a_job_go_on_anywhere_as_if_they_had_not_been_left(examples, batch_tokens, position):
    whole = JobBatches(examples, batch_tokens, 0, 3, None)
    for _ in range(position):
        next(whole)
    left = JobBatches(examples, batch_tokens, 0, 3, position)
    assert left.position == whole.position == position
    for one, other in zip(itertools.islice(whole, 3), itertools.islice(left, 3), strict=True):
        assert torch.equal(one.ids_NT, other.ids_NT) and torch.equal(one.targets_NT, other.targets_NT)


@given(some_examples, st.none() | st.integers(16, 80), st.integers(1, 5))
def test_processes_share_every_row_once_in_equally_many_parts(examples, micro_tokens, processes):
    batch = collate(examples, 0)
    shared = [shares(batch, micro_tokens, processes, number) for number in range(processes)]
    assert len({len(parts) for parts in shared}) == 1 and shared[0]
    parts = [part for parts in shared for part in parts]
    assert sum(part.tokens for part in parts) == batch.tokens
    rows = [
        (ids[mask == 1].tolist(), targets[mask == 1].tolist())
        for part in parts
        for ids, mask, targets in zip(part.ids_NT, part.mask_NT, part.targets_NT, strict=True)
        if mask.sum()
    ]
    whole = zip(batch.ids_NT, batch.mask_NT, batch.targets_NT, strict=True)
    assert sorted(rows) == sorted(
        (ids[mask == 1].tolist(), targets[mask == 1].tolist()) for ids, mask, targets in whole
    )
    for part in parts:
        assert part.ids_NT.shape == part.mask_NT.shape == part.targets_NT.shape
        assert part.ids_NT.shape[1] == max(int(part.mask_NT.sum(1).max()), 1), "no wider than its longest row"
        assert micro_tokens is None or len(part.ids_NT) == 1 or part.ids_NT.numel() <= micro_tokens
    assert micro_tokens is not None or len(shared[0]) == 1


def test_a_batch_that_one_process_computes_at_once_is_left_as_it_is():
    batch = collate([Example([2, 9, 8], [7, 1]), Example([2], [7, 4, 3, 1])], pad=0)
    assert shares(batch, None, 1, 0)[0] is batch and shares(batch, 10, 1, 0)[0] is batch


def reference_loss(model, examples):
    """The mean over all answer tokens, one example at a time, in float64, from full logits."""
    losses = []
    for prompt, answer in examples:
        logits = model.double()(input_ids=torch.tensor([prompt + answer])).logits[0]
        for place, token in enumerate(answer, len(prompt)):
            losses.append(-logits[place - 1].log_softmax(-1)[token].item())
    model.float()
    return math.fsum(losses) / len(losses)


@pytest.fixture(scope="module")
def model():
    found = scratch(64, 32, 2, 64, seed=1)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return found.eval()


ids = st.lists(st.integers(3, 63), min_size=1, max_size=8)


@settings(max_examples=15)
@given(st.lists(st.builds(Example, ids, ids), min_size=1, max_size=5))
def test_the_loss_is_that_of_the_answers_under_full_logits(model, examples):
    with torch.no_grad():
        _, loss, tokens, _ = batch_loss(model, collate(examples, pad=0))
        assert tokens == sum(len(example.answer) for example in examples)
        assert loss.item() == pytest.approx(reference_loss(model, examples), rel=1e-5)
        apart = mean_loss(model, [collate([example], pad=0) for example in examples])
    assert apart == pytest.approx(loss.item(), rel=1e-5)


def test_the_loss_does_not_depend_on_what_fills_the_padding(model):
    examples = [Example([2, 9, 8], [7, 1]), Example([2, 9, 8, 5, 6, 7], [7, 4, 3, 1])]
    with torch.no_grad():
        assert batch_loss(model, collate(examples, pad=0)) == batch_loss(model, collate(examples, pad=5))


def test_only_answers_are_targets_each_where_it_is_predicted():
    batch = collate([Example([2, 9, 8], [7, 1]), Example([2], [7, 4, 3, 1])], pad=0)
    assert batch.targets_NT.tolist() == [[-100, -100, 7, 1, -100], [7, 4, 3, 1, -100]]
    assert batch.mask_NT.sum() == batch.tokens == 10


@given(st.lists(st.builds(Example, *[st.lists(st.integers(0, 262_143), max_size=9)] * 2), max_size=9))
def test_examples_are_kept_as_they_were_in_four_bytes_a_token(rows):
    kept = Examples(rows)
    assert list(kept) == rows and len(kept) == len(rows)
    assert kept[1:-1] == rows[1:-1] and kept[::2] == rows[::2]
    assert not rows or (kept[-1], kept[-len(rows)]) == (rows[-1], rows[0])
    assert kept._ids.itemsize * len(kept._ids) == 4 * sum(row.tokens for row in rows)
    with pytest.raises(IndexError):
        kept[len(rows)]


def test_rows_are_encoded_as_they_come_and_those_left_out_are_counted(trained, monkeypatch):
    monkeypatch.setattr(batches, "_ENCODED_ROWS", 3)
    rows = [*trained.held_out[:7], Record("one red cat " * 20, "cat red 1")]
    found = encode(trained.tokenizer, trained.prompt, iter(rows), 64)
    alone = [example for row in rows for example in encode(trained.tokenizer, trained.prompt, [row], 64)]
    assert list(found) == alone and (len(found), found.left_out) == (7, 1)


def test_examples_are_encoded_as_the_model_will_meet_them(trained):
    tokenizer, prompt = trained.tokenizer, trained.prompt
    row = trained.held_out[0]
    (example,) = encode(tokenizer, prompt, [row], 64)
    assert example.prompt == tokenizer(prompt.render(row.input)).input_ids
    assert example.prompt[0] == tokenizer.bos_token_id
    assert tokenizer.decode(example.answer[:-1]) == prompt.answer(row.output)
    assert example.answer[-1] == tokenizer.eos_token_id


def test_examples_are_not_padded_by_a_tokenizer_that_has_padded_before(trained):
    tokenizer, prompt = trained.tokenizer, trained.prompt
    rows = [Record("one red fox", "fox"), Record("twenty-two black owls", "owl black 22")]
    before = list(encode(tokenizer, prompt, rows, 64))
    tokenizer([row.input for row in rows], return_tensors="pt", padding=True, padding_side="left")
    assert list(encode(tokenizer, prompt, rows, 64)) == before


def test_examples_that_are_too_long_are_left_out(trained):
    rows = [Record("one red cat", "cat red 1"), Record("one red cat " * 20, "cat red 1")]
    assert len(encode(trained.tokenizer, trained.prompt, rows, 64)) == 1


@given(st.integers(1, 500), st.floats(1e-6, 1e-1), st.floats(0, 0.99))
def test_the_rate_rises_to_its_peak_and_falls_towards_zero(steps, peak, warmup_share):
    rates = [learning_rate(step, steps, peak, warmup_share) for step in range(steps)]
    assert all(0 < rate <= peak * (1 + 1e-12) for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert learning_rate(steps, steps, peak, warmup_share) == 0
    warmup = round(steps * warmup_share)
    if warmup < steps:
        assert rates[warmup] == pytest.approx(peak)
