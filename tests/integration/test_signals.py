"""A study that the system ends: in order, without a lease, a Ray process or a half-written file left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from taskpgm_ray.finetune.checkpoint import load_checkpoint
from taskpgm_ray.runtime import scratch
from taskpgm_ray.storage import Storage, Unit
from tests.integration.studies import computed

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
PATIENCE = 60
"""Ray's own daemons look for their parent now and then."""


def of_session(session):
    """Processes of this session that are still there."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(process.name)) == session and "\nState:\tZ" not in (process / "status").read_text():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:120])
        except (ProcessLookupError, FileNotFoundError):
            continue
    return found


def heed():
    """Whoever runs the tests in a shell's background, or under nohup, ignores some signals; a driver shall not."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def temporary(process):
    """The temporary folders of a process."""
    return [*scratch.BASE.glob(f"taskpgm-*-{process}-*")]


@pytest.fixture
def start(tiny_config, tmp_path):
    """Starts a study whose fine-tunes take minutes, and returns when a line of it begins as given."""
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump(tiny_config("runs", finetune={"steps": 20_000, "batch_size": 4})))
    started = []

    def run(until):
        driver = subprocess.Popen(
            [sys.executable, str(ROOT / "jobs" / "optimize.py"), "--config", str(config)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            start_new_session=True,
            preexec_fn=heed,  # noqa: PLW1509  # no thread of this process holds a lock then
        )
        started.append(driver)
        while until not in (line := driver.stdout.readline()):
            assert line, driver.stderr.read()[-3000:]
        return driver

    yield run
    for driver in started:
        driver.kill()
        driver.wait()
    until = time.monotonic() + 20
    while any(of_session(driver.pid) for driver in started) and time.monotonic() < until:
        time.sleep(0.5)


def ended(driver):
    """Processes of a driver that are left after some seconds."""
    until = time.monotonic() + PATIENCE
    while (left := of_session(driver.pid)) and time.monotonic() < until:
        time.sleep(0.5)
    return left


linux = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")


@linux
@pytest.mark.parametrize(
    ("kind", "until", "pause"),
    [
        (signal.SIGTERM, "finetune: ", 5),
        # Ray starts; a lane starts; a lane trains.
        pytest.param(signal.SIGINT, "tasks: ", 1, marks=pytest.mark.faults),
        pytest.param(signal.SIGINT, "finetune: ", 2, marks=pytest.mark.faults),
        pytest.param(signal.SIGHUP, "finetune: ", 25, marks=pytest.mark.faults),
    ],
)
def test_a_signal_ends_a_study_in_order(start, tmp_path, kind, until, pause, cost):
    driver = start(until)
    time.sleep(pause)
    began = time.monotonic()
    driver.send_signal(kind)
    # Ray may have said something before.
    while not (line := driver.stderr.readline()).startswith(f"taskpgm: {kind.name}: stopping"):
        assert line
    assert time.monotonic() - began < 2
    _, said = driver.communicate(timeout=120)
    assert driver.returncode == 128 + kind, said[-3000:]
    assert "Traceback" not in said
    assert "interrupted; finished work is kept" in said
    study = tmp_path / "runs" / "tiny"
    assert not (study / "driver.json").exists()
    assert not list(study.rglob("*.partial"))
    units = [
        Unit(Storage(str(study)), f"adapters/{file.parent.name}") for file in study.glob("adapters/*/metrics.jsonl")
    ]
    assert units or pause < 25
    for unit in units:
        steps = computed(study)[unit.path]
        assert load_checkpoint(unit).state.step == steps[-1], "a step would be repeated"
    assert ended(driver) == []
    assert temporary(driver.pid) == []
    cost(kind.name, f"{pause} s after {until.strip(': ')} began", "nothing")


@linux
@pytest.mark.faults
def test_what_sigkill_leaves_is_gone_with_the_next_start(start, cost):
    driver = start("finetune: ")
    time.sleep(5)
    driver.kill()
    driver.wait()
    assert len(temporary(driver.pid)) == 1
    again = start("finetune: ")
    # Ray starts after the line.
    until = time.monotonic() + PATIENCE
    while temporary(driver.pid) and time.monotonic() < until:
        time.sleep(0.2)
    assert temporary(driver.pid) == []
    assert of_session(driver.pid) == []
    assert again.poll() is None
    cost("SIGKILL of the driver", "fine-tunes", "nothing; the next start removes its temporary folder")


@linux
@pytest.mark.faults
def test_a_second_signal_ends_at_once(start):
    driver = start("finetune: ")
    time.sleep(5)
    driver.send_signal(signal.SIGINT)
    time.sleep(0.3)
    driver.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert driver.wait(20) == 130
    assert time.monotonic() - began < 2
    assert ended(driver) == []
