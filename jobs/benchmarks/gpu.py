"""A lane's and an engine's speed on a GPU, beside what `taskpgm plan --gpu` assumes of it.

A random Llama with the layers of Llama-3.2-1B, in bfloat16: a lane trains two tasks of 512 tokens an example, the
faster of which counts; then vLLM scores one position, and eight, of prompts of that length.
``TASKPGM_BENCH_GPU`` names the kind of GPU (default: H200), ``TASKPGM_BENCH_SHAPE`` is ``1b``, ``7b`` or ``tiny``,
which is what runs where there is no GPU and says nothing of speed.
"""

import json
import os
import random
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console

from jobs.benchmarks._common import row
from jobs.benchmarks._tiny import TINY, random_llama
from taskpgm_ray.config import StudyConfig
from taskpgm_ray.gpu_speeds import reading_speed, training_speed
from taskpgm_ray.runtime.preflight import local_gpus
from taskpgm_ray.scoring.engine import Query
from taskpgm_ray.study import Study

GPUS = local_gpus()
KIND = os.environ.get("TASKPGM_BENCH_GPU", "H200")
SHAPE = os.environ.get("TASKPGM_BENCH_SHAPE", "1b" if GPUS else "tiny")
SHAPES = {
    "tiny": {"vocabulary_size": 512, "max_position_embeddings": 1024, **TINY, "hidden_size": 64},
    "1b": {
        "vocabulary_size": 49152, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 4096,
    },
    "7b": {
        "vocabulary_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "max_position_embeddings": 4096,
    },
}  # fmt: skip
LENGTH, POSITIONS = 512, 8
PROMPTS = 256 if GPUS else 8
STEPS, BATCH = (24, 32) if GPUS else (2, 4)


def run():
    """Rows of tokens and positions a second."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        random_llama(f"{folder}/model", dtype=torch.bfloat16, **SHAPES[SHAPE])
        study = Study(study_config(Path(folder)), Console(quiet=True))
        with study.driving():
            jobs, _ = study.finetune(study.prepare())
            trained = [job.unit.manifest() for job in jobs]
            read, scored = (reading(study, positions) for positions in (1, POSITIONS))
            model = study.session.model.config()
    lane = max(one["tokens"] / one["seconds"] for one in trained)
    assumed = reading_speed(study.config, model, KIND)
    return [
        row(f"{SHAPE}: tokens/s trained by a lane", lane, training_speed(study.config, model, KIND), "assumed"),
        row(f"{SHAPE}: tokens/s read for one position a prompt", read, assumed, "assumed"),
        row(f"{SHAPE}: tokens/s read for {POSITIONS} positions a prompt", scored, assumed, "assumed"),
        row(f"{SHAPE}: positions/s scored", scored / LENGTH * POSITIONS),
    ]


def study_config(folder):
    """Two tasks of letters, written to the folder, for one lane and one engine that have a GPU each in turn."""
    rng = random.Random(0)
    for name in ("one", "two"):
        rows = [{"prompt": letters(rng, LENGTH - 32), "response": letters(rng, 31)} for _ in range(160)]
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    gpus = {"gpus": 1} if GPUS else {}
    return StudyConfig.model_validate(
        {
            "study": "gpu",
            "storage": str(folder / "runs"),
            "model": {"path": str(folder / "model"), "dtype": "bfloat16", "max_length": 2 * LENGTH},
            "pool": {"tasks": [f"jsonl:{folder}/one.jsonl", f"jsonl:{folder}/two.jsonl"], "probes_per_task": 8},
            "finetune": {
                "steps": STEPS,
                "batch_size": BATCH,
                "learning_rate": 1e-4,
                "lanes": {"max": 1, "micro_batch_tokens": 8192, **gpus},
            },
            "scoring": {"engines": {"max": 1, "max_batched_tokens": 8192, "max_sequences": 256, **gpus}},
            "affinity": {"gamma": "median"},
            "search": {"balances": 0},
            "mixture": {"tau": 0.0},
        }
    )


def letters(rng, count):
    """So many tokens of text."""
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=count))


def reading(study, positions):
    """Tokens of prompts a second of an engine that is asked for the last positions of each, 64 tokens at every one."""
    import ray

    rng = np.random.default_rng(positions)

    def queries(count):
        ends = range(LENGTH - positions, LENGTH)
        prompts = rng.integers(2, 256, (count, LENGTH)).tolist()
        return [Query(ids[:end], [ids[end], *(set(range(2, 66)) - {ids[end]})][:64]) for ids in prompts for end in ends]

    pool = study.session.pool_of("vllm")
    try:
        # What is compiled and compared at first is not timed.
        ray.get(pool.measure(queries(16)))
        _, seconds = ray.get(pool.measure(queries(PROMPTS)))
    finally:
        pool.close()
    return PROMPTS * LENGTH / seconds
