"""Faults on a real cluster of several nodes: whatever is killed, the same command ends with the same adapters.

Every test starts a driver (``taskpgm finetune``) in a process of its own, breaks something while it works, and then
counts in ``metrics.jsonl``, which has a line for every step that was computed, what the fault has cost.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml

from taskpgm_ray.runtime.capacity import LANE_BYTES
from tests.integration.studies import adapters, computed, units

pytestmark = [pytest.mark.integration, pytest.mark.faults]
STEPS, INTERVAL = 240, 30
PATIENCE = 400
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster():
    """A head node without CPUs, where drivers run, and two nodes with one CPU each."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def config(cluster, tiny_config, tmp_path_factory):
    """Writes a study's config file; lanes of one CPU, a checkpoint every so many steps."""

    def write(study, silent_seconds=60, **changes):
        root = tmp_path_factory.mktemp(study)
        lanes = {"max": 2, "cpus": 1, "threads": 1, "checkpoint_steps": INTERVAL, "idle_seconds": 2}
        lanes["silent_seconds"] = silent_seconds
        finetune = {"steps": STEPS, "batch_size": 4, "learning_rate": 0.005, "lora": {"r": 4, "alpha": 8}}
        finetune |= {"lanes": lanes, **changes}
        made = tiny_config(root, study, finetune=finetune, cluster={"address": cluster.address})
        file = root / "study.yaml"
        file.write_text(yaml.safe_dump(made))
        return file

    return write


@contextmanager
def driver(config_file, *command):
    """``taskpgm finetune`` (or another command line) as a process; killed at the end if it still runs."""
    line = command or ("-m", "taskpgm_ray.cli", "finetune", "--config", str(config_file))
    with (config_file.parent / "driver.log").open("a") as log:
        process = subprocess.Popen([sys.executable, *line], stdout=log, stderr=log, env=environment())
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def finish(process, config_file):
    code = process.wait(PATIENCE)
    assert code == 0, (config_file.parent / "driver.log").read_text()[-4000:]


def folder_of(config_file) -> Path:
    return config_file.parent / yaml.safe_load(config_file.read_text())["study"] / "adapters"


def finished(config_file) -> dict[str, int]:
    return units(folder_of(config_file))


def wait_until(process, condition, what):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, f"the driver ended before {what}"
        assert time.monotonic() < deadline, f"waited {PATIENCE} s for {what}"
        time.sleep(0.02)


def under_way(config_file):
    """Whether one adapter is finished and another one has a checkpoint and steps after it."""
    steps = computed(folder_of(config_file))
    done = finished(config_file)
    return done and any(INTERVAL + 5 < len(s) < STEPS - INTERVAL for name, s in steps.items() if name not in done)


def training_workers():
    """Processes that train now, by what Ray calls them."""
    found = []
    for process in psutil.process_iter(["cmdline", "create_time"]):
        title = " ".join(process.info["cmdline"] or [])
        if title.startswith("ray::") and "RayTrainWorker" in title:
            found.append(process)
    return found


def check(config_file, undisturbed, faults, lost_lanes=1):
    """All adapters, bit for bit; nothing trained twice but less than an interval per fault and lane."""
    assert adapters(folder_of(config_file)) == undisturbed
    lost = 0
    for name, steps in computed(folder_of(config_file)).items():
        assert set(steps) == set(range(1, STEPS + 1)), name
        lost += len(steps) - STEPS
    assert lost <= faults * lost_lanes * INTERVAL
    return lost


@pytest.fixture(scope="module")
def undisturbed(config):
    """The adapters of a run in which nothing breaks."""
    file = config("study")
    with driver(file) as process:
        finish(process, file)
    made = adapters(folder_of(file))
    assert {name.rpartition("-")[0] for name in made} == {"copy", "parity", "reverse", "sum"}
    assert all(steps == list(range(1, STEPS + 1)) for steps in computed(folder_of(file)).values())
    return made


def test_a_killed_training_worker(config, undisturbed, cost):
    file = config("study")
    with driver(file) as process:
        wait_until(process, lambda: under_way(file), "a job was under way")
        before = finished(file)
        training_workers()[0].send_signal(signal.SIGKILL)
        finish(process, file)
    lost = check(file, undisturbed, faults=1)
    after = finished(file)
    assert {name: after[name] for name in before} == before, "a finished job was trained again"
    cost("SIGKILL of a training worker", "fine-tunes", f"{lost} of {8 * STEPS} steps")


def test_a_training_worker_that_is_stopped(config, undisturbed, cost):
    """SIGSTOP: it lives, holds its job and its CPU, and says nothing any more."""
    file = config("study", silent_seconds=10)
    with driver(file) as process:
        wait_until(process, lambda: under_way(file), "a job was under way")
        before = finished(file)
        stopped = training_workers()[0]
        stopped.suspend()
        finish(process, file)
    lost = check(file, undisturbed, faults=1)
    after = finished(file)
    assert {name: after[name] for name in before} == before, "a finished job was trained again"
    assert not stopped.is_running(), "it was left behind"
    assert re.search(r"lane \d said nothing for \d+ s at \S+ and was ended", (file.parent / "driver.log").read_text())
    cost("SIGSTOP of a training worker", "fine-tunes", f"{lost} of {8 * STEPS} steps")


def test_a_node_that_is_lost(config, undisturbed, cluster, cost):
    file = config("study")
    with driver(file) as process:
        wait_until(process, lambda: under_way(file), "a job was under way")
        before = finished(file)
        node = sorted(cluster.worker_nodes, key=lambda node: node.node_id)[0]
        cluster.remove_node(node, allow_graceful=False)
        try:
            finish(process, file)
        finally:
            cluster.add_node(num_cpus=1)
    lost = check(file, undisturbed, faults=1)
    after = finished(file)
    assert {name: after[name] for name in before} == before, "a finished job was trained again"
    cost("loss of a node", "fine-tunes", f"{lost} of {8 * STEPS} steps")


@pytest.fixture
def small_head():
    """A head that has memory to steer one lane, and two nodes that train and may steer one more each."""
    from ray.cluster_utils import Cluster

    memory = LANE_BYTES * 3 // 2
    head = {"num_cpus": 0, "memory": memory, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=1, memory=memory)
    yield cluster
    cluster.shutdown()


def steering(cluster):
    """The nodes that steer lanes: those whose raylet is the parent of such a process."""
    nodes = {node.all_processes["raylet"][0].process.pid: node for node in cluster.list_all_nodes()}
    found = set()
    for process in psutil.process_iter(["cmdline", "ppid"]):
        if " ".join(process.info["cmdline"] or []).startswith("ray::run_lane") and process.info["ppid"] in nodes:
            found.add(nodes[process.info["ppid"]])
    return found


def test_a_node_that_steers_what_the_head_has_no_memory_for_is_lost(config, undisturbed, small_head, cost):
    file = config("study")
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"cluster": {"address": small_head.address}}))
    with driver(file) as process:
        wait_until(process, lambda: under_way(file) and len(steering(small_head)) == 2, "two nodes steered lanes")
        before = finished(file)
        (elsewhere,) = steering(small_head) & small_head.worker_nodes
        small_head.remove_node(elsewhere, allow_graceful=False)
        small_head.add_node(num_cpus=1, memory=LANE_BYTES * 3 // 2)
        finish(process, file)
    lost = check(file, undisturbed, faults=1, lost_lanes=2)
    after = finished(file)
    assert {name: after[name] for name in before} == before, "a finished job was trained again"
    cost("loss of a node that steers another's lane", "fine-tunes", f"{lost} of {8 * STEPS} steps")


def test_a_killed_driver(config, undisturbed, cost):
    file = config("study")
    with driver(file) as process:
        wait_until(process, lambda: under_way(file), "a job was under way")
        process.kill()
        process.wait()
    # Its lanes end with it; what they finish until then is finished.
    deadline = time.monotonic() + 60
    while training_workers() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not training_workers()
    before, steps = finished(file), computed(folder_of(file))
    assert len(before) < 4
    with driver(file) as process:
        finish(process, file)
    lost = check(file, undisturbed, faults=1, lost_lanes=2)
    after = finished(file)
    assert {name: after[name] for name in before} == before, "a finished job was trained again"
    for name, rows in steps.items():
        # It went on from where it was, not from the start.
        assert computed(folder_of(file))[name][: len(rows)] == rows
        assert len(rows) <= INTERVAL or computed(folder_of(file))[name][len(rows) :][:1] != [1]
    cost("SIGKILL of the driver", "fine-tunes", f"{lost} of {8 * STEPS} steps")


FLAKY = """
import sys
import ray

def every_eleventh_operation_fails(log={log!r}):
    from itertools import count
    from taskpgm_ray.storage import Storage

    operations = count(1)

    class Flaky:
        def __init__(self, real):
            self.real = real

        def __getattr__(self, name):
            if name not in ("type_name", "normalize_path") and next(operations) % 11 == 0:
                with open(log, "a") as file:
                    file.write(name + "\\n")
                raise OSError("injected: slow down")
            return getattr(self.real, name)

    plain = Storage._filesystem.fget
    def flaky(self):
        real, base = plain(self)
        return Flaky(real), base
    Storage._filesystem = property(flaky)
    # pyarrow.parquet asks for a real filesystem.
    import io, pyarrow.parquet as pq
    def read_table(self, name, columns=None):
        return pq.read_table(io.BytesIO(self.read_bytes(name)), columns=columns)
    Storage.read_table = read_table

every_eleventh_operation_fails()
hook = {{"worker_process_setup_hook": every_eleventh_operation_fails}}
ray.init(address={address!r}, runtime_env=hook, log_to_driver=False)
from taskpgm_ray.cli import main
sys.exit(main(["finetune", "--config", {config!r}]))
"""


def test_a_storage_that_fails_now_and_then(config, undisturbed, cluster, tmp_path, cost):
    file = config("study")
    log, script = tmp_path / "injected", tmp_path / "driver.py"
    script.write_text(FLAKY.format(log=str(log), address=cluster.address, config=str(file)))
    with driver(file, str(script)) as process:
        finish(process, file)
    failures = log.read_text().split()
    assert len(failures) > 50
    assert {"open_output_stream", "move", "open_append_stream", "open_input_stream"} <= set(failures)
    lost = check(file, undisturbed, faults=0)
    assert lost == 0
    cost("each eleventh operation of the storage fails", "fine-tunes", f"{lost} of {8 * STEPS} steps")


def test_a_second_driver_on_the_same_study_is_told(config, undisturbed, cost):
    file = config("study")
    with driver(file) as process:
        wait_until(process, lambda: under_way(file), "a job was under way")
        line = [sys.executable, "-m", "taskpgm_ray.cli", "finetune", "--config", str(file)]
        second = subprocess.run(line, capture_output=True, text=True, timeout=120, env=environment())
        assert second.returncode == 6
        assert f"StudyBusyError: another driver (process {process.pid} on " in second.stderr
        finish(process, file)
    lost = check(file, undisturbed, faults=0)
    assert lost == 0
    cost("a second driver", "fine-tunes", f"{lost} of {8 * STEPS} steps")


def test_a_poisoned_task_is_left_out(config, undisturbed, cost):
    """A learning rate that no task survives for long would stop all; one task with broken data stops itself alone."""
    file = config("study", on_task_failure="skip")
    with driver(file) as process:
        tasks = folder_of(file).parent / "tasks"
        separated = folder_of(file).parent / "separation"
        wait_until(process, lambda: list(separated.glob("*/manifest.json")), "the tasks were kept apart")
        (broken,) = tasks.glob("sum-*")
        (broken / "examples.parquet").write_bytes(b"nonsense")
        finish(process, file)
    printed = (file.parent / "driver.log").read_text()
    assert "sum: FAILED, left out of the pool: job 'sum':" in printed
    assert adapters(folder_of(file)) == {
        name: made for name, made in undisturbed.items() if not name.startswith("sum-")
    }
    failures = list(folder_of(file).glob("sum-*/failure.json"))
    assert failures
    for failure in failures:
        assert "examples.parquet is damaged" in json.loads(failure.read_text())["message"]
    with driver(file) as process:
        finish(process, file)
    assert "sum failed in an earlier run and stays left out" in (file.parent / "driver.log").read_text()
    cost("damaged data of one task", "fine-tunes", "nothing; the task is left out and named")
