"""The Ray that a study starts on this machine: nobody outside reaches it."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

PROGRAM = """
import os, re
from pathlib import Path
import ray
from taskpgm_ray.config import ClusterConfig
from taskpgm_ray.runtime.cluster import end_ray, ensure_ray

assert ensure_ray(ClusterConfig(num_cpus=1))


@ray.remote(num_cpus=0)
class Actor:
    def answer(self):
        return 1


actor = Actor.remote()
assert ray.get(actor.answer.remote()) == 1
mine = set()
for process in Path("/proc").glob("[0-9]*"):
    try:
        if os.getsid(int(process.name)) == os.getsid(0):
            mine |= {os.readlink(link) for link in (process / "fd").iterdir()}
    except (ProcessLookupError, FileNotFoundError, PermissionError):
        continue
for table in ("tcp", "tcp6"):
    for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
        fields = line.split()
        # 0A: it listens; the inode says whose it is.
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in mine:
            print("LISTENS", fields[1].partition(":")[0])
end_ray()
"""
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_it_listens_on_loopback_alone():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300, start_new_session=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    listening = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("LISTENS")]
    assert len(listening) >= 3
    assert set(listening) <= LOOPBACK


SILENT = """
import os, sys, time
import ray
from taskpgm_ray.config import ClusterConfig
from taskpgm_ray.runtime.cluster import end_ray, ensure_ray, stop_listening


@ray.remote(num_cpus=0, max_retries=0)
def dies(seconds):
    time.sleep(seconds)
    os._exit(1)


for told in (True, False):
    assert ensure_ray(ClusterConfig(num_cpus=1))
    if not told:
        stop_listening()
    try:
        ray.get(dies.remote(0))
    except ray.exceptions.WorkerCrashedError:
        pass
    time.sleep(3)
    print("END OF", told, flush=True)
    end_ray()
"""


def test_its_own_end_is_no_news():
    done = subprocess.run([sys.executable, "-c", SILENT], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second, rest = done.stdout.replace("END OF True", "END OF").replace("END OF False", "END OF").split("END OF")
    # While a study works, a worker that dies is told; while it ends, its workers die as they should.
    assert "A worker died" in first + done.stderr
    assert "A worker died" not in second + rest
    assert "Token authentication" not in done.stdout + done.stderr
