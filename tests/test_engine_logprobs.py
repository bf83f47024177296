"""How likely an answer is, from llama.cpp, is what torch says of the same tokens."""

import copy

import pytest
import torch
from doubles import loud
from transformers import GenerationConfig

from metier.export.gguf import write_gguf
from metier.model.answer import Checkpoint
from metier.model.scratch import scratch
from metier.run.engine import Engine


def by_torch(model, prompt_ids, answer_ids):
    """Return the summed log-probability, in nats, of an answer after a prompt."""
    ids = [*prompt_ids, *answer_ids]
    with torch.no_grad():
        logits_TV = model(input_ids=torch.tensor([ids])).logits[0, len(prompt_ids) - 1 : -1].float()
    picked_T = logits_TV.log_softmax(-1)[torch.arange(len(answer_ids)), torch.tensor(answer_ids)]
    return float(picked_T.sum())


@pytest.fixture(scope="module")
def engine(gguf_of):
    with Engine(gguf_of("F16"), slots=2, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def babbler(trained, tmp_path_factory):
    """A model of random weights that are the same in 16 bits, and its file: what it writes is mostly halves of
    characters."""
    path = tmp_path_factory.mktemp("gguf") / "babbler.gguf"
    model = loud(scratch(len(trained.tokenizer), 64, 2, 512, seed=0)).half().float()
    write_gguf(
        path,
        model,
        trained.tokenizer,
        "F16",
        name="babbler",
        licence="own",
        prompt=trained.prompt,
        task={"task": "text2text", "input": "Input", "output": "Output"},
    )
    with Engine(path, threads=1) as opened:
        yield model, opened


def test_a_chats_probability_is_that_of_the_answer_and_its_end(trained, engine):
    for row in trained.held_out[:8]:
        reply = engine.chat(row.input, max_tokens=30, probabilities=True)
        prompt = trained.tokenizer(trained.prompt.render(row.input)).input_ids
        answer = [*trained.tokenizer(reply.text, add_special_tokens=False).input_ids, trained.tokenizer.eos_token_id]
        assert reply.finished and reply.tokens == len(answer)
        assert reply.logprob == pytest.approx(by_torch(trained.model, prompt, answer), abs=0.05)
        assert reply.logprob < 0


@pytest.mark.parametrize("max_tokens", [30, 2])
def test_a_checkpoint_says_how_likely_its_answers_are_as_its_file_does(trained, engine, max_tokens):
    questions = [row.input for row in trained.held_out[:12]]
    checkpoint = Checkpoint("checkpoint", trained.model, trained.tokenizer, trained.prompt, max_tokens)
    likely = checkpoint.answer(questions, likely=True)
    assert [(text, None) for text, _ in likely] == checkpoint.answer(questions)
    for question, (text, logprob) in zip(questions, likely, strict=True):
        reply = engine.complete(trained.prompt.render(question), max_tokens=max_tokens, probabilities=1)
        assert (reply.text.strip(), reply.logprob) == (text, pytest.approx(logprob, abs=0.05))
        assert reply.finished is (max_tokens == 30)


@pytest.mark.parametrize("stop_at", [0, 1, -1])
def test_before_a_stop_text_a_checkpoint_counts_what_its_file_does(trained, engine, stop_at):
    for row in trained.held_out[:6]:
        stop = row.output[stop_at]
        checkpoint = Checkpoint("checkpoint", trained.model, trained.tokenizer, trained.prompt, 30, stop=stop)
        ((text, logprob),) = checkpoint.answer([row.input], likely=True)
        reply = engine.complete(trained.prompt.render(row.input), max_tokens=30, stop=(stop,), probabilities=1)
        assert (reply.text.strip(), reply.logprob) == (text, pytest.approx(logprob, abs=0.05))
        assert checkpoint.answer([row.input]) == [(text, None)] and stop not in text


def test_an_answer_ends_at_whatever_token_the_model_names_as_an_end(trained):
    question = trained.held_out[0].input
    ((whole, _),) = Checkpoint("all", trained.model, trained.tokenizer, trained.prompt, 30).answer([question])
    first, *rest = trained.tokenizer(trained.prompt.answer(whole), add_special_tokens=False).input_ids
    model = copy.copy(trained.model)
    model.generation_config = GenerationConfig(eos_token_id=[trained.tokenizer.eos_token_id, first])
    checkpoint = Checkpoint("some", model, trained.tokenizer, trained.prompt, 30)
    ((text, logprob),) = checkpoint.answer([question], likely=True)
    assert rest and text == trained.tokenizer.decode([first]).strip() != whole
    prompt = trained.tokenizer(trained.prompt.render(question)).input_ids
    assert logprob == pytest.approx(by_torch(trained.model, prompt, [first]), abs=0.05)


def test_no_probability_is_given_unasked(engine):
    assert engine.chat("forty red foxs", max_tokens=4).logprob is None
    assert engine.complete("forty red foxs", max_tokens=4).logprob is None


def test_asking_for_probabilities_changes_no_answer(trained, engine):
    for row in trained.held_out[:4]:
        asked = engine.chat(row.input, max_tokens=30, probabilities=True)
        assert asked.text == engine.chat(row.input, max_tokens=30).text


def test_many_at_a_time_are_as_likely_as_one_after_the_other(trained, engine):
    def one(question):
        return engine.chat(question, max_tokens=30, probabilities=True).logprob

    questions = [row.input for row in trained.held_out[:12]]
    alone = [one(question) for question in questions]
    assert list(engine.many(one, questions)) == pytest.approx(alone, abs=0.02)


def test_halves_of_characters_count_too(babbler):
    model, engine = babbler
    halves = 0
    for start in range(100, 112):
        found = engine.complete([2, start, start + 30], max_tokens=7, probabilities=1)
        halves += "\ufffd" in found.text
        assert found.logprob == pytest.approx(by_torch(model, [2, start, start + 30], found.token_ids), abs=0.05)
    assert halves, "the double wrote whole characters only"


def test_halves_of_characters_count_in_a_chat_too(trained, babbler):
    model, engine = babbler
    for question in ("one", "two", "three"):
        found = engine.chat(question, max_tokens=7, probabilities=True)
        prompt = trained.tokenizer(trained.prompt.render(question)).input_ids
        ids = engine.complete(prompt, max_tokens=7).token_ids
        assert "\ufffd" in found.text
        assert found.logprob == pytest.approx(by_torch(model, prompt, ids), abs=0.05)


def test_before_a_stop_text_the_kept_tokens_count_and_no_other(trained, engine):
    """llama.cpp leaves out as many places as the stop text has tokens by itself, which is more or less than it took."""
    prompt = trained.tokenizer(trained.prompt.render("forty-two red foxs")).input_ids
    free = engine.complete(prompt, max_tokens=8)
    ends = [len(trained.tokenizer.decode(free.token_ids[:count])) for count in range(len(free.token_ids) + 1)]
    differ = 0
    for start in range(1, len(free.text) - 2):
        for stop in (free.text[start : start + 1], free.text[start : start + 3]):
            found = engine.complete(prompt, max_tokens=8, stop=[stop], probabilities=1)
            kept = free.text[: free.text.index(stop)]
            tokens = next(count for count, end in enumerate(ends) if end >= len(kept))
            assert found.text == kept
            assert found.logprob == pytest.approx(by_torch(trained.model, prompt, free.token_ids[:tokens]), abs=0.05)
            differ += len(found.token_ids) - tokens != len(engine.tokenize(stop, special=False))
    assert differ, "every stop text was taken away by its own number of tokens"
