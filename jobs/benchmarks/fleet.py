"""The fleet: 16 jobs x 20 steps x 4 examples x 64 tokens of SmolLM2-135M, one core a lane, one lane and two.

Against one TorchTrainer per task (which starts a worker and loads the model for each), and against a bare PEFT loop in
one process per lane with the model in memory already. ``TASKPGM_BENCH_REPEATS`` (default 3) runs of each, in turn.
"""

import os
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa

from jobs.benchmarks._common import row
from jobs.benchmarks._peft_loop import BATCH, RESPONSE, STEPS, bare_loops, one_trainer_each
from taskpgm_ray.config import ClusterConfig, FinetuneConfig, LaneConfig, ModelConfig, load_config
from taskpgm_ray.finetune.fleet import Fleet
from taskpgm_ray.finetune.job import Recipe, make_job
from taskpgm_ray.finetune.lane import LaneSpec
from taskpgm_ray.forecast import Speed, plan_study
from taskpgm_ray.models import prepare, resolve
from taskpgm_ray.runtime.cluster import ensure_ray, thread_environment
from taskpgm_ray.storage import Storage, Unit
from taskpgm_ray.tasks.prepare import EXAMPLES, Task

JOBS, TOKENS = 16, 64
REPEATS = int(os.environ.get("TASKPGM_BENCH_REPEATS", "3"))
CONFIG = FinetuneConfig(steps=STEPS, batch_size=BATCH, lanes=LaneConfig(cpus=1, threads=1, micro_batch_tokens=512))


def run():
    """Measure; rows as in jobs/benchmark.py."""
    import ray

    os.environ.update(thread_environment(1))
    with tempfile.TemporaryDirectory() as folder:
        root = Storage(folder)
        model = resolve(ModelConfig(), root)
        prepare(model)
        tasks = [make_task(root, number) for number in range(JOBS)]
        ensure_ray(ClusterConfig(num_cpus=2))
        try:
            # A pilot of two jobs gives the speed that the plan of all sixteen rests on.
            pilot = train(root / "pilot", model, tasks[:2], 1)
            return [line for lanes in (1, 2) for line in compare(root, model, tasks, lanes, pilot)]
        finally:
            ray.shutdown()


def compare(root, model, tasks, lanes, pilot):
    """Rows for one number of lanes."""
    times = {"whole": [], "work": [], "bare": [], "trainers": []}
    for repeat in range(REPEATS):
        studies = root / f"lanes-{lanes}-{repeat}"
        finished = train(studies / "all", model, tasks, lanes)
        times["whole"].append(finished["whole"])
        times["work"].append(finished["work"])
        # A few jobs a lane; the others would take as long.
        times["bare"].append(bare_loops(model.local(), tasks[: 4 * lanes], lanes) * JOBS / (4 * lanes))
        times["trainers"].append(one_trainer_each(model.local(), tasks[: 2 * lanes], lanes) * JOBS / (2 * lanes))
    seconds = {name: median(values) for name, values in times.items()}
    what = f"{JOBS} jobs, {lanes} lane{'s' * (lanes > 1)}"
    plan_seconds = planned(pilot, lanes)
    ratio = plan_seconds / seconds["whole"]
    return [
        row(
            f"{what}, from submission to the last manifest",
            seconds["whole"],
            seconds["trainers"],
            f"one TorchTrainer per task ({2 * lanes} jobs, scaled)",
            4,
        ),
        row(
            f"{what}, from the first job's start to the last manifest",
            seconds["work"],
            seconds["bare"],
            f"bare PEFT loop, model loaded ({4 * lanes} jobs, scaled)",
            round(1 / 1.15, 3),
        ),
        row(f"{what}: planned / actual", seconds["whole"], plan_seconds, "plan", 0.75, 0.75 <= ratio <= 1.25),
    ]


def make_task(root, number):
    """A prepared task of random tokens, every example as long as the next."""
    rng = np.random.default_rng(number)
    ids = rng.integers(1000, 40_000, size=(STEPS * BATCH + 1, TOKENS))
    unit = Unit(root, f"tasks/task{number}")
    columns = {
        "split": ["probe"] + ["train"] * (len(ids) - 1),
        "prompt_ids": ids[:, :-RESPONSE].tolist(),
        "response_ids": ids[:, -RESPONSE:].tolist(),
    }
    unit.files.write_table(EXAMPLES, pa.table(columns))
    unit.finish({"train_content": f"train{number}", "probe_content": f"probe{number}"})
    return Task(f"task{number}", unit)


def train(study, model, tasks, lanes):
    """Our fleet: seconds from submission, seconds from the first job's start, and the manifests."""
    import ray

    recipe = Recipe.of(CONFIG, seed=0, init_seed=0, steps=STEPS, tokens=None)
    jobs = [make_job(task.name, "adapters", {task.name: 1.0}, [task], recipe, model, study) for task in tasks]
    config = CONFIG.lanes.model_copy(update={"max": lanes})
    fleet = Fleet(LaneSpec(model, CONFIG.lora, config, study / "ray"))
    try:
        started = time.time()
        manifests = ray.get([fleet.submit(job) for job in jobs])
    finally:
        fleet.close()
    written = [Path(job.unit.files.path("manifest.json")).stat().st_mtime for job in jobs]
    first = min(end - manifest["wall_seconds"] for end, manifest in zip(written, manifests, strict=True))
    return {"whole": max(written) - started, "work": max(written) - first, "manifests": manifests}


def planned(pilot, lanes):
    """Seconds that ``taskpgm plan`` says all jobs take, from the speed of the pilot."""
    manifests = pilot["manifests"]
    speed = Speed(
        tokens_per_second=sum(m["tokens"] for m in manifests) / sum(m["seconds"] for m in manifests),
        example_tokens=TOKENS,
        job_seconds=median(m["wall_seconds"] - m["seconds"] for m in manifests),
    )
    finetune = CONFIG.model_copy(update={"lanes": CONFIG.lanes.model_copy(update={"max": lanes})})
    study = {"study": "plan", "pool": {"tasks": ["jsonl:none"]}, "mixture": {"tau": 1}, "search": {"balances": 0}}
    config = load_config({**study, "finetune": finetune.model_dump(mode="json")})
    return plan_study(config, JOBS, speed)[0].seconds
