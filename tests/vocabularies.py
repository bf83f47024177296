"""Tokenizers as released models have them, but learned from a few sentences: every kind that a base may come with."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from metier.tokenizer.learn import learn
from metier.tokenizer.sentencepiece import SPACE

TEXTS = [
    "The ferry leaves the harbour at seven and returns before the evening.",
    "Ask the keeper of the lighthouse whether the ferry returned; he'll know, they've a list.",
    "It's 1,234 steps to the top, 5 of them broken.\n\nMind your head!",
    "港を出る船は朝七時に出て、夕方までに戻ります。",
    "灯台の番人に、船が戻ったかどうか聞いてください。",
    "Ça va? Où est l'école, près du château? Ё, ñ, ß – naïve café.",
] * 5

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN_3 = CHATML.removesuffix("{% endif %}") + (
    "{% if not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


class Released(NamedTuple):
    """What is special about one family's byte-level tokenizer."""

    llama_cpp: str
    """What llama.cpp calls its way to cut words."""
    cuts: Callable[[], Any]
    special: tuple[str, ...]
    roles: dict[str, str]
    named: str = "PreTrainedTokenizerFast"
    """The class that the family's folders name."""
    first: bool = False
    """Whether the special pieces come before the learned ones."""
    nfc: bool = False
    plain: tuple[str, ...] = ()
    """Added pieces that are not special."""
    template: str | None = None


def _regex(digits: str) -> Any:
    words = (
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(words), "isolated", invert=False), bytes_])


def _gpt_2() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _smollm() -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt_2()])


BYTE_LEVEL = {
    "gpt-2": Released(
        "gpt-2",
        _gpt_2,
        ("<|endoftext|>",),
        dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
        named="GPT2Tokenizer",
    ),
    "smollm": Released(
        "smollm",
        _smollm,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<jupyter_start>"),
        {
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
            "pad_token": "<|im_end|>",
        },
        named="GPT2Tokenizer",
        first=True,
        template=CHATML,
    ),
    "qwen": Released(
        "qwen2",
        lambda: _regex(""),
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>"),
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        named="Qwen2Tokenizer",
        nfc=True,
        plain=("<tool_call>",),
        template=CHATML,
    ),
    "llama-3": Released(
        "llama-bpe",
        lambda: _regex("{1,3}"),
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|spare|>"),
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        template=LLAMA_3,
    ),
    "olmoe": Released(
        "gpt-2",  # the same as "olmo" to llama.cpp
        _gpt_2,
        ("<|endoftext|>", "<|padding|>"),
        {"eos_token": "<|endoftext|>", "pad_token": "<|padding|>"},
        named="GPTNeoXTokenizer",
        first=True,
        nfc=True,
        plain=("        ", "    ", "  "),
    ),
}

SENTENCEPIECE = {"gemma": "GemmaTokenizer", "llama-2": "LlamaTokenizer", "mistral": "LlamaTokenizer"}
"""SentencePiece-style tokenizers, and the class that the family's folders name."""

KINDS = (*BYTE_LEVEL, *SENTENCEPIECE)


@cache
def tokenizer_like(kind: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of a few hundred pieces in the form of a released one."""
    return _byte_level(BYTE_LEVEL[kind]) if kind in BYTE_LEVEL else _sentencepiece(kind)


def name_class(folder: Path, kind: str) -> Path:
    """Let the folder of a tokenizer name the class that the family's folders name."""
    path = folder / "tokenizer_config.json"
    named = BYTE_LEVEL[kind].named if kind in BYTE_LEVEL else SENTENCEPIECE[kind]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": named}))
    return folder


def _byte_level(like: Released) -> PreTrainedTokenizerFast:
    bos = like.roles.get("bos_token")
    begins = like.llama_cpp == "llama-bpe"
    made = Tokenizer(models.BPE(ignore_merges=begins))
    made.normalizer = normalizers.NFC() if like.nfc else None
    made.pre_tokenizer = like.cuts()
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        special_tokens=list(like.special) if like.first else [],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS, trainer)
    made.add_special_tokens(list(like.special))
    made.add_tokens([AddedToken(text, special=False, normalized=True) for text in like.plain])
    if begins:
        template = processors.TemplateProcessing(f"{bos} $A", None, [(bos, made.token_to_id(bos))])
        made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, **like.roles)
    tokenizer.chat_template = like.template
    return tokenizer


def _sentencepiece(kind: str) -> PreTrainedTokenizerFast:
    """Learned pieces, with the pairs of every split of a piece, as a converted SentencePiece model lists them."""
    pieces = learn(TEXTS, 700)
    state = json.loads(pieces.tokenizer().backend_tokenizer.to_str())
    made = sorted((text for text in pieces.merged if len(text) > 1), key=pieces.merged.__getitem__, reverse=True)
    splits = ((text[:cut], text[cut:]) for text in made for cut in range(1, len(text)))
    state["model"]["merges"] = [pair for pair in splits if pieces.merged.keys() >= set(pair)]
    if kind == "gemma":  # its runs of spaces are added pieces, and spelled as the others are
        runs = {SPACE * length: len(state["model"]["vocab"]) + place for place, length in enumerate((2, 3))}
        state["model"]["vocab"] |= runs
        halves = [(SPACE, SPACE), (SPACE * 2, SPACE), (SPACE, SPACE * 2)]
        state["model"]["merges"] = halves + state["model"]["merges"]
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
        state["added_tokens"] += [{"id": number, "content": text, **plain} for text, number in runs.items()]
    if kind == "llama-2":
        prepend = {"type": "Prepend", "prepend": SPACE}
        state["normalizer"] = {"type": "Sequence", "normalizers": [prepend, state["normalizer"]]}
    if kind == "mistral":
        state["normalizer"] = None
        state["pre_tokenizer"] = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}
    if kind != "gemma":
        state["decoder"]["decoders"].append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    backend = Tokenizer.from_str(json.dumps(state))
    roles = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    roles |= {"pad_token": "<pad>"} if kind == "gemma" else {}
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **roles)
