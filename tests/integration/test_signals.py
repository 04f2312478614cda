"""A study that the system ends: in order, without a lease, a Ray process or a half-written file left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]


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


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_sigterm_while_a_lane_trains(tiny_config, tmp_path):
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump(tiny_config("runs", finetune={"steps": 2000, "batch_size": 4})))
    driver = subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / "optimize.py"), "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
    )
    while "finetune: " not in (line := driver.stdout.readline()):
        assert line, driver.stderr.read()[-3000:]
    time.sleep(5)
    began = time.monotonic()
    driver.send_signal(signal.SIGTERM)
    # Ray may have said something before.
    while not (line := driver.stderr.readline()).startswith("taskpgm: SIGTERM: stopping"):
        assert line
    assert time.monotonic() - began < 2
    _, said = driver.communicate(timeout=120)
    assert driver.returncode == 143, said[-3000:]
    assert "Traceback" not in said
    assert "interrupted; finished work is kept" in said
    study = tmp_path / "runs" / "tiny"
    assert not (study / "driver.json").exists()
    assert not list(study.rglob("*.partial"))
    until = time.monotonic() + 20
    while (left := of_session(driver.pid)) and time.monotonic() < until:
        time.sleep(0.5)
    assert left == []
