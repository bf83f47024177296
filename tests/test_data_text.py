"""Plain text for pretraining: layouts, duplicates, what gives an exam away, the ledger."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_prepare import SPLIT, sentences, source

from metier.data.leaks import QUOTED_CHARS, quoting
from metier.data.ledger import with_base
from metier.data.prepare import prepare
from metier.data.records import read_documents, read_records
from metier.data.similarity import comparable
from metier.data.sources import fingerprint, read_source
from metier.errors import DataError, SpecError
from metier.spec.data import Data, TextSource
from metier.spec.load import load_job


def text_source(path, content, **rest):
    path.write_text(content, encoding="utf-8")
    return TextSource(source=f"file:{path}", **{"licence": "own", **rest})


def documents(source):
    return [text for text, _ in read_source(source).table.pairs]


def stories(count, seed):
    return [" ".join(side for pair in sentences(4, 100 * seed + i) for side in pair) for i in range(count)]


def test_a_text_file_is_paragraphs_unless_it_is_said_to_be_lines(tmp_path):
    content = "first line\nsecond line\n\n\nnext one\n \nlast\n"
    whole = text_source(tmp_path / "a.txt", content)
    assert documents(whole) == ["first line\nsecond line", "next one", "last"]
    lines = text_source(tmp_path / "a.txt", content, format="lines")
    assert documents(lines) == ["first line", "second line", "next one", " ", "last"]
    assert fingerprint(whole) != fingerprint(lines)


def test_a_column_of_a_table_is_documents(tmp_path):
    table = text_source(tmp_path / "a.csv", "id,text\n1,one\n2,two\n")
    assert documents(table) == ["one", "two"]
    objects = text_source(
        tmp_path / "a.jsonl", '{"body": {"plain": "one"}}\n{"body": {"plain": "two"}}\n', text="body.plain"
    )
    assert documents(objects) == ["one", "two"]
    assert documents(text_source(tmp_path / "a,b.tsv", "1\tone\n2\ttwo\n", text=2)) == ["one", "two"]


def test_a_layout_that_the_name_does_not_tell_is_asked_for(tmp_path):
    with pytest.raises(DataError, match='Set format = "paragraphs", "lines"'):
        read_source(text_source(tmp_path / "a.text", "one"))


some_parts = st.lists(st.text("aB ,", min_size=1, max_size=16), min_size=1, max_size=3).map("".join)


@settings(deadline=None)
@given(st.lists(some_parts, min_size=1, max_size=5), st.data())
def test_quotations_are_found_as_by_looking_everywhere(exam, data):
    pieces = st.lists(st.sampled_from([*exam, "a", "b b", exam[0][:-1]]), max_size=4)
    documents = data.draw(st.lists(pieces.map("".join), max_size=8))
    wanted = {comparable(text) for text in exam if len(comparable(text)) >= QUOTED_CHARS}
    expected = [i for i, d in enumerate(documents) if any(text in comparable(d) for text in wanted)]
    assert quoting(documents, exam) == expected


@pytest.fixture
def data(tmp_path):
    rows = sentences(400, 1)
    pairs = source(tmp_path / "a.tsv", rows)
    prepare(Data(train=[pairs], split=SPLIT), tmp_path / "first")
    exam = read_records(tmp_path / "first" / "test.jsonl") + read_records(tmp_path / "first" / "validation.jsonl")
    own = [*stories(40, 1), "damaged \0", exam[0].input, f"Quoting: {exam[1].output.upper()}, and so on, and more"]
    own += [stories(1, 1)[0], exam[2].input + " ba", rows[0][0]]
    text = [
        text_source(tmp_path / "own.txt", "\n\n".join(own)),
        text_source(tmp_path / "b.txt", "\n".join(stories(30, 2)), format="lines", weight=3.0, licence="CC-BY-SA-4.0"),
    ]
    return Data(train=[pairs], text=text, split=SPLIT)


def test_documents_are_cleaned_split_and_cleared_of_what_gives_the_exam_away(data, tmp_path):
    facts = prepare(data, tmp_path / "out")
    assert json.loads(json.dumps(facts)) == facts
    found = facts["text"]
    learned, held_out = (read_documents(tmp_path / "out" / f"text{part}.jsonl") for part in ("", "_validation"))
    kept = [text for part in (learned, held_out) for texts in part.values() for text in texts]
    assert found["removed"] == {
        "control character": 1,
        "exact duplicate": 1,
        "leak: quotation": 3,
    }, "an exam row's text itself, within another text, and with two letters more"
    assert found["documents"]["read"] == 76 == len(kept) + 5
    assert found["documents"]["validation"] == sum(map(len, held_out.values())) == round(71 * 0.15)
    assert found["weights"] == {"own.txt": 1.0, "b.txt": 3.0}
    exam = [
        side
        for part in ("test", "validation")
        for r in read_records(tmp_path / "out" / f"{part}.jsonl")
        for side in r[:2]
    ]
    assert not quoting(kept, exam)


def test_the_rows_of_a_job_are_the_same_with_and_without_plain_text(data, tmp_path):
    first = json.loads(json.dumps(prepare(data.model_copy(update={"text": []}), tmp_path / "without")))
    second = prepare(data, tmp_path / "with")
    assert {key: second[key] for key in first} == first and "text" not in first
    for part in ("train", "validation", "test"):
        assert (tmp_path / "with" / f"{part}.jsonl").read_bytes() == (
            tmp_path / "without" / f"{part}.jsonl"
        ).read_bytes()


def test_a_near_copy_of_a_short_exam_row_is_a_leak(tmp_path):
    rows = sentences(400, 1)
    pairs = source(tmp_path / "a.tsv", rows)
    prepare(Data(train=[pairs], split=SPLIT), tmp_path / "first")
    asked = read_records(tmp_path / "first" / "test.jsonl")[0].input
    near = asked[:10] + "x" + asked[11:]
    text = text_source(tmp_path / "t.txt", "\n\n".join([near, *stories(5, 3)]))
    found = prepare(Data(train=[pairs], text=[text], split=SPLIT), tmp_path / "out")["text"]
    assert found["leaks"] == {"quotation": 0, "near input": 1}


def test_the_licence_of_plain_text_counts_for_shipping(data, tmp_path):
    prepare(data, tmp_path / "out")
    ledger = json.loads((tmp_path / "out" / "ledger.json").read_text())
    assert [(s["name"], s["role"]) for s in ledger["sources"]] == [
        ("a.tsv", "train"),
        ("own.txt", "text"),
        ("b.txt", "text"),
    ]
    for entry in ledger["sources"]:
        rows = entry["rows"]
        assert rows["read"] == rows["train"] + rows["validation"] + rows["test"] + sum(entry["removed"].values())
    assert any("CC-BY-SA-4.0" in line for line in with_base(ledger, None)["shipping"]["terms"])
    ledger["sources"][2]["licence"] = "unknown"
    assert with_base(ledger, None)["shipping"]["allowed"] is False


def test_text_that_is_all_of_the_exam_is_refused(data, tmp_path):
    exam = read_records(tmp_path / "first" / "test.jsonl")
    text = text_source(tmp_path / "leaky.txt", "\n\n".join(row.input for row in exam))
    with pytest.raises(DataError, match=r"0 documents are left of the 2 .* quoted the test or validation set"):
        prepare(data.model_copy(update={"text": [text]}), tmp_path / "out")


JOB = """
name = "x"
task = "text2text"
base.model = "scratch"
release.must_beat = []
[[data.train]]
source = "file:a.tsv"
licence = "own"
[[data.text]]
source = "file:b.txt"
licence = "own"
[pretrain]
"""


def loaded(tmp_path, text):
    (tmp_path / "job.toml").write_text(text)
    return load_job(tmp_path / "job.toml")


def test_the_path_of_plain_text_starts_at_the_job_description(tmp_path):
    job = loaded(tmp_path, JOB)
    assert job.data.text[0].source == f"file:{tmp_path / 'b.txt'}"
    assert job.pretrain.objective == "causal"


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ("switch_tokens = 5", "pretrain.switch_tokens: does not fit objective 'causal'"),
        ("row_tokens = 64\nbatch_tokens = 63", "pretrain.batch_tokens: 63 tokens do not hold a row of 64"),
        ('budget = "0 tokens"', "pretrain.budget: found '0 tokens'"),
        ('optimizer = "adafactor"\nweight_decay = 0.1', "pretrain.weight_decay: does not fit optimizer 'adafactor'"),
        ('objective = "ul3"', "Did you mean 'ul2'?"),
        ("freeze_router_after = 1", "pretrain.freeze_router_after"),
    ],
)
def test_a_mistake_in_the_table_is_named(tmp_path, lines, wanted):
    with pytest.raises(SpecError) as told:
        loaded(tmp_path, JOB + lines)
    assert wanted in str(told.value)


def test_pretraining_and_plain_text_come_together(tmp_path):
    with pytest.raises(SpecError, match=r"data\.text: is learned from by \[pretrain\] alone"):
        loaded(tmp_path, JOB.replace("[pretrain]", ""))
    with pytest.raises(SpecError, match=r"data\.text: missing, and \[pretrain\] learns from it"):
        loaded(tmp_path, JOB.replace('[[data.text]]\nsource = "file:b.txt"\nlicence = "own"\n', ""))


@pytest.mark.parametrize(("budget", "steps"), [("2048 tokens", 4), ("2049tokens", 5), ("7 steps", 7)])
def test_a_budget_in_tokens_is_whole_steps(tmp_path, budget, steps):
    table = f'budget = "{budget}"\nrow_tokens = 256\nbatch_tokens = 600\nobjective = "ul2"\nswitch_tokens = 1025\n'
    found = loaded(tmp_path, JOB + table).pretrain
    assert (found.budget_steps, found.budget_seconds, found.switch_step) == (steps, None, 3)
