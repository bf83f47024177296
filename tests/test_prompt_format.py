"""The prompt format renders alike everywhere: in Python, as a Jinja chat template, as an Ollama template."""

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from metier.tasks.prompt import PromptFormat, Turn, candidates

TEXTS = st.text() | st.text(st.sampled_from("ab \n\t\"'{}%#\\`猫-"))
TURN = Turn("<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n")
NICE = PromptFormat(name="labelled", before="Japanese: ", after="\nEnglish:", lead=" ")


@st.composite
def formats(draw):
    head, before, after, lead = (draw(TEXTS) for _ in range(4))
    shots = tuple(draw(st.lists(st.tuples(TEXTS, TEXTS), max_size=2)))
    return PromptFormat(name="drawn", head=head, before=before, after=after, lead=lead, shots=shots)


def jinja(template, messages):
    """Render as transformers does."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    return environment.from_string(template).render(messages=messages, bos_token="<bos>", add_generation_prompt=True)


def user(content):
    return {"role": "user", "content": content}


def go(template, prompt):
    """Render the few constructs of a Go template that ours uses; anything else is an error."""
    loop = "{{- $text := `` }}{{ range .Messages }}{{ if eq .Role `user` }}{{ $text = .Content }}{{ end }}{{ end }}"
    assert template.startswith(loop)

    def action(match):
        if match[1] == " $text ":
            return prompt
        literal = re.fullmatch("`([^`])`", match[1])
        assert literal, match[0]
        return literal[1]

    return re.sub(r"\{\{(.*?)\}\}", action, template[len(loop) :], flags=re.DOTALL)


@given(formats(), TEXTS)
@example(NICE, '{{ messages }}{% raw %}"quoted" \\n {#')
@example(PromptFormat(name="n", head='{{ x }}\r\n"\\u0041\\"', before="{%- if", after="-%}\x00\u2028\ud800"), "a")
def test_the_chat_template_renders_what_the_format_renders(prompt, text):
    assert jinja(prompt.chat_template(), [user(text)]) == "<bos>" + prompt.render(text.strip())


@given(formats(), TEXTS)
def test_the_ollama_template_renders_what_the_format_renders(prompt, text):
    template = prompt.ollama_template()
    assert go(template, text) == prompt.render(text)
    assert '""' not in template
    assert not template.endswith('"')


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "You are a pirate."}, user("猫")],
        [user("犬"), {"role": "assistant", "content": "dog"}, user("猫")],
        [user("犬"), {"role": "assistant", "content": None}, user([{"type": "text", "text": " 猫\n"}])],
        [user("猫"), {"role": "assistant", "content": "an answer begun"}],
        [user([{"type": "image", "url": "x"}, {"type": "text", "text": "猫"}])],
        [{"role": "system", "content": [{"type": "text", "text": "Obey."}]}, user("猫")],
    ],
)
def test_the_chat_template_sees_only_the_last_user_message(messages):
    assert jinja(NICE.chat_template(), messages) == "<bos>Japanese: 猫\nEnglish:"


@pytest.mark.parametrize("messages", [[], [user(None)], [user([])], [{"role": "system", "content": "x"}]])
def test_a_conversation_without_words_of_the_user_is_an_empty_input(messages):
    assert jinja(NICE.chat_template(), messages) == "<bos>" + NICE.render("")


def test_the_chat_template_reads_messages_of_every_role():
    # llama.cpp writes a system message in front of the user's if the template never looks at it.
    template = NICE.chat_template()
    assert template.index("message['content'] is string") < template.index("message['role'] == 'user'")


def test_worked_examples_stand_in_front_and_repeat_the_format():
    prompt = NICE.with_shots((("犬", "dog"), ("鳥", "bird")))
    assert prompt.render("猫") == ("Japanese: 犬\nEnglish: dog\nJapanese: 鳥\nEnglish: bird\nJapanese: 猫\nEnglish:")
    assert prompt.answer("cat") == " cat"
    assert prompt.name == "labelled, 2 examples"


SYSTEM = "<s>system\nBe nice.<e>\n"


@pytest.mark.parametrize("system", ["", SYSTEM])
def test_examples_in_a_chat_are_earlier_turns_that_end_as_the_model_ends_its_own(system):
    turn = Turn(f"{system}<s>user\n", "<e>\n<s>model\n", "<e>\n<s>user\n")
    chat = candidates("Japanese", "English", "Translate.", turn)[-1]
    assert chat.render("猫") == f"{system}<s>user\nTranslate.\n猫<e>\n<s>model\n"
    shown = chat.with_shots((("犬", "dog"), ("鳥", "bird"))).render("猫")
    turns = [f"<s>user\nTranslate.\n{asked}<e>\n<s>model\n{told}" for asked, told in [("犬", "dog"), ("鳥", "bird")]]
    assert shown == system + "<e>\n".join([*turns, "<s>user\nTranslate.\n猫<e>\n<s>model\n"])


def test_where_the_next_turn_is_not_known_an_example_ends_with_the_line():
    chat = candidates("Japanese", "English", "Translate.", Turn("<s>", "<e>"))[-1]
    assert chat.with_shots((("犬", "dog"),)).render("猫") == "<s>Translate.\n犬<e>dog\n<s>Translate.\n猫<e>"


@given(formats())
def test_a_format_survives_json(prompt):
    assert PromptFormat.from_json(json.loads(json.dumps(prompt.to_json()))) == prompt


def test_candidates_have_different_names_and_layouts():
    every = candidates("Japanese", "English", "Translate.", TURN)
    assert len({prompt.name for prompt in every}) == len({prompt.render("x") for prompt in every}) == 5


def test_a_chat_is_tried_only_where_the_base_is_a_model_for_that():
    without = candidates("Japanese", "English", "Translate.", None)
    assert all("_turn>" not in prompt.render("x") for prompt in without)


def test_an_answer_starts_with_a_space_exactly_where_the_prompt_ends_inside_a_line():
    for prompt in candidates("Japanese", "English", "Translate.", TURN):
        assert prompt.lead == ("" if prompt.after.endswith("\n") else " ")
