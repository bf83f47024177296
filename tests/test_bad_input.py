"""Whatever a user hands in: one line that says where, what and what to do; nothing lost, nothing trusted."""

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from doubles import PEAK_MIB, tiny_gguf
from filelock import FileLock
from safetensors.torch import load_file, save_file

from metier import cli
from metier.artifact import FORMAT
from metier.errors import ArtifactError
from metier.model.loading import load

JOB = """\
name = "micro"
task = "text2text"
[base]
model = "scratch"
vocabulary = 320
hidden_size = 32
layers = 1
[[data.train]]
source = "file:pairs.tsv"
licence = "own"
[data.cleaning]
near_duplicate = 1.0
[data.split]
validation_share = 0.1
test_share = 0.1
leak_similarity = 1.0
leak_sides = "input"
[train]
budget = "30 steps"
batch_tokens = 200
max_tokens = 64
[evaluate]
validation_rows = 20
test_rows = 20
max_answer_tokens = 4
[export]
quantisations = ["Q8_0"]
[release]
must_beat = []
"""
ROWS = [f"number {n} and {n * 7 % 1000}\t{'odd' if n % 2 else 'even'}" for n in range(400)]
ONE_LINE = re.compile(r"error: .+: .+\. .+\n")
FRESH = [sys.executable, "-c", "from metier.cli import main; main()"]
SCRATCH = '[base]\nmodel = "scratch"\nvocabulary = 320\nhidden_size = 32\nlayers = 1\n'


class Place:
    """A folder with a micro job, a METIER_HOME, and the command line."""

    def __init__(self, folder, capsys, monkeypatch):
        self.folder, self.home, self.capsys, self.monkeypatch = folder, folder / "home", capsys, monkeypatch
        self.rows = folder / "pairs.tsv"
        self.rows.write_text("\n".join(ROWS) + "\n", encoding="utf-8")
        self.job()
        monkeypatch.setenv("METIER_HOME", str(self.home))
        monkeypatch.chdir(folder)

    def job(self, *changes):
        text = JOB
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (self.folder / "job.toml").write_text(text, encoding="utf-8")

    def metier(self, *arguments):
        """Run a command here; return exit code, stdout and stderr."""
        self.monkeypatch.setattr(sys, "argv", ["metier", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        return code, *self.capsys.readouterr()

    def refused(self, code, *arguments):
        """Run a command that must end with one line of error and this exit code; return the line."""
        found, out, err = self.metier(*arguments)
        assert found == code, err
        line = err[err.index("error: ") :]
        assert ONE_LINE.fullmatch(line), line
        assert "Traceback" not in err
        assert out == ""
        return line

    def fresh(self, *arguments, **options):
        """Run a command in a process of its own."""
        return subprocess.run(
            [*FRESH, *map(str, arguments)], capture_output=True, check=False, timeout=120, cwd=self.folder, **options
        )


@pytest.fixture
def place(tmp_path, capsys, monkeypatch):
    return Place(tmp_path, capsys, monkeypatch)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A METIER_HOME in which the micro job is built."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "job.toml").write_text(JOB, encoding="utf-8")
    (folder / "pairs.tsv").write_text("\n".join(ROWS) + "\n", encoding="utf-8")
    done = subprocess.run(
        [*FRESH, "build", str(folder)],
        env={**os.environ, "METIER_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def after(place, built):
    """A place of its own where the micro job is built already."""
    shutil.copytree(built / "home", place.home)
    place.job(("file:pairs.tsv", f"file:{built / 'pairs.tsv'}"))
    return place


def test_missing_data_is_named_and_the_build_works_once_it_is_there(place):
    kept = place.rows.read_bytes()
    place.rows.unlink()
    assert "pairs.tsv: there is no such file" in place.refused(3, "build", place.folder)
    place.rows.write_bytes(kept)
    assert place.metier("build", ".")[0] == 0


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        ("\n".join(ROWS).encode("utf-16"), 'Set encoding = "utf-16"'),
        ("猫が好きです。\tcats\n".encode("shift_jis") * 300, 'Set encoding = "shift_jis"'),
        ("only one column\n" * 200, "do not have the columns 1 and 2"),
        (b"\0" * 5000, "columns"),
        ("a\0b\tc\n" * 200, "the sources hold 0 usable, distinct rows that may be examined; removed were 200"),
        ("same\tsame\n" * 500, "the sources hold 1 usable, distinct rows"),
    ],
)
def test_data_that_is_no_data_is_refused(place, content, wanted):
    place.rows.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert wanted in place.refused(3, "build", place.folder)


def test_a_half_written_line_of_jsonl_is_named(place):
    lines = [json.dumps({"in": a, "out": b}) for a, b in (row.split("\t") for row in ROWS)]
    (place.folder / "pairs.jsonl").write_text("\n".join(lines)[:-9], encoding="utf-8")
    place.job(("file:pairs.tsv", "file:pairs.jsonl"))
    assert "pairs.jsonl, line 400: is not JSON" in place.refused(3, "build", place.folder)


def test_lone_surrogates_and_nul_bytes_cost_their_rows_only(place):
    lines = [json.dumps({"in": a, "out": b}) for a, b in (row.split("\t") for row in ROWS)]
    lines += ['{"in": "half of a pair \\ud83d", "out": "odd"}', '{"in": "a nul \\u0000", "out": "even"}'] * 3
    (place.folder / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    place.job(
        ("file:pairs.tsv", "file:pairs.jsonl"),
        ('licence = "own"', 'licence = "own"\ninput = "in"\noutput = "out"'),
        ("[release]", "[limits]\nfile_mib = 0.01\n[release]"),
    )
    place.refused(2, "build", ".")  # after the data step, for the limit
    ledger = json.loads((place.home / "runs/micro/data/ledger.json").read_text())
    assert ledger["sources"][0]["removed"]["damaged Unicode"] == 3
    assert ledger["sources"][0]["removed"]["control character"] == 3


def test_an_exam_that_is_the_training_text_leaves_nothing_to_learn(place):
    place.job(
        ("[data.cleaning]", '[[data.test]]\nsource = "file:pairs.tsv"\nlicence = "own"\n[data.cleaning]'),
        ("test_share = 0.1\n", ""),
    )
    assert "leak" in place.refused(3, "build", place.folder)


@pytest.mark.parametrize("kind", ["noise", "png", "empty file", "cut gguf", "header only"])
def test_a_base_that_is_no_model_is_refused(place, kind):
    base = place.folder / "base.gguf"
    whole = tiny_gguf(place.folder / "whole.gguf").read_bytes()
    base.write_bytes(
        {
            "noise": os.urandom(5000),
            "png": b"\x89PNG\r\n\x1a\n" + bytes(5000),
            "empty file": b"",
            "cut gguf": whole[: len(whole) // 2],
            "header only": whole[:24],
        }[kind]
    )
    place.job((SCRATCH, '[base]\nmodel = "base.gguf"\n'))
    assert str(base) in place.refused(4, "build", place.folder)
    assert not list(place.home.glob("cache/bases/*/manifest.json"))
    assert str(base) in place.refused(4, "run", base, "hello")


@pytest.mark.parametrize("kind", ["empty", "config alone", "noise"])
def test_a_base_folder_without_a_model_is_refused(place, kind):
    base = place.folder / "base"
    base.mkdir()
    if kind != "empty":
        (base / "config.json").write_text('{"model_type": "gemma3_text"}')
    if kind == "noise":
        (base / "model.safetensors").write_bytes(os.urandom(5000))
    place.job((SCRATCH, '[base]\nmodel = "base"\n'))
    assert "base" in place.refused(4, "build", place.folder)


@pytest.mark.parametrize(
    ("file", "content", "wanted"),
    [
        ("config.json", b"{}", "cannot be loaded"),
        ("config.json", b"\xff\x00", "cannot be loaded"),
        ("tokenizer.json", b'{"a": 1}', "cannot be loaded"),
        ("tokenizer.json", None, "its tokenizer missing"),
        ("model.safetensors", None, "no *.safetensors"),
        ("model.safetensors", "cut", "cannot be loaded"),
        ("model.safetensors", "hole", "model.norm.weight missing"),
    ],
)
def test_a_base_folder_that_is_not_whole_is_refused(built, tmp_path, file, content, wanted):
    folder = tmp_path / "base"
    shutil.copytree(built / "home/runs/micro/start", folder)
    path = folder / file
    whole = load_file(path) if file.endswith(".safetensors") else {}
    if content is None:
        path.unlink()
        (folder / "tokenizer_config.json").unlink()
    elif content == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif content == "hole":
        save_file({name: weight for name, weight in whole.items() if name != "model.norm.weight"}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=re.escape(wanted)):
        load(folder)


@pytest.mark.parametrize("budget", ["0m", "0 steps", "0", "-5m", "10 minutes", "0.0h"])
def test_a_budget_of_nothing_is_refused(place, budget):
    place.job(("30 steps", budget))
    assert "train.budget" in place.refused(2, "build", place.folder)
    assert not place.home.exists()


def test_limits_that_nothing_can_meet_are_refused_before_any_training(place):
    place.job(("[release]", "[limits]\nfile_mib = 0.01\n[release]"))
    assert "limits.file_mib" in place.refused(2, "build", place.folder)
    assert not (place.home / "runs/micro/train").exists()


def test_an_unknown_quantisation_is_refused_with_the_ones_there_are(place):
    place.job(('["Q8_0"]', '["Q3_K"]'))
    assert "Q8_0" in place.refused(2, "build", place.folder)


def test_without_a_network_a_package_source_says_so(place):
    place.monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    place.job(("file:pairs.tsv", "pypi:some-package"), ('licence = "own"', 'licence = "own"\npath = "rows.tsv"'))
    line = place.refused(5, "build", place.folder)
    assert "pypi:some-package: cannot be fetched" in line
    assert "127.0.0.1" not in line


@pytest.mark.parametrize("name", ["../out", "a/b", "", "Ä", ".hidden", "x" * 65])
def test_a_name_that_leaves_its_folder_is_refused(place, name):
    place.job(('name = "micro"', f"name = {json.dumps(name)}"))
    assert "name" in place.refused(2, "build", place.folder)
    assert "name" in place.refused(2, "new", name, "--task", "text2text")
    assert sorted(path.name for path in place.folder.iterdir()) == ["job.toml", "pairs.tsv"]


@pytest.mark.parametrize("content", [b"", b"\0\1\2", b"\xff\xfe\x00", b"name = ", None])
def test_a_job_description_that_is_none_is_refused(place, content):
    file = place.folder / "job.toml"
    file.unlink()
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    assert "job.toml" in place.refused(2, "build", place.folder)
    assert "job.toml" in place.refused(2, "verdict", place.folder)


def test_usage_mistakes_keep_their_exit_code(place):
    assert place.metier("build")[0] == 2
    assert place.metier("biuld", "x")[0] == 2
    assert place.metier("run", "--nothing")[0] == 2


@pytest.mark.parametrize(
    "arguments", [("--debug", "verdict", "."), ("verdict", "--debug", "."), ("verdict", ".", "--debug")]
)
def test_debug_shows_the_traceback_wherever_it_stands(place, arguments):
    done = place.fresh(*arguments)
    assert b"Traceback" in done.stderr
    assert b"ArtifactError" in done.stderr
    assert place.refused(4, "verdict", ".")


def test_a_disk_that_is_full_in_the_middle_is_told_and_the_same_command_goes_on(place):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    done = place.fresh("build", ".", preexec_fn=small_files)
    line = done.stderr.decode().splitlines()[-1]
    assert done.returncode == 5, done.stderr
    assert b"Traceback" not in done.stderr
    assert str(place.home) in line
    assert "Free disk space" in line
    assert not list(place.home.glob("runs/micro/export/manifest.json"))
    again = place.fresh("build", ".")
    assert again.returncode == 0, again.stderr
    assert b"data: already finished" in again.stderr


@pytest.mark.parametrize(
    "said",
    [
        OSError(errno.ENOSPC, "No space left on device", "the/file"),
        OSError(errno.ENOSPC, "No space left on device"),
        Exception("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_told_whichever_library_meets_it(place, said):
    def full(*_, **__):
        raise said

    with place.monkeypatch.context() as patched:
        patched.setattr("metier.steps.data.prepare", full)
        line = place.refused(5, "build", place.folder)
    assert "no space left on device" in line.lower()
    assert "the/file" in line or str(place.home) in line
    assert not list(place.home.glob("runs/micro/*/manifest.json"))


def test_an_accelerator_without_memory_is_told_wherever_in_a_build_it_is_met(place):
    def starved(*_, **__):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with place.monkeypatch.context() as patched:
        patched.setattr("metier.steps.data.prepare", starved)
        line = place.refused(5, "build", place.folder)
    assert str(place.home) in line and "no memory left" in line and "smaller base" in line


def test_a_home_that_cannot_be_made_is_told(place):
    place.home.write_text("a file")
    line = place.refused(5, "build", place.folder)
    assert str(place.home) in line and "another METIER_HOME" in line


def test_a_path_that_cannot_be_is_no_matter_of_room_on_the_disk(place):
    assert "file name too long. Choose a shorter path" in place.refused(5, "plan", "x" * 300)
    examples = "y" * 300 + ".tsv"
    assert "Choose a shorter path" in place.refused(5, "new", "other", "--task", "text2text", "--examples", examples)


def test_a_run_folder_of_another_version_is_left_alone(after):
    path = after.home / "runs/micro/data/manifest.json"
    path.write_text(path.read_text().replace(f'"format": {FORMAT}', '"format": 99'))
    before = path.read_bytes()
    assert "format 99" in after.refused(4, "build", after.folder)
    assert path.read_bytes() == before


def test_a_damaged_file_of_a_finished_step_is_made_again(after):
    verdict = after.metier("verdict", after.folder, "--json")[1]
    (after.home / "runs/micro/data/train.jsonl").write_text('{"half": ')
    code, out, _ = after.metier("build", ".", "--json")
    assert code == 0
    assert json.loads(out)["released"] == json.loads(verdict)["released"]
    assert len((after.home / "runs/micro/data/train.jsonl").read_text().splitlines()) > 200


def test_one_build_at_a_time_works_in_a_run_folder(place):
    run = place.home / "runs/micro"
    run.mkdir(parents=True)
    with FileLock(run / ".lock"):
        assert "another build or exam is at work" in place.refused(5, "build", place.folder)


def test_an_exam_of_ones_own_waits_for_a_build_and_leaves_no_folder_where_there_is_none(place):
    assert "is not finished" in place.refused(4, "evaluate", place.folder, "--on", "pairs.tsv")
    assert not (place.home / "runs/micro").exists()


def test_an_exam_of_ones_own_is_refused_while_a_build_is_at_work(after):
    with FileLock(after.home / "runs/micro/.lock"):
        assert "another build or exam is at work" in after.refused(5, "evaluate", after.folder, "--on", "pairs.tsv")


def test_an_input_and_a_file_are_not_taken_together_and_a_closed_stdin_is_an_empty_one(place, after, monkeypatch):
    assert "Give one of the two" in place.refused(2, "run", "micro", "some text", "--file", "pairs.tsv")
    monkeypatch.setattr(sys, "stdin", None)
    assert after.metier("run", "micro") == (0, "", "")


def test_ctrl_c_stops_and_the_same_command_goes_on(place):
    place.job(("30 steps", "100000 steps"))
    # a shell that runs the tests in the background lets them ignore Ctrl-C
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen([*FRESH, "build", "."], stderr=subprocess.PIPE, cwd=place.folder) as process:
        signal.signal(signal.SIGINT, heard)
        deadline = time.monotonic() + 60
        while not (place.home / "runs/micro/train/steps.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"run the same command to go on" in err
    assert b"Traceback" not in err
    place.job()
    done = place.fresh("build", ".")
    assert done.returncode == 0
    assert b"data: already finished" in done.stderr


def test_an_unknown_model_is_refused_with_the_name_that_was_meant(after):
    assert "Did you mean 'micro'?" in after.refused(4, "run", "micor", "number 3 and 21")


@pytest.mark.parametrize("text", ["", " ", "\0", "a\0b", "\ud83d", "﷽" * 20, "number 3\nand 21"])
def test_odd_text_is_answered(after, text):
    code, _, err = after.metier("run", "micro", "--", text)
    assert (code, "Traceback" in err) == (0, False)


def test_input_that_is_not_utf_8_is_answered_line_by_line(after):
    done = after.fresh("run", "micro", input=b"number 3 and 21\n\xff\xfe\x80 number\n\0\n\nnumber 4 and 28\n")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split(b"\n")) == 6


def test_another_program_asks_line_by_line_and_ctrl_c_ends_a_wait_for_the_next_one(after):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    heeded = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what a shell starts behind itself ignores Ctrl-C
    process = subprocess.Popen([*FRESH, "run", "micro"], cwd=after.folder, preexec_fn=heeded, **pipes)
    for text in (b"number 3 and 21\n", b"number 4 and 28\n"):
        process.stdin.write(text)
        process.stdin.flush()
        assert process.stdout.readline().strip()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and b"Fatal" not in err, err


def test_ten_megabytes_without_a_line_break_are_refused_at_once_where_the_task_takes_an_input_whole(after):
    done = after.fresh("run", "micro", input=b"number 3 and 21 " * 655_360)
    assert done.returncode == 5
    assert b"the context holds" in done.stderr
    assert b"Traceback" not in done.stderr


def test_ten_megabytes_without_a_line_break_are_cut_into_sentences_by_a_translation(place):
    task = json.dumps({"task": "translation", "source": "en", "target": "de"})
    template = "{{ bos_token }}{{ messages[-1]['content'] }}"
    model = tiny_gguf(place.folder / "m.gguf", chat_template=template, metadata={"metier.task": task})
    started = time.monotonic()
    code = (
        f"{PEAK_MIB}\nimport sys\nfrom metier.cli import main\ntry: main()\n"
        "finally: print(int(peak_mib()), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", str(model)],
        input=b"The cat sat. " * 800_000,
        capture_output=True,
        check=False,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.split()[-1]) < 1500, "MiB"
    assert time.monotonic() - started < 120


def test_examining_on_a_missing_or_empty_file_is_refused(after):
    assert "there is no such file" in after.refused(3, "evaluate", after.folder, "--on", "none.tsv")
    Path("empty.tsv").write_text("")
    assert "is empty" in after.refused(3, "evaluate", after.folder, "--on", "empty.tsv")


def test_files_to_answer_that_are_not_there_are_refused(after):
    assert "none.txt" in after.refused(3, "run", "micro", "--file", "none.txt")
    assert "home" in after.refused(3, "run", "micro", "--file", str(after.home))
