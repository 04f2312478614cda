"""A simulated study: n synthetic adapters x 16,000 positions x K = 64, with real artifacts on real Ray, two CPUs.

Segments and scores are written by the product's own functions from distributions that a stand-in for the engine makes
up; everything behind the engine is real. ``TASKPGM_BENCH_SIZES`` (default ``250,500,1000``) are the numbers of tasks.
"""

import os
import resource
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pyarrow as pa

from jobs.benchmarks._common import row
from taskpgm_ray.affinity.stage import compute_affinities
from taskpgm_ray.config import AffinityConfig, ClusterConfig, ScoringConfig
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.mrf import solve
from taskpgm_ray.runtime.cluster import ensure_ray, thread_environment
from taskpgm_ray.runtime.progress import Progress
from taskpgm_ray.scoring.score import BASE, score_units, score_work
from taskpgm_ray.scoring.segments import POSITIONS, SCHEMA
from taskpgm_ray.scoring.stage import ScoredSegment
from taskpgm_ray.storage import Storage, Unit

SIZES = [int(size) for size in os.environ.get("TASKPGM_BENCH_SIZES", "250,500,1000").split(",")]
TOTAL, SEGMENT, STEPS, CELLS = 16_000, 4_000, 4, 64
MODEL = BaseModelRef("simulated", None, "simulated", "float32")
CONFIG = ScoringConfig(top_k=CELLS - 1, answer_tokens=0, positions_per_probe=STEPS, segment_positions=SEGMENT)


def run():
    """Measure; rows as in jobs/benchmark.py."""
    import ray

    os.environ.update(thread_environment(1))
    rows = []
    for n in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            ensure_ray(ClusterConfig(num_cpus=2))
            try:
                rows += [row(f"n = {n}: {what}", value) for what, value in measure(n, Storage(folder)).items()]
            finally:
                ray.shutdown()
    return rows


def measure(n, storage):
    """Seconds of each stage, peak memory and bytes of one simulated study."""
    import ray

    tasks = [f"task{i:04d}" for i in range(n)]
    found = {}
    with Memory() as memory:
        started = time.perf_counter()
        segments = [build(storage, tasks, start) for start in range(0, TOTAL, SEGMENT)]
        adapters = {task: Unit(storage, f"adapters/{task}") for task in tasks}
        works = [
            score_work(segment, name, adapter, CONFIG, "vllm", MODEL, storage)
            for segment in segments
            for name, adapter in [(BASE, None), *adapters.items()]
        ]
        write = ray.remote(score).options(num_cpus=1)
        ray.get([write.remote(works[start : start + 50]) for start in range(0, len(works), 50)])
        found["scores made up and written (s)"] = time.perf_counter() - started
        by_segment = {segment.path: {} for segment in segments}
        for work in works:
            by_segment[work.segment.path][work.name] = work.unit
        scored = [
            ScoredSegment(
                segment,
                by_segment[segment.path].pop(BASE),
                by_segment[segment.path],
                tuple(segment.manifest()["tasks"]),
            )
            for segment in segments
        ]
        found["scores (GB)"] = bytes_of(storage, "scores") / 1e9
        started = time.perf_counter()
        config = SimpleNamespace(affinity=AffinityConfig())
        run = SimpleNamespace(config=config, storage=storage, progress=Progress(storage), connect=lambda: None)
        S = compute_affinities(scored, tasks, run).view("jsd")
        found["affinity: JSD, bracket, PMI, errors, S (s)"] = time.perf_counter() - started
        found["affinity artifacts (GB)"] = bytes_of(storage, "affinity") / 1e9
        started = time.perf_counter()
        mixture = solve(S, 2.0)
        found["one balance (s)"] = time.perf_counter() - started
    assert mixture.gap < 1e-9
    found["log-probabilities compared a second (1e9)"] = (
        n * (n - 1) / 2 * TOTAL * (CELLS + 1) / found["affinity: JSD, bracket, PMI, errors, S (s)"] / 1e9
    )
    found["peak memory of the driver (GiB)"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found["peak memory of the largest worker (GiB)"] = memory.largest / 2**30
    found["peak memory of all workers, shared memory once (GiB)"] = memory.all / 2**30
    return found


def build(storage, tasks, start):
    """One segment: the probes of its part of the tasks."""
    per_task = TOTAL // len(tasks)
    rng = np.random.default_rng(start)
    own = tasks[start // per_task : (start + SEGMENT) // per_task]
    rows = [
        {"task": task, "probe": f"{task}-{i // STEPS}", "step": i % STEPS, "prompt": [start, number * per_task + i],
         "gold": 0, "support": rng.permutation(40_000)[:CELLS].tolist()}
        for number, task in enumerate(own)
        for i in range(per_task)
    ]  # fmt: skip
    unit = Unit(storage, f"segments/{start}")
    unit.files.write_table(POSITIONS, pa.Table.from_pylist(rows, schema=SCHEMA))
    probes = [per_task // STEPS] * len(own)
    unit.finish({"tasks": own, "probes": probes, "positions": len(rows), "support": CELLS})
    return unit


class Engine:
    """Stands in for a language model: families of adapters that shift the base model's logits alike."""

    method = "simulated"

    def check(self, adapter):
        """Every adapter is fine."""

    def score(self, queries):
        """Log-probabilities of the support; a twentieth of the mass or so lies outside."""
        found = []
        for adapter in dict.fromkeys(query.adapter for query in queries):
            own = [query for query in queries if query.adapter == adapter]
            shape = (len(own), CELLS + 1)
            start = own[0].prompt[0]
            logits = np.random.default_rng([start, 0]).normal(size=shape, scale=2.5).astype(np.float32)
            if adapter is not None:
                number = int(adapter.path[-4:])
                family = np.random.default_rng([start, 1, number % 20])
                logits += family.standard_normal(shape, dtype=np.float32)
                logits += np.random.default_rng([start, 2, number]).standard_normal(shape, dtype=np.float32) / 2
            logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
            found += list(logits[:, :CELLS])
        return found


def score(works):
    """Score units one after the other, as an engine's actor does."""
    for work in works:
        (outcome,) = score_units(Engine(), [work])
        assert isinstance(outcome, dict), outcome


def bytes_of(storage, folder):
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in Path(storage.path(folder)).rglob("*") if file.is_file())


class Memory:
    """Peak memory of this session's Ray workers, looked at twice a second."""

    def __enter__(self):
        """Start to look."""
        self.largest = self.all = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_):
        """Stop."""
        self._over.set()
        self._thread.join()

    def _look(self):
        while not self._over.wait(0.5):
            private, largest, shared = 0, 0, 0
            for process in psutil.Process().children(recursive=True):
                try:
                    if process.name().startswith("ray::"):
                        used = process.memory_info()
                        largest = max(largest, used.rss)
                        private += used.rss - used.shared
                        shared = max(shared, used.shared)
                except psutil.NoSuchProcess:
                    continue
            self.largest, self.all = max(self.largest, largest), max(self.all, private + shared)
