"""UL2's mixture: exact lengths and rates, and nothing lost between inputs and targets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.errors import ArtifactError
from metier.tokenizer.learn import learn
from metier.train.ul2 import TASKS, Lengths, Task, denoise, first_sentinel, lengths, sentinels_needed, with_marks

FIRST = 256299
"""OpenMoE's `<extra_id_0>`."""

span_tasks = st.builds(
    lambda noise, mean: Task("", 1.0, noise, mean), st.sampled_from([0.15, 0.3, 0.5]), st.sampled_from([3, 8, 64])
)


def filled_in(inputs, targets):
    """Put each hidden run of the targets in the place of its sentinel in the inputs."""
    hidden, at = {}, None
    for token in targets:
        if token > FIRST - 1000:
            at = int(token)
            hidden[at] = []
        else:
            hidden[at].append(int(token))
    return [t for token in inputs.tolist() for t in (hidden.pop(token) if token > FIRST - 1000 else [token])], hidden


@pytest.mark.parametrize(
    ("task", "expected"),
    list(
        zip(
            TASKS[:5],
            [
                Lengths(1137, 1024, 229, 57),
                Lengths(1178, 1024, 200, 22),
                Lengths(1534, 1024, 1024, 256),
                Lengths(1818, 1024, 1024, 114),
                Lengths(2014, 1024, 1024, 16),
            ],
            strict=True,
        )
    ),
)
def test_the_tasks_of_rows_of_2048_have_openmoes_lengths(task, expected):
    assert lengths(task, 1024) == expected
    text = np.arange(expected.raw)
    inputs, targets = denoise(text, task, np.random.default_rng(0), FIRST)
    assert (len(inputs) + 1, len(targets) + 1) == (expected.inputs, expected.targets)
    assert (inputs > FIRST - 1000).sum() == expected.spans


def test_the_task_that_continues_a_text_splits_1023_tokens():
    assert lengths(TASKS[5], 1024).raw == 1023


def test_the_mixture_is_openmoes():
    assert [(task.prefix, task.rate, task.noise, task.mean_span) for task in TASKS] == [
        ("[NLU] ", 0.1, 0.15, 3),
        ("[NLU] ", 0.1, 0.15, 8),
        ("[NLG] ", 0.1, 0.5, 3),
        ("[NLG] ", 0.1, 0.5, 8),
        ("[NLG] ", 0.1, 0.5, 64),
        ("[S2S] ", 0.5, 0.5, None),
    ]
    assert sentinels_needed(2048) == 256


@settings(deadline=None)
@given(st.integers(16, 1024), st.sampled_from(TASKS[:5]))
def test_lengths_are_the_longest_that_fit(inputs_tokens, task):
    found = lengths(task, inputs_tokens)
    assert inputs_tokens - 4 <= found.inputs <= inputs_tokens
    assert task.noise != 0.5 or found.targets <= inputs_tokens
    inputs, _ = denoise(np.arange(found.raw), task, np.random.default_rng(0), FIRST)
    assert len(inputs) + 1 == found.inputs
    assert (inputs > FIRST - 1000).sum() <= sentinels_needed(2 * inputs_tokens)


@settings(deadline=None)
@given(st.integers(2, 400), span_tasks, st.integers(0, 10**6))
def test_inputs_and_targets_hold_every_token_once_and_make_the_text_again(length, task, seed):
    text = np.arange(1000, 1000 + length)
    inputs, targets = denoise(text, task, np.random.default_rng(seed), FIRST)
    whole, left = filled_in(inputs, targets)
    assert (whole, left) == (text.tolist(), {})
    kept = [token for token in (*inputs, *targets) if token <= FIRST - 1000]
    assert sorted(kept) == text.tolist()


@settings(deadline=None)
@given(st.integers(2, 400), span_tasks, st.integers(0, 10**6))
def test_the_hidden_share_and_the_number_of_spans_are_exact(length, task, seed):
    inputs, targets = denoise(np.arange(length), task, np.random.default_rng(seed), FIRST)
    hidden = min(max(round(length * task.noise), 1), length - 1)
    spans = max(1, round(hidden / task.mean_span))
    marks = [FIRST - k for k in range(spans)]
    assert [token for token in inputs if token > FIRST - 1000] == marks
    assert [token for token in targets if token > FIRST - 1000] == marks
    assert (len(inputs), len(targets)) == (length - hidden + spans, hidden + spans)
    assert inputs[0] < FIRST - 1000 and targets[0] == FIRST, "what is shown comes first"
    assert inputs[-1] == marks[-1], "a text ends hidden"


@settings(deadline=None)
@given(st.integers(2, 200), st.integers(0, 10**6))
def test_continuing_a_text_cuts_it_in_two(length, seed):
    inputs, targets = denoise(np.arange(length), TASKS[5], np.random.default_rng(seed), FIRST)
    assert np.concatenate((inputs, targets)).tolist() == list(range(length))
    assert len(inputs) and len(targets)


def test_every_split_of_a_text_is_as_likely_as_any_other():
    task, draw = Task("", 1.0, 0.5, 3), np.random.default_rng(1)
    seen = {}
    for _ in range(4000):  # 12 tokens: 6 hidden in 2 runs, 6 shown in 2, so 5 x 5 splits
        inputs, _ = denoise(np.arange(12), task, draw, FIRST)
        seen[tuple(inputs)] = seen.get(tuple(inputs), 0) + 1
    assert len(seen) == 25
    assert all(100 < count < 230 for count in seen.values()), "160 expected, 12 the deviation"


def test_the_prefix_pushes_the_end_of_full_inputs_off():
    prefix, inputs, targets = np.array([7, 8]), np.arange(100, 110), np.arange(200, 203)
    shown, asked = with_marks(prefix, inputs, targets, 1, 11)
    assert shown.tolist() == [7, 8, *range(100, 108), 1]
    assert asked.tolist() == [200, 201, 202, 1]


def test_a_learned_vocabulary_has_the_sentinels_that_were_reserved_at_its_end():
    pieces = learn(["some words to learn from, and some more words"], 330, sentinels=sentinels_needed(256))
    tokenizer = pieces.tokenizer()
    first = first_sentinel(tokenizer, 256)
    assert first == len(pieces) - 1
    assert tokenizer.convert_ids_to_tokens([first, first - 1]) == ["<extra_id_0>", "<extra_id_1>"]
    assert tokenizer.decode([first], skip_special_tokens=True) == ""
    with pytest.raises(ArtifactError, match=r"needs <extra_id_0> to <extra_id_63>, .* 32 of them are there"):
        first_sentinel(tokenizer, 512)
