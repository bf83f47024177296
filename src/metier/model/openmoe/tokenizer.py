"""The conventions of OpenMoE's tokenizer, for any vocabulary laid out as umT5's.

Padding and start of text are id 0, the end is id 1, sentinels count down from the last id. A text gets id 0 in front
and nothing behind; batches are padded on the left.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast, StoppingCriteria

from metier.errors import ArtifactError

START, END = 0, 1
SENTINELS = 300
PIECES = 256300
"""Pieces of the published vocabulary, sentinels included; the embedding has 84 more rows that mean nothing."""

END_PIECES = ("▁</", "s", ">")
"""How the chat model writes its end when it spells it: ids 15501, 281, 926 of the published vocabulary."""

DEFAULT_SYSTEM = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe. "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information."
)
"""The system message the chat model was shown, LLaMA 2's."""

CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' %}{{ '<<SYS>>\n' + system + '\n<</SYS>>\n\n' }}{% endif -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' %}{{ '<<SYS>>\n' + message['content'] + '\n<</SYS>>\n\n' }}"
    "{%- elif message['role'] == 'user' %}{{ '<s>[INST] ' + message['content'] + ' [/INST]' }}"
    "{%- elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + ' </s>' }}"
    "{%- else %}{{ raise_exception('roles are system, user and assistant') }}{% endif -%}"
    "{%- endfor -%}"
).replace("{%- if messages", f"{{%- set system = {DEFAULT_SYSTEM!r} -%}}{{%- if messages")
"""Unlike LLaMA 2's, the system message stands before the first mark of an instruction."""


def sentinel(number: int, pieces: int = PIECES) -> int:
    """Return the id of ``<extra_id_number>``: 256299, 256298, … in the published vocabulary.

    Raises:
        ValueError: when there is no such sentinel.
    """
    if not 0 <= number < SENTINELS:
        raise ValueError(f"sentinel {number} is not from 0 to {SENTINELS - 1}")
    return pieces - 1 - number


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Read the tokenizer.json of an OpenMoE folder and give it the conventions.

    Raises:
        ArtifactError: when there is none, or it is damaged or laid out otherwise.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ArtifactError(
            str(folder),
            "has no tokenizer.json; OpenMoE uses umT5's tokenizer, which its checkpoints need not carry",
            "Copy tokenizer.json of 'google/umt5-small' into the folder, or load the weights alone: load_model(folder)",
        )
    try:
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))
    # What a tokenizer file is refused with has no class of its own.
    except Exception as error:
        raise ArtifactError(str(path), f"is no tokenizer ({error!s:.200})", "Fetch it again") from error
    config = folder / "config.json"
    rows = json.loads(config.read_text(encoding="utf-8")).get("vocab_size", PIECES) if config.is_file() else PIECES
    return with_conventions(tokenizer, str(path), sentinels=len(tokenizer) + SENTINELS <= rows)


def with_conventions(
    tokenizer: PreTrainedTokenizerFast, where: str = "tokenizer", *, sentinels: bool = True
) -> PreTrainedTokenizerFast:
    """Make a tokenizer do as OpenMoE's: the same object, changed; a saved copy keeps it.

    Args:
        tokenizer: the tokenizer.
        where: whose it is, for the error.
        sentinels: whether they are added when the vocabulary has none: not where the embedding has no rows for them.

    Raises:
        ArtifactError: when ids 0 and 1 are not there, or its sentinels do not count down from the last id.
    """
    tokenizing: Any = tokenizer
    start, end = tokenizing.convert_ids_to_tokens([START, END])
    if not start or not end:
        raise ArtifactError(where, f"ids {START} and {END} are not both pieces", "Use umT5's tokenizer")
    tokenizing.add_special_tokens({"pad_token": start, "bos_token": start, "eos_token": end})
    names = [f"<extra_id_{number}>" for number in range(SENTINELS)]
    has_some = names[0] in tokenizing.get_vocab()
    if not has_some and sentinels:
        tokenizing.add_tokens(names[::-1], special_tokens=True)
    found, last = tokenizing.convert_tokens_to_ids(names[0]), len(tokenizing) - 1
    if (has_some or sentinels) and (found != last or tokenizing.convert_tokens_to_ids(names[1]) != last - 1):
        raise ArtifactError(where, f"{names[0]} is id {found}, not the last, {last}", "Use umT5's tokenizer")
    tokenizing.padding_side = tokenizing.init_kwargs["padding_side"] = "left"  # the latter is what is saved
    tokenizing.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", pair=f"{start} $A $B", special_tokens=[(start, START)]
    )
    tokenizing.chat_template = CHAT_TEMPLATE
    return tokenizer


def speller(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """Return a copy of the tokenizer's backend that reads no control piece out of text: it spells ``<s>`` and ``</s>``.

    The chat model was trained on SentencePiece's ids, which never finds control pieces in text; a tokenizer.json does.
    """
    backend: Any = json.loads(tokenizer.backend_tokenizer.to_str())
    control = {token["content"]: token["id"] for token in backend["added_tokens"] if token["special"]}
    backend["added_tokens"] = []
    for piece in backend["model"]["vocab"]:
        if piece[0] in control:
            piece[0] = f"\0{piece[0]}"  # the same id, out of reach
    spelling: Tokenizer = Tokenizer.from_str(json.dumps(backend))
    return spelling


def encode_chat(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[dict[str, str]], spelling: Tokenizer | None = None
) -> list[int]:
    """Return the ids of a conversation, the start id in front.

    Args:
        tokenizer: one with the conventions.
        messages: ``role`` (system, user, assistant) and ``content``.
        spelling: its `speller`, to spell the marks as in the chat model's training data; otherwise they become
            control pieces if the vocabulary has them.
    """
    tokenizing: Any = tokenizer
    text = tokenizing.apply_chat_template(list(messages), tokenize=False)
    ids: list[int] = tokenizing(text)["input_ids"] if spelling is None else spelling.encode(text).ids
    return ids


def end_pieces(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Return the ids of a spelled end, ``</s>``; none when the vocabulary lacks a piece of it."""
    vocabulary = tokenizer.get_vocab()
    return [vocabulary[piece] for piece in END_PIECES] if all(piece in vocabulary for piece in END_PIECES) else []


class SpelledEnd(StoppingCriteria):
    """Stops a row whose newest tokens are the spelled end; for ``generate(stopping_criteria=[SpelledEnd(...)])``."""

    def __init__(self, pieces: Sequence[int]) -> None:
        if not pieces:
            raise ValueError("an end needs at least one piece")
        self.pieces = list(pieces)

    def __call__(self, input_ids: Tensor, scores: Any = None, **kwargs: Any) -> Any:
        """Return for each row of ``[B, T]`` whether it has ended."""
        wanted = torch.tensor(self.pieces, device=input_ids.device)
        if input_ids.shape[1] < len(wanted):
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        return (input_ids[:, -len(wanted) :] == wanted).all(dim=1)


def until_end(ids: Sequence[int], pieces: Sequence[int]) -> list[int]:
    """Cut an answer before its end, the id or the spelled one, whichever comes first."""
    for place, token in enumerate(ids):
        if token == END or (pieces and list(ids[place : place + len(pieces)]) == list(pieces)):
            return list(ids[:place])
    return list(ids)
