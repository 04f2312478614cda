"""Faults in the middle of scoring and of the affinity job: the same S to the bit, and no finished unit made again."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from taskpgm_ray.affinity.distributed import PartOf, read_part
from taskpgm_ray.affinity.pool_sums import PoolSums
from taskpgm_ray.affinity.stage import affinity_unit, compute_affinities
from taskpgm_ray.affinity.stored import divergence_groups
from taskpgm_ray.config import load_config
from taskpgm_ray.errors import DamagedScoresError, ModelError, ResourceError, ScoringError
from taskpgm_ray.finetune.job import Job
from taskpgm_ray.models import resolve
from taskpgm_ray.scoring.stage import discard, score_pool
from taskpgm_ray.session import Session
from taskpgm_ray.storage import Storage, Unit
from taskpgm_ray.tasks.prepare import Task, prepare_one, task_units

pytestmark = [pytest.mark.integration, pytest.mark.faults]
TASKS = ("copy", "parity", "reverse", "sum")


class Pool:
    """Four prepared tasks with random adapters of the tiny model, scored by Hugging Face engines."""

    def __init__(self, tiny_config, adapters, root, tasks=TASKS, **scoring):
        sources = {**tiny_config(root)["pool"], "probes_per_task": 8, "include": tasks}
        raw = tiny_config(root, pool=sources)
        engines = raw["scoring"]["engines"] | {"idle_seconds": 1, "max_loras": 2} | scoring.pop("engines", {})
        raw["scoring"] |= {"scorer": "hf", "segment_positions": 8, "engines": engines, **scoring}
        self.config = load_config(raw)
        self.storage = Storage(str(root)) / "tiny"
        self.model = resolve(self.config.model, Storage(str(root)))
        self.tasks = []
        for source, unit in task_units(self.config, self.model, self.storage):
            if not unit.done():
                prepare_one(source, unit, self.config, self.model)
            self.tasks.append(Task(source.name, unit))
        # Only the name and the unit of a job matter to scoring.
        self.jobs = [Job(task.name, (task,), (1.0,), None, adapters[TASKS.index(task.name)]) for task in self.tasks]
        self.session = Session(self.config, self.model, self.storage, Console(quiet=True))

    def score(self):
        try:
            return score_pool(self.jobs, self.tasks, self.session)
        finally:
            self.session.close()

    def affinities(self, segments):
        return compute_affinities(segments, [task.name for task in self.tasks], self.session)


@pytest.fixture
def pool(tiny_config, adapters):
    return lambda root, *tasks, **scoring: Pool(tiny_config, adapters, root, *tasks, **scoring)


@pytest.fixture(scope="module")
def whole(local_ray, tiny_config, adapters, tmp_path_factory):
    """A pool that was scored without any fault: the pool, its segments, its affinity."""
    made = Pool(tiny_config, adapters, tmp_path_factory.mktemp("whole"))
    segments = made.score()
    return made, segments, made.affinities(segments)


def manifests(storage):
    """Finished score units -> when they were finished."""
    return {str(p.parent): p.stat().st_mtime_ns for p in Path(storage.path("scores")).rglob("manifest.json")}


def files(storage):
    """Content of every scores file, by segment number and adapter."""
    return {
        str(p.relative_to(storage.path("scores"))): p.read_bytes()
        for p in Path(storage.path("scores")).rglob("logprobs.parquet")
    }


def differences(storage, other):
    """Scores files that are not the same to the bit in both studies -> by how much their values differ at most."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ours, theirs = files(storage), files(other)
    assert ours.keys() == theirs.keys()

    def values(content):
        column = pq.read_table(pa.BufferReader(content))["logprobs"]
        return column.combine_chunks().flatten().to_numpy(zero_copy_only=False)

    return {
        name: float(np.abs(values(ours[name]) - values(theirs[name])).max())
        for name in ours
        if ours[name] != theirs[name]
    }


def test_the_affinity_equals_a_single_process_whatever_the_order(whole):
    _, segments, affinity = whole
    assert len(segments) == 4
    parts = [read_part(PartOf(segment, start, start + 7), TASKS) for segment in segments for start in range(0, 999, 7)]
    parts = [part for part in parts if part is not None]
    sums = PoolSums.empty(TASKS, [8] * 4)
    for part in reversed(parts):
        sums.add(part)
    assert sums.divergence.positions == sum(segment.unit.manifest()["positions"] for segment in segments)
    np.testing.assert_array_equal(sums.divergence.matrix(), affinity.divergence)
    np.testing.assert_allclose(sums.upper_divergence(), affinity.divergence_upper, atol=1e-12)
    np.testing.assert_allclose(sums.mean("pmi"), affinity.pmi, atol=1e-12)
    np.testing.assert_allclose(sums.mean("coverage"), affinity.coverage, atol=1e-12)
    assert (affinity.divergence_upper >= affinity.divergence).all()


def test_s_equals_plain_numpy(whole):
    _, segments, affinity = whole
    distributions, weights = [], []
    for segment in segments:
        (part,) = [read_part(PartOf(segment, 0, 10_000), TASKS)]
        length = {probe: part.probe.count(probe) for probe in part.probe}
        weights += [1 / (8 * length[probe]) for probe in part.probe]
        p = np.exp(part.adapters.astype(np.float64))
        distributions.append(np.concatenate([p, 1 - p.sum(axis=2, keepdims=True)], axis=2))
    p = np.concatenate(distributions, axis=1)
    w = np.array(weights) / np.sum(weights)

    def entropy(q):
        return -np.where(q > 0, q * np.log(np.where(q > 0, q, 1.0)), 0.0).sum(axis=-1)

    D = np.array([[w @ (entropy((a + b) / 2) - (entropy(a) + entropy(b)) / 2) for b in p] for a in p])
    np.testing.assert_allclose(affinity.divergence, D, atol=1e-12)
    gamma = np.log(2) / np.median(D[np.triu_indices(4, 1)])
    np.testing.assert_allclose(affinity.view("jsd"), np.exp(-gamma * D), atol=1e-12)


def test_the_groups_of_probes_are_kept(whole):
    made, _, affinity = whole
    groups = divergence_groups(affinity_unit(made.storage, affinity.fingerprint))
    np.testing.assert_array_equal(groups.matrix(), affinity.divergence)
    np.testing.assert_array_equal(groups.standard_errors(), affinity.divergence_se)


def test_too_little_memory_is_said_before_anything_runs(whole):
    from taskpgm_ray.affinity.distributed import parts_of

    made, segments, _ = whole
    with pytest.raises(ResourceError, match=r"affinities of 4 tasks need .* affinity\.memory_gib is 1e-05"):
        parts_of(segments, 4, made.config.affinity.model_copy(update={"memory_gib": 1e-5}))


def test_damaged_scores_are_named_and_only_they_are_made_again(whole, pool, tmp_path, monkeypatch, cost):
    _, _, reference = whole
    made = pool(tmp_path)
    segments = made.score()
    original = files(made.storage)
    victims = [segments[0].scores["parity"], segments[2].base]
    path = Path(victims[0].storage.path(f"{victims[0].path}/logprobs.parquet"))
    path.write_bytes(path.read_bytes()[:-200])
    Path(victims[1].storage.path(f"{victims[1].path}/logprobs.parquet")).unlink()
    before = manifests(made.storage)
    with pytest.raises(DamagedScoresError, match=r"parity-.* is damaged.*base-.* is missing") as caught:
        made.affinities(segments)
    assert set(caught.value.units) == {unit.path for unit in victims}
    discard(caught.value.units, made.storage)
    segments = made.score()
    after = manifests(made.storage)
    assert {made.storage.path(unit.path) for unit in victims} == {p for p in after if before.get(p) != after[p]}
    assert files(made.storage) == original
    np.testing.assert_array_equal(made.affinities(segments).view("jsd"), reference.view("jsd"))
    cost("two damaged score files", "affinities", "these two units")


@pytest.mark.parametrize("damage", ["missing", "truncated", "another rank", "another base"])
def test_an_unusable_adapter_is_named_and_the_others_are_scored(pool, tmp_path, adapters, damage):
    import shutil

    from safetensors.numpy import load_file, save_file

    made = pool(tmp_path)
    folder = tmp_path / "copied"
    shutil.copytree(adapters[1].storage.path(adapters[1].path), folder)
    weights, settings = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif damage == "another rank":
        settings.write_text(settings.read_text().replace('"r": 4', '"r": 16'))
    else:
        tensors = {key: np.concatenate([value, value], axis=1) for key, value in load_file(weights).items()}
        save_file(tensors, weights)
    unit = Unit(Storage(str(tmp_path)), "copied")
    made.jobs[1] = Job("parity", made.jobs[1].tasks, (1.0,), None, unit)
    message = {"another rank": "has rank 16", "another base": "is of another base model"}.get(damage, "is not usable")
    with pytest.raises(ScoringError, match=rf"4 of 20 units could not be scored: adapter copied {message}"):
        made.score()
    done = {Path(p).name.rpartition("-")[0] for p in manifests(made.storage)}
    assert done == {"base", "copy", "reverse", "sum"}
    assert len(manifests(made.storage)) == 16


def test_a_changed_tokenizer_is_noticed_by_the_engine(pool, tmp_path, tiny_llama):
    import shutil
    from dataclasses import replace

    copy = tmp_path / "model"
    shutil.copytree(tiny_llama, copy)
    made = pool(tmp_path / "study")
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text() + "\n")
    made.session.model = replace(made.model, source=str(copy))
    made.session.config = made.config.model_copy(
        update={
            "scoring": made.config.scoring.model_copy(
                update={"engines": made.config.scoring.engines.model_copy(update={"max_failures": 0})}
            )
        }
    )
    with pytest.raises(ModelError, match=r"weights, configuration or tokenizer in .* are not those"):
        made.score()


def test_added_tasks_cost_their_rows_and_columns_and_removed_ones_nothing(whole, pool, tmp_path):
    import shutil

    first = pool(tmp_path / "grown", ("copy", "parity"))
    first.score()
    before = manifests(first.storage)
    assert len(before) == 2 * 3
    grown = pool(tmp_path / "grown")
    affinity = grown.affinities(grown.score())
    after = manifests(grown.storage)
    # The two new adapters on two old segments, and everyone, the base model included, on two new ones.
    assert len(after) - len(before) == 2 * 2 + 2 * 5
    assert {p: t for p, t in after.items() if p in before} == before

    scratch = pool(tmp_path / "scratch")
    shutil.copytree(grown.storage.path("segments"), scratch.storage.path("segments"))
    np.testing.assert_allclose(scratch.affinities(scratch.score()).view("jsd"), affinity.view("jsd"), atol=1e-12)
    np.testing.assert_allclose(whole[2].view("jsd"), affinity.view("jsd"), atol=1e-12)

    smaller = pool(tmp_path / "grown", ("copy", "reverse", "sum"))
    assert smaller.affinities(smaller.score()).view("jsd").shape == (3, 3)
    assert manifests(grown.storage) == after


def signal_when(condition, victims, kind=signal.SIGKILL, timeout=120):
    """Send processes a signal as soon as the condition holds; their ids."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the moment for the fault never came"
        time.sleep(0.02)
    chosen = victims()
    for process in chosen:
        # The others may take it with them before its turn comes.
        with suppress(ProcessLookupError):
            os.kill(process, kind)
    return chosen


def below(process, name=""):
    """Ids of the processes that this process' Ray started, those with ``name`` in their names."""
    import psutil

    return [child.pid for child in psutil.Process(process).children(recursive=True) if name in child.name()]


def test_a_killed_engine_costs_no_finished_unit(whole, pool, tmp_path, cost):
    from threading import Thread

    _, _, reference = whole
    made = pool(tmp_path)
    seen, killed = {}, []

    def fault():
        killed.extend(signal_when(lambda: len(manifests(made.storage)) >= 5, lambda: below(os.getpid(), "EngineActor")))
        seen.update(manifests(made.storage))

    thread = Thread(target=fault)
    thread.start()
    again = made.score()
    thread.join()
    assert killed
    after = manifests(made.storage)
    assert len(after) == 20
    assert {p: t for p, t in after.items() if p in seen} == seen
    assert differences(made.storage, whole[0].storage) == {}
    np.testing.assert_array_equal(made.affinities(again).view("jsd"), reference.view("jsd"))
    cost("SIGKILL of an engine", "scoring", "what it had in hand")


def test_an_engine_that_is_stopped_is_ended_and_its_work_done_by_another(whole, pool, tmp_path, cost):
    """SIGSTOP: it lives, and never answers."""
    import io
    from threading import Thread

    import psutil

    made = pool(tmp_path, engines={"silent_seconds": 20})
    made.session.progress.console = Console(file=io.StringIO())
    seen, stopped = {}, []

    def fault():
        enough = lambda: len(manifests(made.storage)) >= 5  # noqa: E731
        stopped.extend(signal_when(enough, lambda: below(os.getpid(), "EngineActor"), signal.SIGSTOP))
        seen.update(manifests(made.storage))

    thread = Thread(target=fault)
    thread.start()
    made.score()
    thread.join()
    assert stopped
    assert not any(map(psutil.pid_exists, stopped))
    after = manifests(made.storage)
    assert len(after) == 20
    assert {p: t for p, t in after.items() if p in seen} == seen
    assert differences(made.storage, whole[0].storage) == {}
    said = made.session.progress.console.file.getvalue()
    assert re.search(r"an engine did not answer for \d+ s \(score\) and was ended", said)
    cost("SIGSTOP of an engine", "scoring", "what it had in hand")


@pytest.fixture
def in_a_process(tmp_path, tiny_config, adapters):
    """(code that connects to Ray, storage) -> command that scores the pool in a process of its own and writes S."""
    storage = tmp_path / "study"
    setting = [tiny_config(storage), [[u.storage.uri, u.path] for u in adapters]]
    (tmp_path / "setting.json").write_text(json.dumps(setting))

    def command(connect, **engines):
        code = (
            "import sys, json; from pathlib import Path; sys.path.insert(0, sys.argv[2]); import ray\n"
            "from tests.integration.test_scoring_faults import Pool, Storage, Unit\n"
            f"{connect}\n"
            "folder = Path(sys.argv[1]); config, units = json.loads((folder / 'setting.json').read_text())\n"
            f"config['scoring']['engines'] |= {engines!r}\n"
            "units = [Unit(Storage(uri), path) for uri, path in units]\n"
            "pool = Pool(lambda root, **changes: {**config, **changes}, units, folder / 'study')\n"
            "affinity = pool.affinities(pool.score())\n"
            "(folder / 'S.json').write_text(json.dumps(affinity.view('jsd').tolist()))\n"
        )
        return [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parents[2])]

    return command, Storage(str(storage)) / "tiny", lambda: np.array(json.loads((tmp_path / "S.json").read_text()))


def test_a_killed_driver_goes_on_where_it_was(whole, in_a_process, cost):
    _, _, reference = whole
    make, storage, result = in_a_process
    command = make("ray.init(address='local', num_cpus=2, include_dashboard=False, log_to_driver=False)")
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # With its local Ray, as when the machine goes down: orphans would finish what they have been given.
    signal_when(lambda: len(manifests(storage)) >= 5, lambda: [driver.pid, *below(driver.pid)], timeout=250)
    driver.wait(30)
    seen = manifests(storage)
    assert 5 <= len(seen) < 20
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    after = manifests(storage)
    assert len(after) == 20
    assert {p: t for p, t in after.items() if p in seen} == seen
    np.testing.assert_array_equal(result(), reference.view("jsd"))
    cost("SIGKILL of the driver and its Ray", "scoring", "what was in hand")


def test_a_lost_node_costs_no_finished_unit(whole, in_a_process, cost):
    """Two engines on two nodes; the node that is not the driver's dies in mid-job."""
    _, _, reference = whole
    make, storage, result = in_a_process
    connect = (
        "from ray.cluster_utils import Cluster; from threading import Thread; import time\n"
        "from tests.integration.test_scoring_faults import manifests\n"
        "cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 1})\n"
        "node = cluster.add_node(num_cpus=1); ray.init(address=cluster.address, log_to_driver=False)\n"
        "storage = Storage(sys.argv[1]) / 'study/tiny'\n"
        "def fault():\n"
        "    while len(manifests(storage)) < 5: time.sleep(0.02)\n"
        "    Path(sys.argv[1], 'seen.json').write_text(json.dumps(manifests(storage)))\n"
        "    cluster.remove_node(node, allow_graceful=False)\n"
        "Thread(target=fault).start()"
    )
    done = subprocess.run(make(connect, max=2), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(Path(storage.path()).parents[1].joinpath("seen.json").read_text())
    after = manifests(storage)
    assert 5 <= len(seen) < 20
    assert len(after) == 20
    assert {p: t for p, t in after.items() if p in seen} == seen
    np.testing.assert_array_equal(result(), reference.view("jsd"))
    cost("loss of a node", "scoring", "what its engine had in hand")
