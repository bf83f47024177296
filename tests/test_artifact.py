"""Steps are done once, and nothing that took long is cleared away because something changed."""

import fcntl
import os
import shutil
import time

import pytest

from metier import artifact
from metier.artifact import flush, key_of, read_json, run_step, write_json
from metier.errors import ArtifactError


@pytest.fixture
def step(tmp_path, monkeypatch):
    """Do a step that writes what it is given, in any time counted as long; tell what was done and said."""
    monkeypatch.setattr(artifact, "LONG_S", 0)

    class Doing:
        folder = tmp_path / "train"

        def __init__(self):
            self.done, self.said = [], []

        def __call__(self, text, fail=False, **inputs):
            def work(folder):
                self.done.append(text)
                (folder / "model").write_text(text)
                if fail:
                    raise KeyboardInterrupt

            run_step(self.folder, {"text": text, **inputs}, work, aside=True)
            return (self.folder / "model").read_text()

        @property
        def old(self):
            return (self.folder.with_name("train.old") / "model").read_text()

    doing = Doing()
    monkeypatch.setattr(artifact, "say", doing.said.append)
    return doing


def test_long_work_is_put_aside_when_its_inputs_change_and_taken_back_with_them(step):
    assert step("one", train={"budget": "1h", "rate": 1}) == "one"
    assert step("two", train={"budget": "2h", "rate": 1}) == "two"
    assert step.old == "one" and "changed: text, train.budget;" in step.said[0]
    assert step("one", train={"budget": "1h", "rate": 1}) == "one"
    assert step.old == "two" and step.done == ["one", "two"]
    assert step("three") == "three" and step.old == "one"
    assert sorted(one.name for one in step.folder.parent.iterdir()) == ["train", "train.old"]


def test_short_work_is_cleared_away_without_a_word(step, monkeypatch):
    monkeypatch.setattr(artifact, "LONG_S", 60)
    step("one")
    step("two")
    assert [one.name for one in step.folder.parent.iterdir()] == ["train"] and not step.said


def test_work_that_was_stopped_is_as_long_as_all_its_sessions_together(step, monkeypatch):
    monkeypatch.setattr(artifact, "LONG_S", 100)
    for finished in (False, True):
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                step("one", fail=True, finished=finished)
            worked(step.folder, seconds=60)
        if finished:
            step("one", finished=finished, fail=False)
            assert read_json(step.folder / "manifest.json")["seconds"] == pytest.approx(120, abs=10)
        step("two", finished=finished)
        assert step.old == "one"
        shutil.rmtree(step.folder)
        shutil.rmtree(step.folder.with_name("train.old"))


def test_the_time_between_two_sessions_is_no_work(step, monkeypatch):
    monkeypatch.setattr(artifact, "LONG_S", 100)
    with pytest.raises(KeyboardInterrupt):
        step("one", fail=True)
    worked(step.folder, seconds=20, ago=5000)
    step("one")
    step("two")
    assert [one.name for one in step.folder.parent.iterdir()] == ["train"] and not step.said


def worked(folder, seconds, ago=0):
    """Make it look as if the last session in a folder had worked so long, and ended so long ago."""
    ended = time.time() - ago
    for file in folder.iterdir():
        at = ended - seconds if file.name == "begun.json" else ended
        os.utime(file, (at, at))


def test_a_damaged_result_is_put_aside_and_not_taken_back(step):
    step("one")
    (step.folder / "model").write_text("edited")
    assert step("one") == "one" and step.old == "edited" and step.done == ["one", "one"]
    assert "its files were changed" in step.said[0]
    assert step("two") == "two" and step("one") == "one"
    assert step.done == ["one", "one", "two"]


def test_work_that_was_stopped_goes_on_where_it_was_put_aside(step):
    with pytest.raises(KeyboardInterrupt):
        step("one", fail=True)
    step("two")
    (step.folder.with_name("train.old") / "step-1").write_text("a checkpoint")
    assert step("one") == "one" and (step.folder / "step-1").read_text() == "a checkpoint"
    assert step.old == "two"


def test_what_is_finished_is_not_replaced_by_what_is_not(step):
    step("one")
    with pytest.raises(KeyboardInterrupt):
        step("two", fail=True)
    step("three")
    assert step.old == "one"


@pytest.mark.parametrize("before", [True, False])
def test_a_kill_while_folders_change_places_loses_neither(step, before):
    step("one")
    step("two")
    old, back = (step.folder.with_name(f"train.{end}") for end in ("old", "back"))
    old.rename(back)
    if not before:
        step.folder.rename(old)
    assert step("one") == "one" and step.old == "two" and step.done == ["one", "two"]


def test_files_half_written_are_gone_when_work_goes_on(step):
    with pytest.raises(KeyboardInterrupt):
        step("one", fail=True)
    (step.folder / "step-1.part").mkdir()
    (step.folder / "step-1.part" / "weights").write_text("half")
    (step.folder / "facts.json123.part").write_text("half")
    (step.folder / "step-0").write_text("whole")
    step("one")
    assert sorted(file.name for file in step.folder.iterdir()) == ["manifest.json", "model", "step-0"]


def test_what_was_put_aside_in_another_layout_is_left_where_it_is(step):
    step("one")
    step("two")
    manifest = step.folder.with_name("train.old") / "manifest.json"
    write_json(manifest, {**read_json(manifest), "format": 99})
    assert step("two") == "two" and step.old == "one"


def test_a_file_that_cannot_be_read_says_what_to_do(tmp_path):
    with pytest.raises(ArtifactError, match=r"no_such\.json: cannot be read"):
        read_json(tmp_path / "no_such.json")
    with pytest.raises(ArtifactError, match="Start again"):
        read_json(tmp_path / "no_such.json", "Start again")


def test_a_folder_of_the_users_own_choice_has_no_business_with_its_neighbours(tmp_path, monkeypatch):
    monkeypatch.setattr(artifact, "LONG_S", 0)
    for end in ("old", "back"):
        (tmp_path / f"model.{end}").mkdir()
        (tmp_path / f"model.{end}" / "precious").write_text(end)
    for turn in range(2):
        run_step(tmp_path / "model", {"turn": turn}, lambda folder: (folder / "weights").write_text("new"))
        run_step(tmp_path / "model", {"turn": turn}, lambda _: pytest.fail("done already"))
    assert {path.name for path in tmp_path.iterdir()} == {"model", "model.old", "model.back"}
    assert [(tmp_path / f"model.{end}" / "precious").read_text() for end in ("old", "back")] == ["old", "back"]


def test_half_a_character_has_a_key_and_is_written_as_json(tmp_path):
    assert key_of("\ud83d") != key_of("\ud83e")
    write_json(tmp_path / "a.json", {"name": "\ud83d"})
    assert read_json(tmp_path / "a.json") == {"name": "\ud83d"}


def test_what_is_flushed_is_opened_for_writing_as_windows_wants_it_unless_it_may_not_be(tmp_path, monkeypatch):
    file, modes = tmp_path / "weights", []
    file.write_text("whole")
    monkeypatch.setattr(os, "fsync", lambda opened: modes.append(fcntl.fcntl(opened, fcntl.F_GETFL) & os.O_ACCMODE))
    flush(file)
    monkeypatch.setattr(os, "access", lambda *_: False)
    flush(file)
    assert modes == [os.O_RDWR, os.O_RDONLY] and file.read_text() == "whole"
