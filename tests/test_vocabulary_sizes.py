"""The size of a trimmed vocabulary by measurement: the numbers are those of the trimmed model, the rule is kept."""

import json
import xml.etree.ElementTree as Xml
from collections import Counter
from contextlib import nullcontext

import pytest
from doubles import counted_animals, phi
from families import CASES, write_released
from vocabularies import TEXTS, tokenizer_like

from metier.artifact import Step
from metier.compress import vocabulary
from metier.compress.vocabulary import Size, choice, ladder, measure
from metier.data.records import Record, write_records
from metier.errors import SpecError
from metier.export.gguf import write_gguf
from metier.model import load
from metier.model.rows import keep_rows
from metier.run.engine import Engine
from metier.spec.job import Job
from metier.steps import start
from metier.tasks.prompt import PromptFormat
from metier.tasks.registry import task_from_json
from metier.tokenizer.chat import turn_of
from metier.tokenizer.pieces import Kind
from metier.tokenizer.read import pieces_of
from metier.tokenizer.trim import choose, count_tokens
from metier.train.batches import collate, encode
from metier.train.objective import batch_loss

PROMPT = PromptFormat(name="labelled", before="Input: ", after="\nOutput:", lead=" ")
ROWS = [Record(asked, f"{answer} …猫") for asked, answer in counted_animals(60)]


@pytest.mark.parametrize(
    ("used", "rungs"),
    [
        (1, [1]),
        (1000, [1000]),
        (1001, [1000, 1001]),
        (5000, [1000, 2000, 4000, 5000]),
        (8000, [1000, 2000, 4000, 8000]),
    ],
)
def test_the_ladder_doubles_up_to_what_is_used(used, rungs):
    assert ladder(used) == rungs


def base(folder, name):
    write_released(CASES[name], folder)
    return load(folder)


def nats_a_character(model, tokenizer, examples):
    nats = 0.0
    for example in examples:
        loss = batch_loss(model, collate([example], int(tokenizer.pad_token_id)))
        nats += loss.nats.item() * loss.targets
    return nats / sum(len(row.output) for row in ROWS[: len(examples)])


@pytest.mark.parametrize("name", ["SmolLM2", "Qwen 3 MoE", "Gemma 3"])
def test_the_numbers_are_those_of_the_trimmed_model(tmp_path, monkeypatch, name):
    monkeypatch.setattr(vocabulary, "LEAST", 10)
    model, tokenizer = base(tmp_path, name)
    pieces = pieces_of(tokenizer)
    whole = pieces.tokenizer()
    counts = count_tokens(whole, [text for row in ROWS for text in (row.input, PROMPT.answer(row.output))])
    always = sorted(count_tokens(whole, [PROMPT.render("")]))
    sizes = measure(model, pieces, counts, always, ROWS[:12], PROMPT, ["Q8_0", "F16"])
    assert [size.asked for size in sizes] == ladder(sum(pieces.kinds[i] is Kind.NORMAL for i in counts))
    assert len(sizes) > 2
    assert [size.pieces for size in sizes] == sorted({size.pieces for size in sizes})
    for size in (sizes[1], sizes[-1]):
        again, _ = load(tmp_path)
        small, old = pieces.subset(choose(pieces, counts, size.asked, always))
        keep_rows(again, old)
        cut = small.tokenizer()
        examples = encode(cut, PROMPT, ROWS[:12], 10**9)
        assert size.nats_a_character == pytest.approx(nats_a_character(again, cut, examples), rel=1e-4)
        assert size.parameters == again.num_parameters()
        assert size.pieces == len(small)
        answers = [len(cut.encode(PROMPT.answer(row.output), add_special_tokens=False)) for row in ROWS[:12]]
        assert size.output_tokens == pytest.approx(sum(answers) / 12)
        path = tmp_path / "cut.gguf"
        write_gguf(path, again, cut, "Q8_0", name="x", licence="own", prompt=PROMPT, task={})
        assert size.file_mib["Q8_0"] == pytest.approx(path.stat().st_size / 2**20, rel=0.05)


def test_an_output_bias_counts_for_a_size(monkeypatch):
    monkeypatch.setattr(vocabulary, "LEAST", 10)
    pieces = pieces_of(tokenizer_like("smollm"))
    model = phi(len(pieces))
    counts = count_tokens(pieces.tokenizer(), [text for row in ROWS for text in (row.input, row.output)])
    size = measure(model, pieces, counts, [], ROWS[:4], PROMPT, ["F16"])[0]
    small, old = pieces.subset(choose(pieces, counts, size.asked))
    keep_rows(model, old)
    examples = encode(small.tokenizer(), PROMPT, ROWS[:4], 10**9)
    assert size.nats_a_character == pytest.approx(nats_a_character(model, small.tokenizer(), examples), rel=1e-4)


def size(asked, loss, tokens, mib):
    return Size(
        asked=asked,
        pieces=asked + 300,
        parameters=1,
        file_mib={"Q8_0": mib, "Q4_0": mib / 2},
        input_tokens=tokens / 2,
        output_tokens=tokens / 2,
        nats_a_character=loss,
    )


SIZES = [size(1000, 0.60, 60, 40), size(2000, 0.505, 50, 60), size(4000, 0.502, 41, 100), size(8000, 0.50, 40, 180)]


@pytest.mark.parametrize(
    ("limit", "asked"),
    [
        (None, 4000),  # 2,000 pieces cost too many tokens, 8,000 are no better than 4,000
        (51, 4000),
        (49, 2000),
        (21, 1000),
        (1, 1000),  # nothing fits: the smallest, and the step says what the limit has to be
    ],
)
def test_the_smallest_that_is_nearly_as_good_is_chosen_within_the_limit(limit, asked):
    assert choice(SIZES, limit).asked == asked


def test_where_small_is_best_in_one_and_large_in_the_other_the_largest_is_chosen():
    assert choice([size(1000, 0.4, 60, 1), size(2000, 0.5, 40, 2)], None).asked == 2000


def test_a_start_measures_and_leaves_a_table_and_a_plot(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(vocabulary, "LEAST", 20)
    monkeypatch.setenv("METIER_HOME", str(tmp_path / "home"))
    data, begun = tmp_path / "data", tmp_path / "start"
    data.mkdir(), begun.mkdir()
    write_records(data / "train.jsonl", ROWS[:40])
    write_records(data / "validation.jsonl", ROWS[40:])
    base(tmp_path / "base", "SmolLM2")
    job = Job.model_validate(
        {
            "name": "animals",
            "task": "text2text",
            "base": {"model": str(tmp_path / "base")},
            "data": {"train": [{"source": "file:none.tsv", "licence": "own"}]},
            "vocabulary": {"pieces": "auto"},
        }
    )
    facts = start.start(job, data, begun)
    found = json.loads((begun / "vocabulary.json").read_text())
    assert found["rows"] == 20
    chosen = next(size for size in found["sizes"] if size["asked"] == found["chosen"])
    assert (chosen["pieces"], chosen["parameters"]) == (facts["pieces"], facts["parameters"])
    assert set(chosen["file_mib"]) == {"Q8_0", "Q5_1", "Q4_0"}
    drawing = Xml.parse(begun / "vocabulary.svg").getroot()
    assert drawing.tag.endswith("}svg")
    assert "nats a character" in (begun / "vocabulary.svg").read_text()
    told = capsys.readouterr().err
    assert told.count("<- chosen") == 1
    assert load(begun).model.config.vocab_size == facts["pieces"]


@pytest.mark.parametrize("name", ["SmolLM2", "Llama 3.2", "Gemma 3"])
def test_where_every_used_piece_is_kept_every_prompt_and_answer_is_cut_as_before(tmp_path, monkeypatch, name):
    monkeypatch.setenv("METIER_HOME", str(tmp_path / "home"))
    data, begun = tmp_path / "data", tmp_path / "start"
    data.mkdir(), begun.mkdir()
    said = TEXTS[0].split()
    rows = [Record(asked, answer) for asked, answer in zip(said, reversed(said), strict=True)]
    write_records(data / "train.jsonl", rows)
    write_records(data / "validation.jsonl", rows)
    whole = base(tmp_path / "base", name).tokenizer
    job = Job.model_validate(
        {
            "name": "ferry",
            "task": "text2text",
            "base": {"model": str(tmp_path / "base")},
            "data": {"train": [{"source": "file:none.tsv", "licence": "own"}]},
            "vocabulary": {"pieces": 100_000},
        }
    )
    assert start.start(job, data, begun)["pieces"] < len(whole)
    made = load(begun).tokenizer
    for prompt in task_from_json(job.task_settings).prompts(turn_of(whole)):
        for row in rows:
            for text in (prompt.render(row.input), prompt.answer(row.output)):
                assert made.tokenize(text) == whole.tokenize(text)


def test_counts_of_special_pieces_are_no_rung_and_take_no_place(tmp_path):
    model, tokenizer = base(tmp_path, "SmolLM2")
    pieces = pieces_of(tokenizer)
    merged = [i for text, i in pieces.normal_ids().items() if len(text) == 2]
    counts = Counter({pieces.eos: 30, tokenizer.unk_token_id: 20, merged[0]: 2, merged[1]: 1})
    assert merged[0] in choose(pieces, counts, 1) and merged[1] not in choose(pieces, counts, 1)
    assert [size.asked for size in measure(model, pieces, counts, [], ROWS[:2], PROMPT, ["F16"])] == [2]


@pytest.mark.parametrize("pieces", ["all", 40])
def test_pieces_that_the_embedding_has_no_rows_for_are_left_out(tmp_path, monkeypatch, pieces):
    """Gemma 3's tokenizer has one more, for images; many a Llama's a padding piece that was added and not learned."""
    monkeypatch.setenv("METIER_HOME", str(tmp_path / "home"))
    data, begun, released = (tmp_path / name for name in ("data", "start", "base"))
    data.mkdir(), begun.mkdir()
    write_records(data / "train.jsonl", ROWS[:40])
    write_records(data / "validation.jsonl", ROWS[40:])
    tokenizer = base(released, "Gemma 3").tokenizer
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<added>"})
    tokenizer.add_tokens(["<image_soft_token>"], special_tokens=True)
    tokenizer.save_pretrained(released)
    job = Job.model_validate(
        {
            "name": "animals",
            "task": "text2text",
            "base": {"model": str(released)},
            "data": {"train": [{"source": "file:none.tsv", "licence": "own"}]},
            "vocabulary": {"pieces": pieces},
        }
    )
    facts = start.start(job, data, begun)
    model, made = load(begun)
    assert facts["pieces"] == len(made) == model.config.vocab_size <= rows
    assert made.pad_token == made.eos_token and "<image_soft_token>" not in made.get_vocab()
    write_gguf(tmp_path / "a.gguf", model, made, "F16", name="a", licence="own", prompt=PROMPT, task={})
    with Engine(tmp_path / "a.gguf", threads=1) as engine:
        assert engine.tokenize("forty red", special=False) == made("forty red", add_special_tokens=False).input_ids


@pytest.mark.parametrize(
    ("train", "key"), [({"max_tokens": 5000}, "train.max_tokens"), ({"max_tokens": 500}, None)], ids=["long", "short"]
)
def test_rows_longer_than_a_base_was_made_for_are_refused_before_any_training(tmp_path, monkeypatch, train, key):
    monkeypatch.setenv("METIER_HOME", str(tmp_path / "home"))
    released = tmp_path / "base"
    base(released, "SmolLM2")
    described = {
        "name": "animals",
        "task": "text2text",
        "base": {"model": str(released)},
        "data": {"train": [{"source": "file:none.tsv", "licence": "own"}]},
        "train": train,
        "export": {"quantisations": []},
    }
    begun = Step(released, {"result": {"parameters": 1}})
    with (
        pytest.raises(SpecError, match=r"train\.max_tokens: 5000, but the base was made for 512")
        if key
        else nullcontext()
    ):
        start.check(Job.model_validate(described), begun)
