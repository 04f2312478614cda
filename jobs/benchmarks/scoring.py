"""Scoring: SmolLM2-135M under eight adapters on the probes of eight generated tasks, on the CPU.

Ours is everything between a unit of work and its finished manifest: requests, engine, checks, Parquet. The peers are
the same requests given to the same bare ``vllm.LLM.generate``, and Hugging Face with one forward pass an example.
``TASKPGM_BENCH_PROBES`` (default 6) probes a task; medians of ``TASKPGM_BENCH_REPEATS`` (default 3) runs in turn.
"""

import os
import tempfile
import time
from statistics import median

from jobs.benchmarks._adapters import random_adapters
from jobs.benchmarks._common import row
from taskpgm_ray.config import load_config
from taskpgm_ray.models import prepare, resolve
from taskpgm_ray.runtime.cluster import thread_environment
from taskpgm_ray.scoring.engine import EngineSpec
from taskpgm_ray.scoring.score import SegmentWork, build_segment, queries_of, score_units, score_work
from taskpgm_ray.scoring.segments import plan_segments
from taskpgm_ray.scoring.work_order import in_batches
from taskpgm_ray.storage import Storage
from taskpgm_ray.tasks.prepare import Task, prepare_one, task_units

PROBES = int(os.environ.get("TASKPGM_BENCH_PROBES", "6"))
REPEATS = int(os.environ.get("TASKPGM_BENCH_REPEATS", "3"))
THREADS = len(os.sched_getaffinity(0))


def run():
    """Measure; rows as in jobs/benchmark.py."""
    os.environ.update(thread_environment(THREADS))
    with tempfile.TemporaryDirectory() as folder:
        config = load_config("jobs/quickstart.yaml", [f"pool.probes_per_task={PROBES}", "pool.max_examples=40"])
        storage = Storage(folder)
        model = resolve(config.model, storage)
        prepare(model)
        spec = EngineSpec("vllm", model, config.finetune.lora, config.scoring.engines)
        from taskpgm_ray.scoring.hf_engine import HFEngine
        from taskpgm_ray.scoring.vllm_engine import VLLMEngine

        vllm, hf = VLLMEngine(spec), HFEngine(spec)
        adapters = random_adapters(model, config.finetune.lora, storage, 8)
        segment = build(storage, config, model, vllm)
        works = [score_work(segment, a.path, a, config.scoring, "vllm", model, storage) for a in adapters]
        engines = config.scoring.engines
        positions = segment.manifest()["positions"]
        plan = in_batches(works, lambda _: positions, engines.batch_positions, engines.max_loras)
        functions = {
            "vllm": lambda: ours(vllm, plan),
            "bare": lambda: bare(vllm, plan),
            "hf": lambda: ours(hf, plan),
        }
        times = {name: [] for name in functions}
        for repeat in range(REPEATS + 1):
            for name, function in functions.items():
                vllm._llm.reset_prefix_cache()
                for work in works:
                    storage.delete(work.unit.path)
                seconds = function()
                # The first round warms up: adapters are read, kernels compiled.
                if repeat:
                    times[name].append(seconds)
        seconds = {name: median(values) for name, values in times.items()}
    total = positions * len(adapters)
    chosen = min(("vllm", "hf"), key=lambda name: seconds[name])
    return [
        row(f"{total} positions, vLLM scorer", seconds["vllm"], seconds["bare"], "bare vllm.LLM.generate", 0.9),
        row(f"{total} positions, {chosen} (as auto takes)", seconds[chosen], seconds["hf"], "HF one-pass", 1),
        *(row(f"positions/s, {name}", total / value) for name, value in seconds.items()),
    ]


def build(storage, config, model, engine):
    """The one segment of the probes of all tasks."""
    tasks = []
    for source, unit in task_units(config, model, storage):
        prepare_one(source, unit, config, model)
        tasks.append(Task(source.name, unit))
    (plan,) = plan_segments(tasks, config.scoring, model, storage)
    build_segment(engine, SegmentWork(plan, config.scoring))
    return plan.unit


def ours(engine, plan):
    """Seconds from the first batch to the last manifest."""
    started = time.perf_counter()
    for works in plan:
        for outcome in score_units(engine, works):
            assert isinstance(outcome, dict), outcome
    return time.perf_counter() - started


def bare(engine, plan):
    """Seconds of the same requests in the same batches, with nothing around them."""
    from vllm import SamplingParams

    asked = [[query for work in works for query in queries_of(work)] for works in plan]
    started = time.perf_counter()
    for queries in asked:
        params = [
            SamplingParams(max_tokens=1, temperature=0.0, logprob_token_ids=query.tokens, detokenize=False)
            for query in queries
        ]
        prompts = [{"prompt_token_ids": query.prompt} for query in queries]
        adapters = [engine._lora(query.adapter) for query in queries]
        engine._llm.generate(prompts, params, use_tqdm=False, lora_request=adapters)
    return time.perf_counter() - started
