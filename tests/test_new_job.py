"""Jobs nobody prepared: a fresh file of examples becomes a job whose data step works as written."""

import csv
import json
import os
import random
import subprocess
import sys

import pytest
from doubles import jaccard

from metier.data.fit import study
from metier.data.leaks import leaks
from metier.data.prepare import prepare
from metier.data.records import Record
from metier.data.similarity import comparable
from metier.data.sources import fingerprint, open_source
from metier.errors import DataError, SpecError
from metier.spec.data import Source
from metier.spec.load import load_job
from metier.spec.new import new_job

GOOD = ("wonderful", "a joy", "better than hoped", "lovely", "worth every coin", "great fun")
BAD = ("dreadful", "a bore", "worse than feared", "broken", "a waste of money", "awful")
TOPICS = ("The room", "This hotel", "Our dinner", "The film", "The battery", "The staff", "My lamp", "The soup")
FILLERS = (
    "We came on a Monday.",
    "I bought it for my sister.",
    "It rained all week.",
    "They had warned me.",
    "The box was green.",
    "I read three opinions first.",
    "My neighbour agrees.",
)


def review(draw):
    liked = draw.random() < 0.5
    said = [f"{draw.choice(TOPICS)} was {draw.choice(GOOD if liked else BAD)}." for _ in range(draw.randint(1, 3))]
    said += draw.sample(FILLERS, draw.randint(0, 6))
    draw.shuffle(said)
    return " ".join(said), "positive" if liked else "negative"


def person(draw):
    first, last = ("".join(draw.choice(("ka", "mi", "ra", "ben", "so", "lu", "dor")) for _ in "123") for _ in "ab")
    shown = draw.choice(("{1}, {0}", "{0} {1}", "Mr {0} {1}")).format(first, last)
    return shown.upper() if draw.random() < 0.5 else shown, f"{first.title()} {last.title()}"


def amount(draw):
    number, unit = draw.randint(1, 999), draw.choice(("kg", "litres", "tons", "cups"))
    thing = draw.choice(("flour", "milk", "sand", "copper wire", "rice", "paint"))
    asked = draw.choice(("Please send {0} {1} of {2}.", "Order: {2}, {0} {1}", "Could I have {0} {1} of your {2}?"))
    return asked.format(number, unit, thing), json.dumps({"item": thing, "amount": number, "unit": unit})


def formal(draw):
    who = draw.choice(("I am", "You are", "They are", "We are"))
    what = draw.choice(("going to call", "happy about", "unable to find", "planning to visit", "waiting for"))
    whom = draw.choice(("the doctor", "my brother", "the new teacher", "that old shop", "our landlord"))
    when = draw.choice(("tomorrow", "at noon", "in the evening", "next week", "because of the weather"))
    text = f"{who} {what} {whom} {when}."
    return text, text.lower().replace(" am", "'m").replace(" are", "'re").replace("going to", "gonna").rstrip(".")


def write_csv(path, make, rows, seed=1):
    draw = random.Random(seed)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "result"))
        writer.writerows(make(draw) for _ in range(rows))
    return path


def prepared(path, folder, task="text2text"):
    job = load_job(new_job("mine", task, path, folder / "job", study))
    return job, prepare(job.data, folder / "out", seed=job.seed)["rows"]


@pytest.mark.parametrize(
    ("make", "rows"),
    [(review, 200), (review, 1000), (person, 800), (amount, 3000), (amount, 200), (formal, 200), (formal, 1200)],
)
def test_a_fresh_file_of_examples_becomes_a_job_whose_data_step_works(tmp_path, make, rows):
    job, left = prepared(write_csv(tmp_path / "mine.csv", make, rows), tmp_path)
    assert left["train"] >= 0.3 * left["distinct"]
    assert 20 <= job.evaluate.test_rows <= left["test"]
    assert 20 <= job.evaluate.validation_rows <= left["validation"]


@pytest.mark.parametrize("space", ["\u3000", "\u00a0"])
def test_a_folder_or_a_file_may_have_a_space_of_any_width_in_its_name(tmp_path, space):
    folder = tmp_path / f"私の{space}文書"
    folder.mkdir()
    job, left = prepared(write_csv(folder / f"my{space}own.csv", review, 200), folder)
    assert job.data.train[0].source == f"file:{folder / f'my{space}own.csv'}"
    assert left["clean"] == 200


@pytest.mark.parametrize("line", ["\n", "\u2028", "\t"])
def test_a_file_with_a_break_in_its_name_is_refused(tmp_path, line):
    with pytest.raises(DataError, match="a comma or a control character in its path"):
        new_job("mine", "text2text", write_csv(tmp_path / f"a{line}b.csv", review, 200), tmp_path / "job", study)


def test_labels_are_looked_at_on_the_input_alone_and_the_file_says_why(tmp_path):
    job, left = prepared(write_csv(tmp_path / "mine.csv", review, 1000), tmp_path)
    assert job.data.split.leak_sides == "input"
    assert job.data.cleaning.max_ratio > 9, "a long review of one word is not damaged"
    assert left["clean"] == 1000
    assert "rows removed as leaks: 100% with 0.5 on 'either'" in (tmp_path / "job" / "job.toml").read_text()


def test_texts_that_differ_keep_the_strict_rules(tmp_path):
    job, _ = prepared(write_csv(tmp_path / "mine.csv", person, 800), tmp_path)
    rules = job.data.split
    assert (rules.leak_similarity, rules.leak_sides, job.data.cleaning.near_duplicate) == (0.5, "either", 0.8)


def test_a_translation_is_looked_at_on_both_sides_whatever_is_measured(tmp_path):
    path = write_csv(tmp_path / "mine.csv", formal, 600)
    job, left = prepared(path, tmp_path, "translation")
    assert job.data.split.leak_sides == "either"
    assert left["train"] >= 20


def test_no_prepared_exam_is_given_away_by_an_equal_or_too_similar_input(tmp_path):
    job, _ = prepared(write_csv(tmp_path / "mine.csv", review, 200), tmp_path)
    read = {
        part: [json.loads(line)["input"] for line in (tmp_path / "out" / f"{part}.jsonl").open(encoding="utf-8")]
        for part in ("train", "test")
    }
    for asked in read["test"]:
        for learned in read["train"]:
            assert comparable(asked) != comparable(learned)
            assert jaccard(asked, learned) < job.data.split.leak_similarity


def test_an_equal_input_leaks_under_either_rule_and_an_equal_output_only_when_outputs_are_looked_at():
    exam = [Record("How was the long night on the train?", "good")]
    same_input, same_output = Record("How was the LONG night on the train", "bad"), Record("quite other words", "good")
    assert leaks([same_input, same_output], exam, 1.0, "input") == {0: "equal input"}
    assert leaks([same_input, same_output], exam, 1.0, "either") == {0: "equal input", 1: "equal output"}


def test_long_texts_get_room_to_be_read_and_answered(tmp_path):
    def long(draw):
        words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=10)) for _ in range(150)]
        return " ".join(words), " ".join(words[:40])

    job, left = prepared(write_csv(tmp_path / "mine.csv", long, 120), tmp_path)
    assert left["clean"] == 120
    assert job.data.cleaning.max_chars == 2000
    assert job.train.max_tokens == 512
    assert job.evaluate.max_answer_tokens == 256


def test_a_large_file_is_measured_on_a_sample(tmp_path):
    draw = random.Random(1)
    path = tmp_path / "mine.csv"
    path.write_text("in,out\n" + "".join(f"{draw.random()} {n},{draw.random()}\n" for n in range(50_000)))
    job = load_job(new_job("mine", "text2text", path, tmp_path / "job", study))
    assert job.data.split.test_share == 0.008
    assert job.evaluate.test_rows <= 0.008 * 50_000


def test_rows_that_are_all_the_same_are_told_before_any_build(tmp_path, capsys):
    path = tmp_path / "mine.csv"
    path.write_text("in,out\n" + "the same,row\n" * 300)
    new_job("mine", "text2text", path, tmp_path / "job", study)
    assert "Only 1 usable, different rows" in capsys.readouterr().err


def cli(folder, *arguments):
    code = "import sys; from metier.cli import main; sys.argv[0] = 'metier'; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**os.environ, "METIER_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_measures_and_without_examples_names_the_file_to_be_made(tmp_path):
    path = write_csv(tmp_path / "mine.csv", review, 200)
    assert cli(tmp_path, "new", "mood", "--task", "text2text", "--examples", str(path)).returncode == 0
    assert load_job(tmp_path / "jobs" / "mood").data.split.leak_sides == "input"
    done = cli(tmp_path, "new", "de-fr", "--task", "translation")
    assert done.returncode == 0
    assert "jobs/de-fr/pairs.tsv" in done.stderr and "languages" not in done.stderr
    other = cli(tmp_path, "new", "ours", "--task", "translation")
    assert "languages are set to ja and en" in other.stderr
    job = load_job(tmp_path / "jobs" / "de-fr")
    assert job.data.train[0].source == f"file:{tmp_path / 'jobs' / 'de-fr' / 'pairs.tsv'}"
    built = cli(tmp_path, "build", "jobs/de-fr")
    assert built.returncode == 3
    assert "pairs.tsv: there is no such file" in built.stderr


def test_leak_sides_takes_two_words_only(tmp_path):
    path = new_job("mine", "text2text", None, tmp_path)
    path.write_text(path.read_text().replace('leak_sides = "either"', 'leak_sides = "inputs"'))
    with pytest.raises(SpecError, match=r"leak_sides.*Did you mean 'input'"):
        load_job(path)


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        (
            "a.csv",
            ",text\n" + "".join(f"{n},row {n}\n" for n in range(200)),
            "fewer than two columns have a name and texts",
        ),
        ("a.jsonl", '{"text": "good", "label": 1}\n' * 200, "have 1 keys with a text. Write two, a number in quotes"),
    ],
)
def test_a_table_with_one_usable_column_is_refused_with_what_to_write(tmp_path, name, content, wanted):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=wanted):
        new_job("mine", "text2text", tmp_path / name, tmp_path / "job", study)


def test_names_with_spaces_a_blank_first_line_and_a_long_cell_are_no_trouble(tmp_path):
    draw = random.Random(3)
    rows = "".join('"{}","{}"\n'.format(*review(draw)) for _ in range(300))
    (tmp_path / "mine.csv").write_text(f'\ntext, result\n{rows}"{"long " * 40_000}",none\n', encoding="utf-8")
    job, left = prepared(tmp_path / "mine.csv", tmp_path)
    assert (job.data.train[0].input, job.data.train[0].output) == ("text", "result")
    assert left["clean"] == 300


def seen(tmp_path, name, content, task="text2text", job="mine", encoding="utf-8"):
    """Write a file, make a job of it, and return its source."""
    (tmp_path / name).write_bytes(content.encode(encoding))
    return load_job(new_job(job, task, tmp_path / name, tmp_path / job, study)).data.train[0]


def words(number):
    return " ".join(random.Random(number).choices(("red", "old", "river", "lamp", "seven", "quiet", "stone"), k=6))


@pytest.mark.parametrize(("first", "second"), [("en", "ja"), ("English", "Japanese")])
def test_columns_named_after_the_languages_become_the_sides_they_are(tmp_path, first, second, capsys):
    rows = "".join(f"{words(n)} {n}\t文 {n}\n" for n in range(200))
    source = seen(tmp_path, "a.tsv", f"{first}\t{second}\n{rows}", "translation", "ja-en")
    assert (source.input, source.output, source.header) == (second, first, True)
    assert f"'{second}' is taken for the Japanese, '{first}' for the English" in capsys.readouterr().err


def test_columns_without_names_are_told_by_number(tmp_path, capsys):
    rows = "".join(f"{1000 + 7 * n}\t{words(n)} {n}\t{5000 + n}\t文 {n}。\n" for n in range(200))
    source = seen(tmp_path, "a.tsv", rows, "translation", "en-ja")
    assert (source.input, source.output, source.header) == (2, 4, False)
    assert "Column 2 is taken for the English, Column 4 for the Japanese" in capsys.readouterr().err


def test_an_input_that_is_always_empty_is_passed_over(tmp_path):
    rows = [{"instruction": f"Say {words(n)}", "input": "", "output": f"{n} {words(n + 999)}"} for n in range(200)]
    source = seen(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert (source.input, source.output) == ("instruction", "output")


def test_a_first_object_that_lacks_a_text_does_not_hide_its_column(tmp_path):
    rows = [{"question": words(n), "category": "a", "answer": f"{n}" if n else None} for n in range(200)]
    source = seen(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert (source.input, source.output) == ("question", "answer")


@pytest.mark.parametrize("end", ["", ",", ",,"])
def test_empty_columns_at_the_end_are_no_reason_to_overlook_the_names(tmp_path, end):
    rows = "".join(f"{n},{words(n)} {n},{n} {words(n + 999)}{end}\n" for n in range(200))
    source = seen(tmp_path, "a.csv", f"id,question,answer{end}\n{rows}")
    assert (source.input, source.output, source.header) == ("question", "answer", True)


def test_a_table_as_spreadsheets_write_it_is_read_with_its_encoding_and_delimiter(tmp_path):
    rows = "".join(f"{words(n)}, {n};\u554f\u3044 {n}\n" for n in range(200))
    source = seen(tmp_path, "a.csv", f"Question;Answer\r\n{rows}", encoding="shift_jis")
    assert (source.input, source.output, source.delimiter, source.encoding) == ("Question", "Answer", ";", "shift_jis")
    text = (tmp_path / "mine" / "job.toml").read_text(encoding="utf-8")
    assert 'encoding = "shift_jis"  # guessed' in text
    with open_source(source) as reading:
        assert reading.table.pairs[1] == (f"{words(1)}, 1", "\u554f\u3044 1")


def test_a_large_file_of_few_different_rows_is_told_by_its_different_rows(tmp_path, capsys):
    few = [f"{words(n)} {n},{n} {words(n + 999)}\n" for n in range(40)]
    (tmp_path / "a.csv").write_text("in,out\n" + "".join(few[n % 40] for n in range(60_000)))
    new_job("mine", "text2text", tmp_path / "a.csv", tmp_path / "job", study)
    assert "Only 40 usable, different rows" in capsys.readouterr().err


def test_a_delimiter_that_is_usual_is_no_part_of_what_a_source_is_known_by(tmp_path):
    path = write_csv(tmp_path / "mine.csv", review, 200)
    source = load_job(new_job("mine", "text2text", path, tmp_path / "job", study)).data.train[0]
    assert "delimiter" not in fingerprint(source)
    assert fingerprint(source.model_copy(update={"delimiter": ";"}))["delimiter"] == ";"


def test_a_delimiter_of_a_table_that_is_no_csv_is_refused(tmp_path):
    (tmp_path / "a.tsv").write_text("a\tb\n" * 3)
    source = Source(source=f"file:{tmp_path / 'a.tsv'}", licence="own", delimiter=";")
    with pytest.raises(DataError, match="delimiter = ';' is for csv, and this is tsv"), open_source(source):
        pass


def test_a_usual_name_that_is_met_below_is_a_label(tmp_path):
    rows = "".join(f"{words(n)} {n}?,{('statement', 'comment', 'question')[n % 3]}\n" for n in range(200))
    source = seen(tmp_path, "a.csv", f"red lamp?,question\n{rows}")
    assert (source.input, source.output, source.header) == (1, 2, False)


def test_of_two_columns_numbers_stay_where_they_are(tmp_path):
    source = seen(tmp_path, "a.csv", "arabic,roman\n" + "".join(f"{n},{words(n)} {n}\n" for n in range(200)))
    assert (source.input, source.output) == ("arabic", "roman")


def test_languages_that_nobody_named_are_not_said_of_columns(tmp_path, capsys):
    seen(tmp_path, "a.csv", "de,fr\n" + "".join(f"{words(n)},{words(n + 999)}\n" for n in range(200)), "translation")
    assert "'de' is taken for the input, 'fr' for the output" in capsys.readouterr().err
