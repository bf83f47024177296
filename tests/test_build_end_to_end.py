"""From a job description to an answer, in fresh processes; and the same verdict however often a build is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from doubles import write_job

from metier.run.gguf_header import read_header

STEPS = ("data", "start", "prompt", "train", "files", "parity", "exam", "export")

MIDDLES = {
    "data": "data/ledger.json",
    "start": "start/tokenizer_config.json",
    "prompt": "prompt/manifest.json",
    "train": "train/steps.jsonl",
    "files": "files/animals-Q8_0.gguf",
    "parity": "parity/Q8_0.jsonl",
    "exam": "exam/shipped.jsonl",
    "export": "export/README.md",
}
"""A file that each step opens when part of its work is done."""

KILLED = """
import os, signal, sys
import metier.build
from metier.cli import main
from metier.steps import bundle, exam, prompt, run_folder, ship, start, train
import metier.spec.load
run_step, (job, *kills) = run_folder.run_step, sys.argv[1:]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def die_at_the_end_of(step):
    def run_step_or_die(folder, inputs, work, **rest):
        def work_and_die(folder):
            work(folder)
            die()
        return run_step(folder, inputs, work_and_die if folder.name == step else work, **rest)

    run_folder.run_step = run_step_or_die

def die_on_opening(file):
    sys.addaudithook(lambda event, seen: die() if event == "open" and f"/{file}" in str(seen[0]) else None)

for kill in kills:
    input()
    child = os.fork()  # the libraries are loaded once for all
    if child == 0:
        die_on_opening(kill) if "/" in kill else die_at_the_end_of(kill)
        sys.argv = ["metier", "build", job]
        main()
        os._exit(9)
    print(-os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def environment(home):
    return os.environ | {"METIER_HOME": str(home), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def metier(home, *arguments, stdin=None):
    """Run the command line in a fresh process."""
    return subprocess.run(
        [sys.executable, "-m", "metier", *map(str, arguments)],
        env=environment(home),
        capture_output=True,
        text=True,
        input=stdin,
    )


def manifests(run):
    return {step: (run / step / "manifest.json").stat().st_mtime_ns for step in STEPS if finished(run, step)}


def finished(run, step):
    return (run / step / "manifest.json").exists()


MEASURED = ("tokens_per_s", "ram_mib")


def without_measurements(value):
    """A verdict without the memory and the speed, which are measured anew."""
    if isinstance(value, list):
        gates = (item for item in value if not (isinstance(item, dict) and item.get("name") == "memory"))
        return [without_measurements(item) for item in gates]
    if isinstance(value, dict):
        return {key: without_measurements(item) for key, item in value.items() if key not in MEASURED}
    return value


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    job, home = write_job(folder / "job"), folder / "home"
    done = metier(home, "build", job)
    return SimpleNamespace(job=job, home=home, run=home / "runs" / "animals", done=done)


@pytest.fixture
def copy(built, tmp_path):
    """The finished build, to be damaged."""
    shutil.copytree(built.home, tmp_path / "home", copy_function=shutil.copy2)
    return SimpleNamespace(job=built.job, home=tmp_path / "home", run=tmp_path / "home" / "runs" / "animals")


def test_a_build_is_released_and_answers(built):
    assert built.done.returncode == 0, built.done.stderr
    assert "released" in built.done.stdout and "Traceback" not in built.done.stderr
    assert set(manifests(built.run)) == set(STEPS)
    answered = metier(built.home, "run", "animals", "forty-two red foxs")
    assert (answered.returncode, answered.stdout) == (0, "fox red 42\n"), answered.stderr
    for model in (built.run, built.run / "export", built.run / "export" / "animals-Q8_0.gguf"):
        again = metier(built.home, "run", model, stdin="forty-two red foxs\nthirty black hens\n")
        assert again.stdout == "fox red 42\nhen black 30\n", again.stderr


def test_a_mixture_of_experts_is_built_and_answers_in_a_fresh_process(tmp_path):
    job, home = write_job(tmp_path / "job", base='architecture = "moe"\nexperts = 4'), tmp_path / "home"
    done = metier(home, "build", job)
    assert done.returncode == 0, done.stderr
    answered = metier(home, "run", "animals", "forty-two red foxs")
    assert (answered.returncode, answered.stdout) == (0, "fox red 42\n"), answered.stderr
    export = home / "runs" / "animals" / "export"
    assert read_header(export / "animals-Q8_0.gguf").metadata["general.architecture"] == "qwen3moe"
    assert json.loads((export / "huggingface" / "config.json").read_text())["model_type"] == "qwen3_moe"
    swept = json.loads((export / "sweep.json").read_text())
    assert swept["walks"]["whole"]["passed"] and swept["candidates"]["Q8_0"]["passed"]


def test_a_build_without_a_file_is_examined_and_not_released(tmp_path):
    job, home = write_job(tmp_path / "job", quantisations=""), tmp_path / "home"
    done = metier(home, "build", job, "--json")
    assert done.returncode == 1, done.stderr
    verdict = json.loads(done.stdout)
    wanted = "parity: wanted a file that answers like the checkpoint, found no file: export.quantisations is empty"
    assert wanted in verdict["reasons"]
    assert verdict["scores"][0]["name"] == "checkpoint" and verdict["scores"][0]["scores"][0]["value"] > 80
    export = home / "runs" / "animals" / "export"
    assert {file.name for file in export.iterdir()} >= {"huggingface", "README.md", "verdict.json", "SHA256SUMS"}
    assert not list(export.parent.rglob("*.gguf")) and not (export / "Modelfile").exists()
    asked = metier(home, "run", "animals", "forty-two red foxs")
    assert asked.returncode == 4 and "built without a GGUF file" in asked.stderr
    again = metier(home, "evaluate", job, "--on", job / "pairs.tsv", "--rows", "20", "--json")
    assert again.returncode == 0 and "checkpoint" in again.stdout, again.stderr


def test_recorded_systems_sit_the_same_exam(copy, tmp_path):
    rows = [line.split("\t") for line in (copy.job / "pairs.tsv").read_text().splitlines()]
    (tmp_path / "asked").write_text("".join(f"{asked}\n" for asked, _ in rows))
    (tmp_path / "wanted").write_text("".join(f"{wanted}\n" for _, wanted in rows))
    (tmp_path / "oracle.txt").write_text("".join(f"{wanted}\n" for _, wanted in rows))
    (tmp_path / "silent.txt").write_text("\n" * len(rows))
    exam = ["evaluate", copy.job, "--on", f"{tmp_path / 'asked'},{tmp_path / 'wanted'}", "--rows", "30"]
    others = ["--against", tmp_path / "oracle.txt", "--against", tmp_path / "silent.txt"]
    done = metier(copy.home, *exam, *others, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    scores = {one["name"]: one["scores"][0] for one in found["contestants"]}
    assert list(scores) == ["animals-Q8_0", "oracle", "silent"]
    assert (scores["oracle"]["value"], scores["silent"]["value"], scores["silent"]["n"]) == (100, 0, 30)
    ours = scores["animals-Q8_0"]["value"]
    assert found["comparisons"]["silent"]["difference"] == pytest.approx(ours)
    assert found["comparisons"]["oracle"]["difference"] == pytest.approx(ours - 100)
    shown = metier(copy.home, *exam, *others)
    assert "difference to silent: chrf2 +" in shown.stdout
    (tmp_path / "silent.txt").write_text("\n" * (len(rows) - 1))
    refused = metier(copy.home, *exam, *others)
    assert refused.returncode == 3 and f"{len(rows) - 1} answers to {len(rows)} rows" in refused.stderr


def test_what_is_passed_on_is_complete_and_has_its_checksums(built):
    export = built.run / "export"
    names = {file.name for file in export.iterdir()}
    assert names >= {"animals-Q8_0.gguf", "huggingface", "Modelfile", "README.md", "ledger.json", "verdict.json"}
    checked = subprocess.run(["sha256sum", "-c", "--strict", "--quiet", "SHA256SUMS"], cwd=export, capture_output=True)
    assert checked.returncode == 0, checked.stdout
    assert not list(built.run.rglob("*.part")) and not list(built.run.rglob("begun.json"))


def test_a_second_build_repeats_nothing(built):
    before = manifests(built.run)
    again = metier(built.home, "build", built.job, "--json")
    assert again.returncode == 0
    assert json.loads(again.stdout)["released"] is True
    assert [line for line in again.stderr.splitlines() if line.endswith("already finished")] == [
        f"{step}: already finished" for step in STEPS
    ]
    assert manifests(built.run) == before


@pytest.mark.parametrize("kills", [STEPS, tuple(MIDDLES.values())], ids=["at the end", "in the middle"])
def test_a_build_killed_in_every_step_comes_to_the_same_verdict(built, tmp_path, kills):
    run = tmp_path / "runs" / "animals"
    before: dict[str, int] = {}
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(built.job), *kills],
        env=environment(tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as builds:
        for number, step in enumerate(STEPS):
            builds.stdin.write("next\n")
            builds.stdin.flush()
            assert builds.stdout.readline() == f"{signal.SIGKILL:d}\n", builds.stderr.read()
            found = manifests(run)
            assert list(found) == list(STEPS[:number]), step
            assert before.items() <= found.items(), "a finished step was repeated"
            before = found
    ended = metier(tmp_path, "build", built.job)
    assert ended.returncode == 0, ended.stderr
    assert before.items() <= manifests(run).items()
    assert_same_outcome(built.run, run)


def assert_same_outcome(one, other):
    verdicts = [json.loads((run / "export" / "verdict.json").read_text()) for run in (one, other)]
    assert without_measurements(verdicts[0]) == without_measurements(verdicts[1])
    file = Path("export") / "animals-Q8_0.gguf"
    assert (one / file).read_bytes() == (other / file).read_bytes()


def test_another_budget_repeats_the_training_and_what_comes_after(copy):
    before = manifests(copy.run)
    job = copy.job / "shorter.toml"
    job.write_text((copy.job / "job.toml").read_text().replace("120 steps", "100 steps"))
    done = metier(copy.home, "build", job)
    assert done.returncode in (0, 1), done.stderr
    after = manifests(copy.run)
    assert [step for step in STEPS if after[step] == before[step]] == ["data", "start", "prompt"]


def test_what_is_done_to_the_folder_that_is_passed_on_does_nothing_to_the_run(copy):
    in_run = {path.stat().st_ino for step in STEPS if step != "export" for path in (copy.run / step).rglob("*")}
    exported = [path for path in (copy.run / "export").rglob("*") if path.is_file()]
    assert exported and not in_run & {path.stat().st_ino for path in exported}


@pytest.mark.parametrize("damaged", ["files/animals-Q8_0.gguf", "export/README.md"])
def test_a_damaged_file_is_made_again(built, copy, damaged):
    before = manifests(copy.run)
    file = copy.run / damaged
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    done = metier(copy.home, "build", copy.job)
    assert done.returncode == 0, done.stderr
    assert file.read_bytes() == data
    after = manifests(copy.run)
    assert [step for step in STEPS if after[step] != before[step]] == [damaged.partition("/")[0]]
    assert_same_outcome(built.run, copy.run)


def test_what_packages_say_of_their_licences_is_passed_on_with_the_model(copy):
    paper = Path("licences") / "words_1.0.txt"
    (copy.run / "data" / paper).parent.mkdir()
    (copy.run / "data" / paper).write_text("Copyright: the authors of the words")
    shutil.rmtree(copy.run / "export")
    done = metier(copy.home, "build", copy.job)
    assert done.returncode == 0, done.stderr
    assert (copy.run / "export" / paper).read_text() == "Copyright: the authors of the words"
    assert f"  {paper}\n" in (copy.run / "export" / "SHA256SUMS").read_text()


def test_a_run_folder_of_another_version_is_refused_and_left_alone(copy):
    path = copy.run / "train" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    done = metier(copy.home, "build", copy.job)
    assert done.returncode == 4
    assert "format 99" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert json.loads(path.read_text())["format"] == 99


CUT = """
[compress]
layers = [0, 1]
heal = "20 steps"
"""


def test_a_cut_model_ships_where_it_passes_and_the_table_is_made_without_the_exam(tmp_path):
    job, home = write_job(tmp_path / "job", budget="60 steps"), tmp_path / "home"
    text = (job / "job.toml").read_text().replace("parity_margin = 5.0", "parity_margin = 99.0")
    (job / "job.toml").write_text(text + CUT)
    run = home / "runs" / "animals"
    shown = metier(home, "compress", job, "--json")
    assert shown.returncode == 0, shown.stderr
    found = json.loads(shown.stdout)
    assert set(found["candidates"]) == {"Q8_0", "drop1-Q8_0"} and found["chosen"] == "drop1-Q8_0"
    assert not (run / "exam").exists()
    done = metier(home, "build", job)
    assert done.returncode == 0, done.stderr
    steps = [line for line in done.stderr.splitlines() if line.endswith("already finished")]
    assert steps == [f"{step}: already finished" for step in (*STEPS[:4], "compress", *STEPS[4:6])]
    export = run / "export"
    assert json.loads((export / "huggingface" / "config.json").read_text())["num_hidden_layers"] == 1
    assert read_header(export / "animals-drop1-Q8_0.gguf").metadata["qwen3.block_count"] == 1
    assert "layers dropped (from 0)" in (export / "README.md").read_text()
    assert (export / "sweep.svg").read_bytes() == (run / "sweep.svg").read_bytes() != b""
    assert json.loads((export / "sweep.json").read_text()) == found
