"""Scratch folders: deleted after use, after an error, and after a process that was killed; never while in use."""

import subprocess
import sys

import pytest

from metier.data.scratch_folders import scratch_folder

HOLDER = """
import sys, time
from pathlib import Path
from metier.data.scratch_folders import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("written")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_a_scratch_folder_is_gone_after_use_and_after_an_error(tmp_path):
    with scratch_folder(tmp_path) as folder:
        (folder / "below").mkdir()
        (folder / "below" / "file").write_text("text")
    with pytest.raises(KeyError), scratch_folder(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next_folder_and_what_is_in_use_stays(tmp_path):
    other = tmp_path / ".partly"
    other.mkdir()
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        left = tmp_path / holder.stdout.readline().strip()
        try:
            with scratch_folder(tmp_path) as outer, scratch_folder(tmp_path) as inner:
                assert all(folder.is_dir() for folder in (outer, inner))
                assert (left / "half").read_text() == "written"
        finally:
            holder.kill()
    assert (left / "half").exists()
    with scratch_folder(tmp_path):
        assert not left.exists()
    assert list(tmp_path.iterdir()) == [other]


def test_a_folder_without_a_lock_is_nobodys(tmp_path):
    (tmp_path / ".part-of-old").mkdir()
    (tmp_path / ".part-file").write_text("a file is none of them")
    with scratch_folder(tmp_path):
        assert not (tmp_path / ".part-of-old").exists()
    assert [path.name for path in tmp_path.iterdir()] == [".part-file"]
