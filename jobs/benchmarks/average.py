"""Does an average over the end of a fine-tune lower the spread over seeds? (SmolLM2-135M, uniform mixture of the
quickstart's eight tasks, 48 steps of 8 examples, ``TASKPGM_BENCH_SEEDS`` (default 8) seeds.)

Of each run the last adapter is compared with averages of its weights: over the last quarter or half of the steps, and
exponential ones. ``ours`` is the standard deviation over seeds of the mean log-probability (nats a token) of the right
answers with the average, ``peer`` that with the last adapter of the same runs: on the tasks' own probes, and on MMLU's
and BBH's exemplars, which no task resembles. The mean scores are in the row's name.
"""

import os
from pathlib import Path

import numpy as np

from jobs.benchmarks._common import row
from jobs.benchmarks._pool import prepared
from taskpgm_ray.evaluation.sources import load_items
from taskpgm_ray.finetune.job import Recipe
from taskpgm_ray.finetune.lora import LoraTrainer

SEEDS, STEPS = int(os.environ.get("TASKPGM_BENCH_SEEDS", "8")), 48
QUICKSTART = Path(__file__).resolve().parents[1] / "quickstart.yaml"
ASKED = 60
"""Questions of MMLU, and of BBH."""


def run():
    """A row per average and kind of question."""
    with prepared(QUICKSTART) as (tasks, model, config, data):
        tokenizer = model.tokenizer()
        questions = {"own probes": [task.examples("probe") for task in tasks], "MMLU and BBH": asked(tokenizer)}
        trainer = LoraTrainer(model.load(), config.finetune.lora)
        scores = [
            one_seed(trainer, data, config, seed, tokenizer.pad_token_id or 0, questions) for seed in range(SEEDS)
        ]
    rows = []
    for kind in questions:
        last = np.array([found["last"][kind] for found in scores])
        for name in list(scores[0])[1:]:
            values = np.array([found[name][kind] for found in scores])
            what = f"{kind}, {name}: mean {values.mean():.4f}, with the last adapter {last.mean():.4f}"
            rows.append(row(what, values.std(ddof=1), last.std(ddof=1), "last adapter"))
    return rows


def asked(tokenizer):
    """MMLU's and BBH's exemplars as (prompt, right answer) in token ids, a list for each benchmark."""
    found = {}
    for task in load_items("exemplars").tasks:
        for item in (*task.shared, *task.search, *task.report):
            ids = [tokenizer(text).input_ids for text in (f"Q: {item.question}\nA:", f" {item.right_answer}")]
            if len(ids[0]) + len(ids[1]) <= 192:
                found.setdefault(item.benchmark, []).append(tuple(ids))
    rng = np.random.default_rng(0)
    return [[pairs[i] for i in rng.permutation(len(pairs))[:ASKED]] for pairs in found.values()]


def one_seed(trainer, data, config, seed, pad_id, questions):
    """Name of the average -> kind of question -> score, of one run."""
    finetune = config.finetune
    recipe = Recipe.of(finetune, seed=seed, init_seed=0, steps=STEPS, tokens=None)
    weights = [1 / len(data.pools)] * len(data.pools)
    path = []

    def keep(row, snapshot):
        path.append({name: p.detach().clone() for name, p in trainer.parameters.items()})

    trainer.run(data.batches(weights, recipe), recipe, pad_id, on_step=keep, micro_batch_tokens=512)
    averages = {
        "last": path[-1],
        "mean of the last quarter": mean(path[-STEPS // 4 :]),
        "mean of the last half": mean(path[-STEPS // 2 :]),
        "exponential, 0.9": exponential(path, 0.9),
        "exponential, 0.95": exponential(path, 0.95),
    }
    found = {}
    for name, adapter in averages.items():
        for parameter, value in adapter.items():
            trainer._assign(trainer.parameters[parameter], value)
        found[name] = {
            kind: -float(np.mean([trainer.mean_loss(pairs, pad_id) for pairs in lists]))
            for kind, lists in questions.items()
        }
    return found


def mean(path):
    """Of the weights along a part of the run."""
    return {name: sum(step[name] for step in path) / len(path) for name in path[0]}


def exponential(path, decay):
    """The exponential average from the first step on, corrected for its start."""
    total, weight = {name: 0.0 * value for name, value in path[0].items()}, 0.0
    for step in path:
        total = {name: decay * total[name] + (1 - decay) * value for name, value in step.items()}
        weight = decay * weight + 1 - decay
    return {name: value / weight for name, value in total.items()}
