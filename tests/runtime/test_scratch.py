"""Temporary folders go with their process."""

import subprocess
import sys

import pytest

from taskpgm_ray.runtime import scratch


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "BASE", tmp_path)
    return tmp_path


def test_a_folder_of_a_killed_process_is_removed_by_the_next_and_no_other(base):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    abandoned = base / f"taskpgm-ray-{dead.pid}-0a1b2c"
    (abandoned / "session_1" / "logs").mkdir(parents=True)
    mine = scratch.new_folder("lane")
    mine.mkdir()
    others = [base / name for name in ("taskpgm-cache", f"other-ray-{dead.pid}-0a1b2c", "taskpgm-hashes-0")]
    for folder in others:
        folder.mkdir()
    scratch.remove_abandoned()
    assert sorted(base.iterdir()) == sorted([mine, *others])
    scratch.remove(mine)
    assert not mine.exists()


def test_a_process_that_outlives_its_folder_is_ended(base, monkeypatch):
    monkeypatch.setattr(scratch, "GONE_SECONDS", 0.3)
    folder = scratch.new_folder("ray")
    folder.mkdir()
    line = [sys.executable, "-c", "import time; time.sleep(100)"]
    with scratch.marked(folder):
        hung = subprocess.Popen(line)
    other = subprocess.Popen(line)
    scratch.remove(folder)
    assert not scratch.psutil.pid_exists(hung.pid)
    assert other.poll() is None
    other.kill()
    other.wait()
    assert not folder.exists()


def test_a_temporary_folder_ends_with_its_body(base):
    def fail():
        with scratch.temporary("lane") as folder:
            (folder / "file").write_text("")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(base.iterdir()) == []
