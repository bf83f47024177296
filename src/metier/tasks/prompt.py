"""The prompt format: one text layout that training, examining and the shipped file share."""

import json
import re
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

_CHAT = "chat"


@dataclass(frozen=True, kw_only=True)
class PromptFormat:
    r"""How one input is wrapped before a model sees it, and how its answer begins.

    The text is ``head + shots + before + input + after``; the answer follows as ``lead + output`` and ends
    with the model's end token. A shot, ``before + input + after + lead + output + between``, is an example.
    """

    name: str
    head: str = ""
    before: str = ""
    after: str
    lead: str = ""
    between: str = "\n"
    shots: tuple[tuple[str, str], ...] = ()

    def render(self, text: str) -> str:
        """Return the prompt for one input."""
        return f"{self._front()}{self.before}{text}{self.after}"

    def answer(self, output: str) -> str:
        """Return the text a model is taught to write after the prompt, without the end token."""
        return f"{self.lead}{output}"

    @property
    def is_chat(self) -> bool:
        """Whether a question is the turn of a chat, which a model ends by itself."""
        return self.name.partition(",")[0] == _CHAT

    def with_shots(self, shots: tuple[tuple[str, str], ...]) -> Self:
        """Return the same format with worked examples in front."""
        return replace(self, name=f"{self.name}, {len(shots)} examples", shots=shots)

    def chat_template(self, *, bos: bool = True) -> str:
        """Return the Jinja chat template that wraps the last user message and ignores everything else.

        The content of a message is a string or a list of parts, of which those of type ``text`` count. Only
        plain statements are used, so that llama.cpp's small Jinja engine reads it as transformers does. Other
        messages are read too, and dropped: where a template leaves a system message unread, llama.cpp writes
        it in front of the user's.

        Args:
            bos: whether a text of the model begins with the BOS token.
        """
        front, after = (json.dumps(text, ensure_ascii=False) for text in (self._front() + self.before, self.after))
        return (
            f"{'{{- bos_token -}}' if bos else ''}{{%- set ns = namespace(text='', last='') -%}}"
            "{%- for message in messages -%}{%- set ns.text = '' -%}"
            "{%- if message['content'] is string -%}{%- set ns.text = message['content'] | trim -%}"
            "{%- elif message['content'] -%}{%- for part in message['content'] -%}"
            "{%- if part['type'] == 'text' -%}{%- set ns.text = ns.text + part['text'] -%}{%- endif -%}"
            "{%- endfor -%}{%- endif -%}"
            "{%- if message['role'] == 'user' -%}{%- set ns.last = ns.text -%}{%- endif -%}{%- endfor -%}"
            f"{{{{- {front} + (ns.last | trim) + {after} -}}}}"
        )

    def ollama_template(self) -> str:
        """Return the Go template of an Ollama Modelfile that wraps the last user message.

        It names ``.Messages``: where a template names only ``.Prompt``, Ollama writes earlier turns in front.
        No two double quotes follow each other in it, so that a Modelfile can put it between triple quotes.
        """
        front, after = _go_literal(self._front() + self.before), _go_literal(self.after)
        return (
            "{{- $text := `` }}{{ range .Messages }}{{ if eq .Role `user` }}{{ $text = .Content }}"
            "{{ end }}{{ end }}"
            f"{front}{{{{ $text }}}}{after}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the format as JSON-able values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        shots = tuple((shown, wanted) for shown, wanted in value["shots"])
        return cls(**{**value, "shots": shots})

    def _front(self) -> str:
        shots = (f"{self.before}{shown}{self.after}{self.lead}{out}{self.between}" for shown, out in self.shots)
        return self.head + "".join(shots)


@dataclass(frozen=True)
class Turn:
    """What a chat model reads around the words of its user, when they are the first and it is to answer."""

    before: str
    after: str
    next: str | None = None
    """What stands between an answer and the user's next words; None where that is not known."""

    def prompt(self, instruction: str) -> PromptFormat:
        """Return the format of a message that begins with an instruction; its examples are earlier turns."""
        following = f"\n{self.before}" if self.next is None else self.next
        # What the first turn alone begins with, such as a system message, is said once.
        same = max(n for n in range(len(following) + 1) if self.before.endswith(following[len(following) - n :]))
        before, between = following[len(following) - same :], following[: len(following) - same]
        head = self.before.removesuffix(before)
        return PromptFormat(name=_CHAT, head=head, before=f"{before}{instruction}\n", after=self.after, between=between)


def candidates(
    input_name: str, output_name: str, instruction: str, turn: Turn | None = None
) -> tuple[PromptFormat, ...]:
    """Return the handful of prompt formats among which a measurement on the base chooses.

    Args:
        input_name: what an input is called, such as ``Japanese``.
        output_name: what an output is called, such as ``English``.
        instruction: one line that says what to do.
        turn: how the base is chatted with, if it is a model for that.
    """
    labelled = PromptFormat(name="labelled", before=f"{input_name}: ", after=f"\n{output_name}:", lead=" ")
    plain = (
        PromptFormat(name="line", after="\n"),
        labelled,
        replace(labelled, name="instruction", head=f"{instruction}\n\n"),
        PromptFormat(name="equals", after=" =", lead=" "),
    )
    if turn is None:
        return plain
    return (*plain, turn.prompt(instruction))


def _go_literal(text: str) -> str:
    """Escape text for a Go template: braces would open an action, quotes would end a Modelfile's string."""
    return re.sub('[{"]', lambda match: f"{{{{`{match[0]}`}}}}", text)
