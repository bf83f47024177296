"""Every kind of vocabulary in llama.cpp: it cuts any text as the tokenizer does, before trimming and after."""

import random
from functools import cache

import pytest
from doubles import of_any_architecture
from vocabularies import BYTE_LEVEL, KINDS, SENTENCEPIECE, TEXTS, tokenizer_like

from metier.export.gguf import write_gguf
from metier.export.huggingface import write_folder
from metier.model import load
from metier.run.engine import Engine
from metier.tasks.registry import task_from_json
from metier.tokenizer.chat import turn_of
from metier.tokenizer.read import pieces_of
from metier.tokenizer.trim import choose, count_tokens

TASK = task_from_json({"task": "text2text", "input": "Question", "output": "Answer"})
SPACES = [" ", "  ", " a", "a ", "a  b", "\n", "\t", "a\n\nb", "\r\n", " \n ", "▁", "▁▁a", "a\u3000b", "a\xa0b"]
MARKS = ["<|im_start|>", "<|endoftext|> x", "<bos>", "<unk>", "<0x41>", "[PAD494]", "<tool_call>"]
WORDS = ["12345 67", "don't DON'T you'LL", "naïve Ünder", "港を出る", "a_b-c...d", "x" * 50, "٣٤ ½ Ⅷ", "e\u0301a"]


MANY = {"gemma": 10_000, "smollm": 10_000}
"""How many random texts one SentencePiece-style and one byte-level vocabulary cut; the others have fewer."""


def random_texts(count, seed=11):
    draw = random.Random(seed)
    blocks = [(0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x52F), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0x1F300, 0x1F6FF)]

    def character():
        low, high = draw.choice([*blocks, (0x20, 0x20), (0x61, 0x7A), (0xE000, 0xE0FF), (0x300, 0x36F), (0x9, 0xA)])
        return chr(draw.randint(low, high))

    return ["".join(character() for _ in range(draw.randint(1, 40))) for _ in range(count)]


@cache
def pieces(kind, cut):
    whole = pieces_of(tokenizer_like(kind))
    if not cut:
        return whole
    tokenizer = whole.tokenizer()
    prompts = [prompt.render("") for prompt in TASK.prompts(turn_of(tokenizer_like(kind)))]
    kept = choose(whole, count_tokens(tokenizer, TEXTS[:2]), 60, count_tokens(tokenizer, prompts))
    return whole.subset(kept)[0]


@pytest.fixture(scope="module", params=[(kind, cut) for kind in KINDS for cut in (False, True)], ids=str)
def opened(request, tmp_path_factory):
    """A random model with the vocabulary, in llama.cpp; and the tokenizer."""
    kind, cut = request.param
    vocabulary = pieces(kind, cut)
    tokenizer = vocabulary.tokenizer()
    model = of_any_architecture("llama", len(vocabulary), tied=True)
    path = tmp_path_factory.mktemp("file") / "any.gguf"
    prompt = TASK.prompts(turn_of(tokenizer_like(kind)))[-1]
    write_gguf(path, model, tokenizer, "F16", name="any", licence="own", prompt=prompt, task={})
    with Engine(path, threads=1) as engine:
        yield kind, engine, tokenizer, prompt


def test_llama_cpp_cuts_any_text_as_the_tokenizer_does(opened):
    kind, engine, tokenizer, _ = opened
    for text in (*TEXTS[:6], *SPACES, *MARKS, *WORDS, *random_texts(MANY.get(kind, 150))):
        ours = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert engine.tokenize(text, special=False) == ours, (kind, text)


def test_llama_cpp_reads_prompts_with_their_marks_as_the_tokenizer_does(opened):
    kind, engine, tokenizer, prompt = opened
    for text in (prompt.render("港 12"), "a<|im_end|>\nb", "<|eot_id|>", *TEXTS[:3]):
        assert engine.tokenize(text) == tokenizer(text).input_ids, (kind, text)


def test_a_plain_message_becomes_the_prompt_with_the_start_token_where_there_is_one(opened):
    kind, engine, tokenizer, prompt = opened
    begin = tokenizer.bos_token if kind in SENTENCEPIECE or BYTE_LEVEL[kind].llama_cpp == "llama-bpe" else ""
    rendered = engine.apply_template([{"role": "user", "content": "港 12"}])
    assert rendered.removeprefix(begin) == prompt.render("港 12")
    reply = engine.chat("港 12", max_tokens=1)
    assert reply.prompt_tokens == len(tokenizer(prompt.render("港 12")).input_ids)


def test_a_file_with_any_vocabulary_is_read_back(opened, tmp_path, monkeypatch):
    kind, engine, tokenizer, _ = opened
    monkeypatch.setenv("METIER_HOME", str(tmp_path))
    again = load(engine.model).tokenizer
    assert again.get_vocab() == tokenizer.get_vocab()
    for text in (*TEXTS[:6], *SPACES):
        assert again(text).input_ids == tokenizer(text).input_ids, (kind, text)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_says_the_prompt_as_the_file_does(kind, tmp_path):
    vocabulary = pieces(kind, True)
    tokenizer = vocabulary.tokenizer()
    prompt = TASK.prompts()[1]
    write_folder(tmp_path, of_any_architecture("llama", len(vocabulary), tied=True), tokenizer, prompt)
    again = load(tmp_path).tokenizer
    rendered = again.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False, add_generation_prompt=True)
    assert rendered == (tokenizer.bos_token if vocabulary.add_bos else "") + prompt.render("a")
