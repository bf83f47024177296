"""How files are asked: what does not fit is not answered, and a released model's answer ends where it should."""

import pytest

from metier.data.records import Record
from metier.errors import InputError
from metier.export import contestants
from metier.export.contestants import PromptedFile, ShippedFile
from metier.run.engine import Completion, Reply
from metier.steps.exam import stop_of
from metier.tasks.prompt import Turn, candidates

LINE, LABELLED, INSTRUCTION, EQUALS, CHAT = candidates("Japanese", "English", "Translate.", Turn("<user>", "<model>"))


class Short:
    """An engine with a context of ten characters, which says what it was asked."""

    def many(self, function, items):
        return map(function, items)

    def chat(self, text, *, max_tokens, probabilities):
        if len(text) > 10:
            raise InputError(
                "the input", "has 11 tokens with its prompt, and the context holds 10 tokens", "Shorten it"
            )
        return Reply(f" {text} ", 1, 1, True, -0.5 if probabilities else None)

    def complete(self, prompt, *, max_tokens, stop, probabilities):
        self.stop = stop
        return Completion(prompt, (1,), (), 1, True, -0.5 if probabilities else None)


def test_a_question_that_does_not_fit_is_not_answered_and_the_others_are(monkeypatch):
    said = []
    monkeypatch.setattr(contestants, "say", said.append)
    file = ShippedFile("ours", Short(), 16)
    assert file.answer(["short", "much too long", "again"]) == [("short", None), ("", None), ("again", None)]
    assert file.answer(["much too long", "short"], likely=True) == [("", 0.0), ("short", -0.5)]
    assert said == [
        "  ours: a question has 11 tokens with its prompt, and the context holds 10 tokens; such ones count as "
        "not answered"
    ]


@pytest.mark.parametrize(
    ("prompt", "stop"),
    [(LINE, "\n\n"), (EQUALS, "\n\n"), (LABELLED, "\nJapanese: "), (INSTRUCTION, "\nJapanese: "), (CHAT, None)],
)
def test_an_answer_of_several_lines_ends_where_the_next_example_begins(prompt, stop):
    one, several = Record("a", "b"), Record("a", "b\nc")
    assert stop_of(prompt, [one, several]) == stop
    assert stop_of(prompt.with_shots((("x", "y"),)), [several]) == stop
    assert stop_of(prompt, [one]) == "\n"
    engine = Short()
    PromptedFile("base", engine, prompt, 16, stop).answer(["a"])
    assert engine.stop == ((stop,) if stop else ())
