"""The step prompt: every format is tried on the same rows, and those are short enough to be trained on."""

from types import SimpleNamespace

import pytest
from doubles import counted_animals
from families import CASES, write_released
from test_steps_train import job

from metier.artifact import key_of, run_step
from metier.data.records import Record, write_records
from metier.errors import DataError
from metier.model.loading import load_tokenizer
from metier.steps import prompt, rivals
from metier.tasks.prompt import PromptFormat
from metier.train.batches import encode
from metier.train.prompt_choice import typical_examples


@pytest.fixture
def rows(tmp_path):
    """Validation rows of which every second one is long."""
    found = [Record(asked, answer) for asked, answer in counted_animals(60)]
    found[1::2] = [Record(f"{row.input} " * 30, row.output) for row in found[1::2]]
    write_records(tmp_path / "train.jsonl", found)
    write_records(tmp_path / "validation.jsonl", found[:20])
    return found


def test_formats_with_and_without_examples_are_measured_on_the_same_rows(trained, rows, tmp_path, monkeypatch):
    right, tried = prompt.measure, []

    def measure(model, tokenizer, prompts, these):
        tried.append(list(these))
        return right(model, tokenizer, prompts, these)

    monkeypatch.setattr(prompt, "measure", measure)
    found = prompt.choose_prompt(job(), tmp_path, trained.folder)
    assert tried == [rows[:20:2]] * 2
    names = [candidate["prompt"]["name"] for candidate in found["candidates"]]
    assert sum("examples" in name for name in names) == 2
    shortest = min(found["candidates"], key=lambda candidate: candidate["tokens"])
    assert shortest["longest"] <= 64


def test_rows_of_which_none_can_be_trained_on_are_refused_with_the_key(trained, rows, tmp_path):
    tokens = min(example.tokens for example in encode(trained.tokenizer, trained.prompt, rows, 10**9))
    tight = job(train={"budget": "1 steps", "max_tokens": 8})
    assert tokens > 8
    with pytest.raises(DataError, match=r"train\.max_tokens: none of the first 20 validation rows is within 8 tokens"):
        prompt.choose_prompt(tight, tmp_path, trained.folder)


def test_one_of_the_examples_shows_how_not_to_know_where_a_row_does():
    rows = [Record(asked, answer) for asked, answer in counted_animals(60)]
    unknown = [Record(f"{row.input} of Atlantis", "I don't know.") for row in rows[:20]]
    for number in (3, 5):
        shown = typical_examples([*rows, *unknown], number, "I don't know.")
        assert [answer == "I don't know." for _, answer in shown] == [n == number // 2 for n in range(number)]
        assert typical_examples(rows, number, "I don't know.") == typical_examples(rows, number)
    assert len(set(shown)) == 5


def test_an_exams_question_is_never_an_example(rows, trained, tmp_path):
    for name, these in (("test", rows[20:40]), ("test_unknown", rows[40:50])):
        write_records(tmp_path / f"{name}.jsonl", [Record(row.input, "") for row in these])
    found = prompt.choose_prompt(job(), tmp_path, trained.folder)
    shown = [asked for candidate in found["candidates"] for asked, _ in candidate["prompt"]["shots"]]
    assert shown and set(shown) <= {row.input for row in rows[50:]}


def test_a_rival_is_tried_with_examples_in_its_chat_too(rows, tmp_path):
    write_released(CASES["SmolLM2"], tmp_path / "rival")
    found = prompt.try_prompts(job(), tmp_path, tmp_path / "rival", 256, chat_with_examples=True)
    names = [candidate.prompt.name for candidate in found]
    assert {"chat", "chat, 3 examples", "chat, 5 examples"} <= set(names)
    assert len(names) in (7, 9), "the easiest format, too, unless it is the chat"


def test_a_rival_whose_pieces_are_shorter_than_the_jobs_is_tried_on_the_same_rows(rows, tmp_path, monkeypatch):
    write_released(CASES["SmolLM2"], tmp_path / "rival")
    tokenizer = load_tokenizer(tmp_path / "rival")
    shortest = min(example.tokens for example in encode(tokenizer, PromptFormat(name="line", after="\n"), rows, 10**9))
    found = SimpleNamespace(origin="", licence="", sha256="", folder=tmp_path / "rival")
    monkeypatch.setattr(rivals, "find_base", lambda _: found)
    tight = job(train={"budget": "1 steps", "max_tokens": shortest - 1})
    with pytest.raises(DataError, match=r"train\.max_tokens"):
        prompt.choose_prompt(tight, tmp_path, tmp_path / "rival")
    assert rivals._choose(tight, tmp_path, "a rival", {}, tmp_path)["candidates"]


def test_a_changed_exam_has_a_rivals_prompt_chosen_again_and_nobody_asked_again(rows, tmp_path, monkeypatch):
    data, chosen = tmp_path / "data", []
    found = SimpleNamespace(origin="", licence="", sha256="", folder=tmp_path)
    monkeypatch.setattr(rivals, "find_base", lambda _: found)
    candidate = SimpleNamespace(prompt=PromptFormat(name="line", after="\n"), loss_nats=1.0, longest=9, to_json=dict)
    monkeypatch.setattr(rivals, "try_prompts", lambda *_, **__: chosen.append(1) or [candidate])
    facts = {"train": rows[:30], "validation": rows[30:40], "text": rows[:1], "test_about": rows[:1]}

    def decided(**exams):
        def write(folder):
            for name, these in {**facts, **exams}.items():
                write_records(folder / f"{name}.jsonl", these)

        made = run_step(data, {name: [row.input for row in these] for name, these in exams.items()}, write)
        against = job(evaluate={"against": ["pypi:some-rival"]})
        told = rivals.prompted(against, made, lambda name, *rest: run_step(tmp_path / name, *rest))["some-rival"]
        wanted = {f"{name}.jsonl": made.hashes[f"{name}.jsonl"] for name in ("validation", *exams)}
        assert told.manifest["inputs"]["exams"] == wanted, "what is read, and nothing else"
        old = {name: value for name, value in told.manifest["inputs"].items() if name != "exams"}
        return prompt.decided_by(told), key_of(old)

    first, without = decided(test=rows[40:50])
    assert first == without and len(chosen) == 1
    assert decided(test=rows[40:50])[0] == first and len(chosen) == 1
    assert decided(test=rows[40:51])[0] == first and len(chosen) == 2
    assert decided(test=rows[40:51], test_unknown=rows[51:])[0] == first and len(chosen) == 3
    of_one, of_two = (decided(test=rows[40:50], validation_unknown=rows[:n])[0] for n in (1, 2))
    assert len({first, of_one, of_two}) == 3 and len(chosen) == 5, "what an exam asks cannot be shown"


def test_what_was_chosen_without_exams_is_decided_by_the_steps_key():
    assert prompt.decided_by(SimpleNamespace(result={"prompt": {}}, key="as before")) == "as before"
