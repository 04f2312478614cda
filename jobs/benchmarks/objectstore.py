"""Requests that a study makes of an object store: to read a finished one again, and to write a unit.

A real study of ``TASKPGM_BENCH_TASKS`` (default 100) tiny tasks on a random Llama of two layers, made on a local disk
and copied to an S3 server (moto) in a process of its own, which holds every request for 20 ms and counts it. ``ours``
is the number of requests a task, and seconds where it says so. Needs the extra `dev`.
"""

import json
import os
import random
import tempfile
import time
from pathlib import Path

from jobs.benchmarks._common import row
from jobs.benchmarks._slow_s3 import LATENCY, SlowS3, counts
from jobs.benchmarks._tiny import random_llama
from taskpgm_ray import Study, load_config
from taskpgm_ray.storage import Storage, Unit

TASKS = int(os.environ.get("TASKPGM_BENCH_TASKS", "100"))
WORDS = ["red", "blue", "green", "one", "two", "three", "left", "right", "up", "down"]


def run():
    """A row per kind of access."""
    with tempfile.TemporaryDirectory() as folder, SlowS3() as port:
        pool = Path(folder) / "pool"
        pool.mkdir()
        rng = random.Random(0)
        for task in range(TASKS):
            lines = [{"prompt": " ".join(rng.choices(WORDS, k=5)), "response": rng.choice(WORDS)} for _ in range(12)]
            (pool / f"task{task:04d}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        settings = config(folder, random_llama(f"{folder}/tiny"), f"{folder}/runs")
        Study(load_config(settings)).run()
        remote = f"s3://studies/runs?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
        copy(f"{folder}/runs", remote + "&allow_bucket_creation=true")
        counts(port)
        started = time.perf_counter()
        Study(load_config(settings | {"storage": remote})).run()
        seconds = time.perf_counter() - started
        again = counts(port)
        unit = Unit(Storage(remote) / "scratch", "units/one")
        unit.storage.write_bytes("units/one/first", b"x")
        counts(port)
        unit.files.write_bytes("weights", b"x" * 100_000)
        unit.finish({"steps": 1})
        written = counts(port)
    told = ", ".join(f"{number} {method}" for method, number in sorted(again.items()))
    total = sum(again.values())
    # In thousands of tasks the constant part does not count.
    return [
        row(f"a finished study of {TASKS} tasks: requests a task ({told})", total / TASKS),
        row(f"a finished study of {TASKS} tasks, {LATENCY * 1000:.0f} ms a request: seconds", seconds),
        row(f"a unit of two files written: requests ({dict(written)})", sum(written.values())),
    ]


def config(folder, model, storage):
    """A study without a search: what costs requests is what there is one of for each task."""
    return {
        "study": "many",
        "storage": storage,
        "model": {"path": model, "dtype": "float32", "max_length": 64},
        "pool": {"tasks": [f"jsonl:{folder}/pool"], "probes_per_task": 1, "heldout_per_task": 1},
        "finetune": {"steps": 1, "batch_size": 2, "lora": {"r": 2}, "lanes": {"max": 2, "cpus": 0.5, "threads": 1}},
        "scoring": {"scorer": "hf", "top_k": 15, "positions_per_probe": 1, "engines": {"max": 1, "cpus": 0.9}},
        "affinity": {"gamma": "median"},
        "mixture": {"tau": 1.0},
        "search": {"balances": 0},
    }


def copy(local, remote):
    """All files of a folder to an object store."""
    root, target = Path(local), Storage(remote)
    for file in root.rglob("*"):
        if file.is_file():
            target.write_bytes(str(file.relative_to(root)), file.read_bytes())
