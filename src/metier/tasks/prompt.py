"""The prompt format: one text layout that training, examining and the shipped file share."""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class PromptFormat:
    r"""How one input is wrapped before a model sees it, and how its answer begins.

    The text is ``head + shots + before + input + after``; the answer follows as ``lead + output`` and ends with
    the model's end token. A shot is ``before + input + after + lead + output + "\n"``: a worked example in front.
    """

    name: str
    head: str = ""
    before: str = ""
    after: str
    lead: str = ""
    shots: tuple[tuple[str, str], ...] = ()

    def render(self, text: str) -> str:
        """Return the prompt for one input."""
        return f"{self._front()}{self.before}{text}{self.after}"

    def answer(self, output: str) -> str:
        """Return the text a model is taught to write after the prompt, without the end token."""
        return f"{self.lead}{output}"

    def with_shots(self, shots: tuple[tuple[str, str], ...]) -> Self:
        """Return the same format with worked examples in front."""
        return replace(self, name=f"{self.name}, {len(shots)} examples", shots=shots)

    def chat_template(self) -> str:
        """Return the Jinja chat template that wraps the last user message and ignores everything else."""
        front, after = (
            json.dumps(text, ensure_ascii=False) for text in (self._front() + self.before, self.after)
        )
        return (
            "{{ bos_token }}{%- set ns = namespace(text='') -%}"
            "{%- for message in messages -%}{%- if message['role'] == 'user' -%}"
            "{%- set ns.text = message['content'] -%}{%- endif -%}{%- endfor -%}"
            f"{{{{- {front} + (ns.text | trim) + {after} -}}}}"
        )

    def ollama_template(self) -> str:
        """Return the Go template of a Modelfile: ``.Prompt`` is the last user message."""
        return f"{self._front()}{self.before}{{{{ .Prompt }}}}{self.after}"

    def to_json(self) -> dict[str, Any]:
        """Return the format as JSON-able values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        shots = tuple((shown, wanted) for shown, wanted in value["shots"])
        return cls(**{**value, "shots": shots})

    def _front(self) -> str:
        shots = (f"{self.before}{shown}{self.after}{self.lead}{out}\n" for shown, out in self.shots)
        return self.head + "".join(shots)
