"""Cuts healed by several processes: the losses of one, on with the same bits after a stop, an error told as by one."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from doubles import counted_animals, write_job
from safetensors.torch import load_file
from test_train_processes import assert_nearly_the_same

from metier.artifact import Step, key_of, read_json
from metier.build import _measured, _Trained
from metier.data.records import Record, write_records
from metier.errors import ArtifactError
from metier.spec.job import Job
from metier.spec.load import load_job
from metier.steps import compress, launch
from metier.tasks.prompt import PromptFormat
from metier.train import loop, processes

HERE = "test_steps_healing"
CUTS = ["ff50", "drop1", "drop1-ff50"]
TRAIN = {"budget": "1 steps", "batch_tokens": 600, "max_tokens": 64, "peak_lr": 5e-3, "precision": "float32"}


def job(train=(), **compress):
    return Job.model_validate(
        {
            "name": "animals",
            "task": "text2text",
            "base": {"model": "scratch"},
            "data": {"train": [{"source": "file:none.tsv", "licence": "own"}]},
            "train": TRAIN | dict(train),
            "compress": {"layers": [0, 1], "feed_forward": [1.0, 0.5], "heal": "6 steps"} | compress,
            "release": {"must_beat": []},
        }
    )


@pytest.fixture(scope="module")
def given(trained, tmp_path_factory):
    """What the cuts are made of: rows, the whole model, its prompt."""
    data = tmp_path_factory.mktemp("data")
    write_records(data / "train.jsonl", [Record(*pair) for pair in counted_animals(1400)[:1300]])
    write_records(data / "validation.jsonl", trained.held_out[:40])
    return SimpleNamespace(data=data, whole=trained.folder, prompt=trained.prompt)


def heal(data, whole, prompt, folder, train=(), stop=None):
    """Be one of some processes that make cuts and heal them; stop before a step, counted over all cuts."""
    torch.set_num_threads(1)
    update, make, count = loop.update, compress._Smaller.make, iter(range(10**6))
    folder, made = Path(folder), []

    def update_or_stop(*args):
        if next(count) == stop:
            raise KeyboardInterrupt
        return update(*args)

    def make_and_tell(self, cut):
        made.append(cut.name)
        return make(self, cut)

    loop.update, compress._Smaller.make = update_or_stop, make_and_tell
    folder.mkdir(exist_ok=True)
    with processes.joined():
        try:
            facts = compress.compress_job(job(train), Path(data), Path(whole), PromptFormat.from_json(prompt), folder)
        finally:
            (folder.parent / f"made-{processes.rank()}").write_text(json.dumps(made))
        if processes.is_main():
            (folder.parent / "facts").write_text(json.dumps(facts))


@pytest.fixture(scope="module")
def healing(forks, given):
    """Heals by so many processes in a folder of its own, and returns the exit codes."""

    def by(count, folder, train=(), stop=None):
        asked = (given.data, given.whole, given.prompt.to_json(), folder / "compress", dict(train), stop)
        return forks.run(HERE, "heal", *asked, processes=count)

    return by


@pytest.fixture(scope="module")
def alone(healing, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    assert healing(1, folder) == [0]
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "sharded"])
def together(request, healing, tmp_path_factory):
    """Healed by two processes that were not stopped."""
    folder, shard = tmp_path_factory.mktemp("together"), request.param
    assert healing(2, folder, {"shard": shard}) == [0, 0]
    return SimpleNamespace(folder=folder, shard=shard)


def made(folder):
    """Return the cuts that each process has made."""
    return [json.loads(file.read_text()) for file in sorted(folder.glob("made-*"))]


def weights(folder, cut):
    return load_file(folder / "compress" / cut / "model" / "model.safetensors")


def test_two_processes_heal_with_the_losses_of_one(alone, together):
    folder = together.folder
    assert made(folder) == [CUTS, []], "the first process makes the cuts, and each once"
    one, other = (json.loads((place / "facts").read_text()) for place in (alone, folder))
    assert list(other) == CUTS
    for cut in CUTS:
        assert_nearly_the_same(folder / "compress" / cut, alone / "compress" / cut)
        mine, theirs = (read_json(place / "compress" / cut / "cut.json") for place in (folder, alone))
        assert mine == theirs
        losses = [found[cut].pop("healing")["validation_loss_nats"] for found in (one, other)]
        assert losses[0] == pytest.approx(losses[1], rel=2e-4, abs=1e-4) and losses[1]["6"] < losses[1]["0"]
        after, expected = weights(folder, cut), weights(alone, cut)
        assert after.keys() == expected.keys()
        assert all(torch.allclose(after[name], expected[name], atol=2e-3) for name in expected)
    assert one == other
    assert {path.name for path in (folder / "compress").iterdir()} == {*CUTS, "layers.json"}
    assert {path.name for path in (folder / "compress" / "drop1").iterdir()} == {
        *("model", "cut.json", "facts.json", "plan.json", "steps.jsonl")
    }


def test_two_processes_that_were_stopped_go_on_to_the_same_bits_and_make_no_cut_again(healing, together, tmp_path):
    often = {"shard": together.shard, "checkpoint_seconds": 1e-9}
    assert healing(2, tmp_path, often, 9) == [1, 1]  # in the second cut
    assert made(tmp_path) == [CUTS[:2], []]
    facts = tmp_path / "compress" / CUTS[0] / "facts.json"
    written = facts.stat().st_mtime_ns
    assert healing(2, tmp_path, often) == [0, 0]
    assert made(tmp_path) == [CUTS[2:], []] and facts.stat().st_mtime_ns == written
    for cut in CUTS:
        mine, theirs = weights(tmp_path, cut), weights(together.folder, cut)
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs), cut


def test_what_the_first_process_finds_wrong_is_told_and_done_cuts_start_nothing(given, alone, tmp_path, monkeypatch):
    folder = tmp_path / "compress"
    folder.mkdir()
    (folder / "layers.json").write_text("{")
    asked = ("compress", job(), given.data, given.whole, folder, given.prompt)
    with pytest.raises(ArtifactError, match=r"layers\.json: cannot be read"):  # while the other one waits
        launch.by_processes(2, *asked)
    assert not (folder / "drop1" / "cut").exists() and (folder / "ff50" / "model").is_dir()
    (folder / "layers.json").unlink()
    facts = launch.by_processes(2, *asked)
    assert {path.name for path in folder.iterdir()} == {*CUTS, "layers.json"}
    for cut in CUTS:
        assert_nearly_the_same(folder / cut, alone / "compress" / cut)
    monkeypatch.setattr(launch, "_launch", lambda *_: pytest.fail("started processes again"))
    monkeypatch.setattr(compress, "load", lambda *_, **__: pytest.fail("loaded the model again"))
    assert launch.by_processes(2, *asked) == launch.by_processes(1, *asked) == facts
    shutil.rmtree(folder / "drop1")
    with pytest.raises(pytest.fail.Exception, match="started processes again"):
        launch.by_processes(2, *asked)


def test_a_build_lets_as_many_processes_heal_as_train(trained, tmp_path, monkeypatch):
    class SeenError(Exception):
        pass

    def by_processes(count, step, _job, data, start, folder, prompt):
        raise SeenError(count, step, data.name, start.parent.name, folder.name, prompt)

    monkeypatch.setattr(launch, "by_processes", by_processes)
    described = write_job(tmp_path / "job") / "job.toml"
    described.write_text(described.read_text() + "[compress]\nlayers = [0, 1]\n")
    manifest = {"key": "k", "result": {"prompt": trained.prompt.to_json()}}
    data, prompts, train = (Step(tmp_path / name, manifest) for name in ("data", "prompt", "train"))
    with pytest.raises(SeenError) as seen:
        _measured(load_job(described), tmp_path, _Trained(data, None, prompts, {}, train), 3)
    assert seen.value.args == (3, "compress", "data", "train", "compress", trained.prompt)
    wanted = {"compress": load_job(described).compress.model_dump(exclude={"prefer"}), "train": "k"}
    assert read_json(tmp_path / "compress" / "begun.json")["key"] == key_of(wanted), "no matter how many"


def be_alone(folder):
    """Be one of two processes: the first does something by itself while the other waits."""
    torch.set_num_threads(1)
    with processes.joined():
        told = [processes.world_size()]
        if processes.is_main():
            with processes.alone():
                told += [processes.world_size(), processes.all_reduce_sum(torch.ones(1)).item()]
        processes.barrier()
        told += [processes.world_size(), processes.all_reduce_sum(torch.ones(1)).item(), torch.get_num_threads()]
        (Path(folder) / str(processes.rank())).write_text(json.dumps(told))


def test_what_one_process_does_alone_meets_no_other(forks, tmp_path):
    assert forks.run(HERE, "be_alone", tmp_path, processes=2) == [0, 0]
    told = [json.loads((tmp_path / name).read_text()) for name in "01"]
    assert told == [[2, 1, 1.0, 2, 2.0, 1], [2, 2, 2.0, 1]]


def test_one_process_alone_computes_with_the_threads_of_those_that_wait(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    before = torch.get_num_threads()
    with processes.alone():
        assert torch.get_num_threads() == 3 * before
    assert torch.get_num_threads() == before
