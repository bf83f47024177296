"""A build whose training is shared by processes: one result, one error message, and nobody left behind."""

import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from doubles import write_job
from typer.testing import CliRunner

from metier.artifact import load_step, write_json
from metier.cli import NOT_GOOD_ENOUGH, app
from metier.errors import RunError
from metier.spec.load import load_job
from metier.steps import launch
from metier.steps.launch import by_processes
from metier.steps.run_folder import building
from metier.tasks.prompt import PromptFormat


def start(home, job):
    return subprocess.Popen(
        [sys.executable, "-m", "metier", "build", str(job), "--nproc", "2"],
        env=os.environ | {"METIER_HOME": str(home), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def variant(job, name, **keys):
    """Write the job with other keys in the table [train]."""
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
    text = (job / "job.toml").read_text().replace('budget = "30 steps"\n', "").replace("[train]\n", f"[train]\n{lines}")
    (job / name).write_text(text)
    return job / name


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    job = write_job(folder / "job", budget="30 steps", quantisations="")
    process = start(folder / "home", job)
    out, said = process.communicate()
    home, kept = folder / "home", folder / "kept"
    shutil.copytree(home, kept)  # tests build on in the other
    return SimpleNamespace(
        job=job, home=home, run=home / "runs/animals", kept=kept, code=process.returncode, out=out, said=said
    )


def steps(folder):
    path = folder / "steps.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_build_by_two_processes_learns_what_one_does(built, tmp_path):
    assert built.code == 1 and "not released" in built.out, built.said  # there is no file to release
    assert built.said.count("validation loss after 30 steps") == 1, "only the first process talks"
    assert "Warning" not in built.said and "Traceback" not in built.said
    assert {path.name for path in (built.run / "train").iterdir()} == {
        *("manifest.json", "facts.json", "plan.json", "steps.jsonl", "model")
    }
    prompt = PromptFormat.from_json(load_step(built.run / "prompt").result["prompt"])
    alone = tmp_path / "train"
    alone.mkdir()
    facts = by_processes(1, "train", load_job(built.job), built.run / "data", built.run / "start", alone, prompt)
    theirs = load_step(built.run / "train").result
    assert theirs["tokens"] == facts["tokens"] and theirs["examples"] == facts["examples"]
    for one, other in zip(steps(built.run / "train"), steps(alone), strict=True):
        assert one["loss_nats"] == pytest.approx(other["loss_nats"], rel=1e-2)


def test_what_an_accelerator_keeps_is_given_back_before_processes_are_started(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: done.append("freed"))
    monkeypatch.setattr(launch, "elastic_launch", lambda *_: lambda *_: done.append("started"))
    launch._launch(2, tmp_path)
    assert done == ["freed", "started"]


def take_part_and_look(folder, of_a_build):
    """Be the first process, and tell whether a build could begin while it works."""

    def work(*_):
        try:
            with building(folder.parent):
                (folder / "free").touch()
        except RunError:
            (folder / "held").touch()

    folder = Path(folder)
    launch._work = work
    launch.take_part(folder, of_a_build=of_a_build)


@pytest.mark.parametrize("of_a_build", [False, True])
def test_processes_that_no_build_started_hold_the_run_folder(built, forks, tmp_path, of_a_build):
    folder = tmp_path / "run" / "train"
    folder.mkdir(parents=True)
    request = {"job": load_job(built.job).model_dump(mode="json", exclude_unset=True)}
    write_json(folder / "request.json", request | {"step": "pretrain", "data": "", "start": "", "prompt": None})
    assert forks.run("test_steps_launch", "take_part_and_look", str(folder), of_a_build, processes=1) == [0]
    assert (folder / ("free" if of_a_build else "held")).exists()
    with building(folder.parent):
        assert forks.run("test_steps_launch", "take_part_and_look", str(folder), False, processes=1) == [1]


def test_a_process_of_torchrun_sets_threads_up_before_torch_is_loaded(monkeypatch):
    found = []

    class Imported:
        OF_A_BUILD = launch.OF_A_BUILD

        @property
        def take_part(self):
            found.append(os.environ.get("GOMP_SPINCOUNT"))
            return lambda *_, **how: found.append(how)

    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["rank", "folder"])
    monkeypatch.setitem(sys.modules, "metier.steps.launch", Imported())
    runpy.run_module("metier.steps.rank", run_name="__main__")
    assert found == ["2000", {"of_a_build": False}]


def test_a_sweep_is_told_how_many_processes_train(built, monkeypatch):
    told, nothing = [], {"candidates": {}, "chosen": None}
    monkeypatch.setattr("metier.build.sweep", lambda job, run, nproc: told.append(nproc) or nothing)
    done = CliRunner().invoke(app, ["compress", str(built.job), "--nproc", "3"])
    assert told == [3] and done.exit_code == NOT_GOOD_ENOUGH, done.output


def test_what_a_process_finds_wrong_is_told_as_if_there_were_one(built):
    process = start(built.home, variant(built.job, "short.toml", budget="0.01s"))
    _, said = process.communicate()
    assert process.returncode == 2, said
    assert said.splitlines()[-1].startswith("error: train.budget: 0.01s has no room for a step of")
    assert "Traceback" not in said


@pytest.mark.timeout(400)
@pytest.mark.parametrize("how", ["one of them is killed", "Ctrl-C", "the launcher is killed"])
def test_processes_end_together_and_the_same_command_goes_on(built, how):
    job = variant(built.job, "long.toml", budget="100000 steps", checkpoint_seconds=0.01)
    folder = built.run / "train"
    begun_before = bool(list(folder.glob("step-????????")))
    # a shell that runs the tests in the background lets them ignore Ctrl-C
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = start(built.home, job)
    signal.signal(signal.SIGINT, heard)
    before = len(steps(folder)) if begun_before else 0
    wait_until(lambda: (folder / "begun.json").exists() and len(steps(folder)) > before + 3)
    ranks = processes_of(process.pid)
    assert sorted(ranks) == [0, 1]
    if how == "one of them is killed":
        os.kill(ranks[1], signal.SIGKILL)
        code, last = 5, "error: process 1 of the training: was killed by SIGKILL."
    elif how == "Ctrl-C":
        process.send_signal(signal.SIGINT)
        code, last = 130, "stopped; run the same command to go on"
    else:
        process.kill()
        code, last = -signal.SIGKILL, ""
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert last in said.splitlines()[-1] and "Traceback" not in said
    assert ("going on after step" in said) == begun_before
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ranks.values()))


@pytest.mark.timeout(400)
def test_a_torchrun_on_each_machine_ends_what_a_build_began_with_the_bits_of_a_build(built, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(built.kept, home)
    run, whole = home / "runs/animals", built.kept / "runs/animals/train"
    folder = run / "train"
    for step in ("train", "files", "parity", "exam", "export"):
        shutil.rmtree(run / step, ignore_errors=True)
    text = (built.job / "job.toml").read_text()
    (built.job / "nodes.toml").write_text(text.replace("[train]\n", "[train]\ncheckpoint_seconds = 0.01\n"))
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = start(home, built.job / "nodes.toml")
    signal.signal(signal.SIGINT, heard)
    wait_until(lambda: list(folder.glob("step-????????")))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert json.loads((folder / "request.json").read_text())["step"] == "train"

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("torchrun"), "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--local-addr", "localhost"]
    own = {"METIER_HOME": str(home), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    agents = [
        subprocess.Popen(
            [*command, "-m", "metier.steps.rank", folder],
            env=os.environ | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    told = [agent.communicate(timeout=240)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], told
    assert sum("going on after step" in one for one in told) == 1 and "threads" not in "".join(told), told
    process = start(home, built.job / "nodes.toml")
    _, said = process.communicate(timeout=240)
    assert process.returncode == 1 and "validation loss" not in said, said
    assert not (folder / "request.json").exists()
    assert load_step(folder).key == load_step(whole).key
    assert [one["loss_nats"] for one in steps(folder)] == [one["loss_nats"] for one in steps(whole)]
    mine, theirs = (place / "model/model.safetensors" for place in (folder, whole))
    assert mine.read_bytes() == theirs.read_bytes()


def processes_of(launcher):
    """Return the processes a launcher has started, by their number."""
    found = {}
    for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        found |= {int(line[5:]): int(pid) for line in environment if line.startswith(b"RANK=")}
    return found


def wait_until(true):
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
