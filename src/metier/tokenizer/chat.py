"""How a base is chatted with: its own chat template, looked at from outside."""

from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from metier.tasks.prompt import Turn
from metier.tokenizer.read import begins_with_bos

_WORDS, _ANSWER = "THE-WORDS-OF-THE-USER", "THE-WORDS-OF-THE-MODEL"

_SETTINGS: dict[str, Any] = {"enable_thinking": False, "date_string": "26 Jul 2024"}
"""What templates ask for: Qwen 3's thoughts in front of an answer, Llama 3's date, which may not be today's."""

_GEMMA = Turn("<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>\n<start_of_turn>user\n")
"""Gemma's bases know the marks, and their files have no template."""


def turn_of(tokenizer: PreTrainedTokenizerFast) -> Turn | None:
    """Return what stands around the user's words in a chat with the base; None where it is no model for that.

    A template that cannot be filled with one message, or that changes it, counts as none.
    """
    if not tokenizer.chat_template:
        known = {"<start_of_turn>", "<end_of_turn>"} <= tokenizer.get_vocab().keys()
        return _GEMMA if known else None
    filled = _filled(tokenizer, _WORDS)
    if begins_with_bos(tokenizer):
        filled = filled.removeprefix(tokenizer.bos_token)
    before, found, after = filled.partition(_WORDS)
    return Turn(before, after, _next(tokenizer, after)) if found and _WORDS not in after else None


def _next(tokenizer: PreTrainedTokenizerFast, after: str) -> str | None:
    """Return what stands between an answer and the user's next words, if a second turn goes on as the first did.

    What is put in front of an answer alone, as Qwen 3's empty thoughts are, may be missing in an earlier turn.
    """
    first, found, rest = _filled(tokenizer, _WORDS, _ANSWER, _WORDS).partition(_ANSWER)
    following, again, _ = rest.partition(_WORDS)
    said = first.rpartition(_WORDS)[2]
    goes_on = said == after or (said and after.startswith(said))
    return following if found and again and goes_on else None


def _filled(tokenizer: PreTrainedTokenizerFast, *words: str) -> str:
    """Return the prompt that the template makes of words of the user and of the model in turn; else nothing."""
    messages = [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(words)]
    try:
        filled: Any = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **_SETTINGS)
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError):
        return ""
    return str(filled)
