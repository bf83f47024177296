"""The folder that a training works in: what is done stays done whenever a kill comes; room is asked for once."""

import errno
import gc
import shutil
import signal
import weakref
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from metier.artifact import flush, read_json
from metier.errors import RunError
from metier.spec.training import Lora, Pretrain, Train
from metier.steps import training_folder
from metier.steps.training_folder import check_disk, train_once, write_whole

FACTS = {"steps": 3, "curve": [{"loss_nats": 0.1}]}


def begun(folder):
    """Leave what an unfinished training leaves, half written files among it."""
    for name in ("step-00000001", "step-00000002", "step-00000003.part"):
        (folder / name).mkdir(parents=True)
        (folder / name / "weights").write_text("weights")
    for name in ("best.safetensors", "best.safetensors.part", "plan.jsonx7.part", "plan.json", "steps.jsonl"):
        (folder / name).write_text("x")
    return folder


def write(part):
    part.mkdir()
    for name in ("a", "b"):
        (part / name).write_text(name)


def finish(folder):
    """End a training, in a process of its own."""
    train_once(Path(folder), lambda: (FACTS, write))


def test_at_every_moment_either_the_checkpoints_are_there_or_the_result_is(forks, tmp_path):
    codes = []
    for moment in range(100):
        folder = begun(tmp_path / str(moment))
        codes += forks.run("test_steps_training_folder", "finish", folder, kill_at=moment)
        if codes[-1] == 0:
            break
        if training_folder.is_done(folder):
            assert read_json(folder / "facts.json") == FACTS
            assert {file.name: file.read_text() for file in (folder / "model").iterdir()} == {"a": "a", "b": "b"}
            assert train_once(folder, lambda: pytest.fail("trained again")) == FACTS
        else:
            assert (folder / "step-00000002" / "weights").exists() and (folder / "best.safetensors").exists()
            assert train_once(folder, lambda: (FACTS, write)) == FACTS
        assert {path.name for path in folder.iterdir()} == {"model", "facts.json", "plan.json", "steps.jsonl"}
    assert codes == [-signal.SIGKILL] * moment + [0] and moment > 8


def test_the_model_of_a_training_is_freed_when_it_is_written(tmp_path):
    class Model:
        def __init__(self):
            self.owned = self

    left = []

    def learn():
        left.append(weakref.ref(model := Model()))
        return FACTS, partial(lambda _, part: write(part), model)

    gc.disable()
    train_once(tmp_path, learn)
    gc.enable()
    assert left[0]() is None


def test_a_result_that_cannot_be_written_leaves_the_checkpoints(tmp_path):
    def full(_):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        train_once(begun(tmp_path), lambda: (FACTS, full))
    assert (tmp_path / "step-00000002").exists() and not training_folder.is_done(tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("unable to mmap 538090408 bytes from file <model.safetensors>: Cannot allocate memory (12)"),
    ],
)
def test_a_training_without_memory_says_what_takes_less(tmp_path, error):
    def starved():
        raise error

    with pytest.raises(
        RunError, match=r"no memory left.*micro_batch_tokens.*activation_checkpoint.*shard.*lora"
    ) as told:
        train_once(tmp_path, starved)
    assert "\n" not in str(told.value) and str(tmp_path) in str(told.value)


def test_another_error_of_a_training_is_left_as_it_is(tmp_path):
    def broken():
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        train_once(tmp_path, broken)


def test_facts_without_a_model_are_not_taken_for_a_training_that_is_done(tmp_path):
    train_once(tmp_path, lambda: (FACTS, write))
    shutil.rmtree(tmp_path / "model")
    assert train_once(tmp_path, lambda: (FACTS | {"steps": 4}, write))["steps"] == 4


def test_a_folder_has_its_name_only_when_its_files_are_on_the_disk(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(
        training_folder, "flush", lambda path: flushed.append((path.name, (tmp_path / "model").exists()))
    )
    write_whole(tmp_path / "model", write)
    assert sorted(flushed) == [("a", False), ("b", False)]
    flush(tmp_path / "model" / "a")


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A model of 1 MiB, and a disk with room for as many as are asked for."""
    start, folder = tmp_path / "start", tmp_path / "train"
    start.mkdir()
    folder.mkdir()
    matrix = torch.zeros(512, 256)
    save_file(
        {"model.embed_tokens.weight": matrix, "model.layers.0.self_attn.q_proj.weight": matrix.clone()},
        start / "model.safetensors",
    )
    (start / "config.json").write_text("{}")

    def of(mib):
        monkeypatch.setattr(training_folder.shutil, "disk_usage", lambda _: SimpleNamespace(free=mib * 2**20))
        return folder, start

    return of


@pytest.mark.parametrize(
    ("settings", "models", "needed"),
    [
        (Train(), 0, 10),  # weights and two moments three times, and the best weights
        (Train(), 2, 12),
        (Pretrain(), 0, 10),
        (Train(optimizer="adafactor"), 0, 4),
        (Train(lora=Lora()), 0, 1),  # the result, and a little
        (Train(lora=Lora(also=["embedding"])), 0, 5),  # half of the weights learn
    ],
)
def test_a_disk_without_room_for_what_a_training_writes_is_refused(disk, settings, models, needed):
    with pytest.raises(
        RunError, match=rf"{needed - 1} MiB free, training needs about {needed} MiB for its checkpoints"
    ):
        check_disk(*disk(needed - 1), settings, models=models)
    check_disk(*disk(needed + 1), settings, models=models)


def test_what_a_training_has_written_already_needs_no_more_room(disk):
    folder, start = disk(4)
    (folder / "step-00000001").mkdir()
    (folder / "step-00000001" / "weights").write_bytes(bytes(3 * 2**20))
    with pytest.raises(RunError, match=r"4 MiB free, training needs about 7 MiB"):
        check_disk(folder, start, Train())
    (folder / "best.safetensors").write_bytes(bytes(3 * 2**20))
    check_disk(folder, start, Train())
