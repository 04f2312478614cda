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
