"""Ray's own autoscaler on one machine: nodes come while jobs wait, and go when none is left."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import yaml

pytestmark = [pytest.mark.integration, pytest.mark.faults]
ROOT = Path(__file__).parents[2]
# What Ray calls the head of its fake nodes.
HEAD_ID, HEAD_TYPE = "f" * 51 + "00000", "ray.head.default"
PATIENCE = 400


@pytest.fixture(scope="module")
def autoscaling(tmp_path_factory):
    """(address, environment, folder) of a head without CPUs; up to two workers of one CPU come on demand."""
    folder = tmp_path_factory.mktemp("autoscaling")
    (folder / "token").write_text("0123456789abcdef" * 4)
    nothing = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    cluster = {
        "cluster_name": "elastic",
        "max_workers": 2,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.2,
        "provider": {
            "type": "fake_multinode",
            "head_node_id": HEAD_ID,
            "disable_node_updaters": True,
            "use_node_id_as_ip": True,
        },
        "auth": {"ssh_user": "root"},
        "head_node_type": HEAD_TYPE,
        "available_node_types": {
            HEAD_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "cluster_synced_files": [],
        **{f"{what}_commands": [] for what in nothing},
    }
    (folder / "cluster.yaml").write_text(yaml.safe_dump(cluster))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_FAKE_CLUSTER": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    # Ray's fake nodes look for their head at this port and no other.
    port = 6379
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, f"port {port} is taken by another cluster"
    start = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}", "--num-cpus=0"]
    # Short, since Ray makes sockets there; and in the command line of every process of this cluster.
    scratch = tempfile.mkdtemp(prefix="ray-")
    start.append(f"--temp-dir={scratch}")
    options = ["--include-dashboard=false", "--disable-usage-stats", f"--autoscaling-config={folder}/cluster.yaml"]
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen([*start, *options], env=environment, stdout=log, stderr=log)
        try:
            address = f"127.0.0.1:{port}"
            wait_until(lambda: "Ray runtime started" in (folder / "head.log").read_text(), head, "the head")
            driver = {key: value for key, value in environment.items() if not key.startswith("RAY_OVERRIDE")}
            yield address, driver, scratch
        finally:
            # Daemons of fake nodes are nobody's children.
            ours = {*psutil.Process(head.pid).children(recursive=True), *processes(scratch)}
            head.terminate()
            for process in psutil.wait_procs(ours, 20)[1]:
                process.kill()
            head.wait()
            shutil.rmtree(scratch, ignore_errors=True)


def processes(scratch):
    """The processes of the cluster that works in this folder."""
    found = psutil.process_iter(["cmdline"])
    return [process for process in found if f"{scratch}/" in " ".join(process.info["cmdline"] or [])]


def wait_until(condition, process, what):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, f"the process ended before {what}"
        assert time.monotonic() < deadline, f"waited {PATIENCE} s for {what}"
        time.sleep(0.2)


def workers(scratch) -> int:
    """Nodes of the cluster beside its head: each has a raylet."""
    return sum(process.info["cmdline"][0].endswith("/raylet") for process in processes(scratch)) - 1


def test_from_no_worker_to_all_and_back(autoscaling, tiny_config, tmp_path):
    address, environment, scratch = autoscaling
    assert workers(scratch) == 0
    lanes = {"max": 2, "cpus": 1, "threads": 1, "idle_seconds": 2}
    finetune = {"steps": 200, "batch_size": 4, "learning_rate": 0.005, "lora": {"r": 4, "alpha": 8}, "lanes": lanes}
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(tiny_config(tmp_path, "elastic", finetune=finetune, cluster={"address": address})))
    log = tmp_path / "driver.log"
    with log.open("w") as stream:
        driver = subprocess.Popen(
            [sys.executable, "-m", "taskpgm_ray.cli", "finetune", "--config", str(file)],
            env=environment,
            stdout=stream,
            stderr=stream,
        )
        try:
            most = 0
            deadline = time.monotonic() + PATIENCE
            while driver.poll() is None:
                most = max(most, workers(scratch))
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.2)
        finally:
            driver.kill()
            driver.wait()
    assert driver.returncode == 0, log.read_text()[-3000:]
    assert most == 2
    manifests = [json.loads(m.read_text()) for m in (tmp_path / "elastic" / "adapters").glob("*/manifest.json")]
    tasks = ["copy", "parity", "reverse", "sum"]
    assert sorted(m["name"] for m in manifests) == sorted(tasks + [f"{task}@second" for task in tasks])
    deadline = time.monotonic() + PATIENCE
    while workers(scratch):
        assert time.monotonic() < deadline, "idle nodes were not removed"
        time.sleep(0.5)
