"""What lowers the spread over seeds, per second of training? (SmolLM2-135M, uniform mixture of pool (a).)

``jobs/studies/redundant.yaml`` with its ``data`` folder, ``TASKPGM_BENCH_SEEDS`` (default 8) seeds a variant, half an
hour in all on two cores with five. Seeds
decide the order and the choice of examples, and nothing else. A verdict has an error of spread / sqrt(seeds), so that
what counts is spread * sqrt(seconds of a fine-tune): ``ours`` is that of a variant of the recipe, ``peer`` that of the
recipe as it is, both on the data sets' held-out examples (mean log-probability of the right answer, nats a token, equal
weight per data set). The row's name has the mean score, since a recipe that learns nothing has no spread.
"""

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from jobs.benchmarks._common import row
from jobs.benchmarks._pool import prepared
from taskpgm_ray.finetune.job import Recipe
from taskpgm_ray.finetune.lora import LoraTrainer

SEEDS = int(os.environ.get("TASKPGM_BENCH_SEEDS", "8"))
STUDY = Path(__file__).resolve().parents[1] / "studies" / "redundant.yaml"
ASKED = 16
"""Held-out examples of a data set."""
PLAIN = "as it is"
VARIANTS = {
    PLAIN: {},
    "half the learning rate": {"learning_rate": 0.5},
    "twice the learning rate": {"learning_rate": 2.0},
    "batches of 16, half the steps": {"batch_size": 2.0, "steps": 0.5},
    "rank 32": {"rank": 4.0},
}
"""Factors of the recipe's fields."""


def run():
    """A row per variant."""
    with prepared(STUDY) as (tasks, model, config, data):
        pad_id = model.tokenizer().pad_token_id or 0
        held = {}
        for task in tasks:
            held.setdefault(task.facts.group, []).extend(task.examples("heldout"))
        held = [examples[:ASKED] for examples in held.values()]
        found = {}
        for name, factors in VARIANTS.items():
            recipe = changed(
                Recipe.of(config.finetune, seed=0, init_seed=0, steps=config.finetune.steps, tokens=None), factors
            )
            trainer = LoraTrainer(model.load(), recipe.lora)
            found[name] = []
            for seed in range(SEEDS):
                found[name].append(one_seed(trainer, data, replace(recipe, seed=seed), pad_id, held))
                print(f"{name}, seed {seed}: score {found[name][-1][0]:.4f}, {found[name][-1][1]:.0f} s", flush=True)
    plain = found.pop(PLAIN)
    told = f"{PLAIN}: mean {score(plain):.4f}, spread {spread(plain):.4f}, {seconds(plain):.0f} s"
    return [
        row(
            f"{name}: mean {score(runs):.4f}, spread {spread(runs):.4f}, {seconds(runs):.0f} s",
            spread(runs) * seconds(runs) ** 0.5,
            spread(plain) * seconds(plain) ** 0.5,
            told,
        )
        for name, runs in found.items()
    ]


def changed(recipe, factors):
    """The recipe with some fields multiplied."""
    rank = round(recipe.lora.r * factors.get("rank", 1))
    return replace(
        recipe,
        steps=round(recipe.steps * factors.get("steps", 1)),
        batch_size=round(recipe.batch_size * factors.get("batch_size", 1)),
        learning_rate=recipe.learning_rate * factors.get("learning_rate", 1),
        lora=recipe.lora.model_copy(update={"r": rank, "alpha": recipe.lora.alpha * rank / recipe.lora.r}),
    )


def one_seed(trainer, data, recipe, pad_id, held):
    """(score, seconds of training) of one fine-tune."""
    started = time.perf_counter()
    trainer.run(data.batches([1 / len(data.pools)] * len(data.pools), recipe), recipe, pad_id, micro_batch_tokens=512)
    trained = time.perf_counter() - started
    return -float(np.mean([trainer.mean_loss(examples, pad_id) for examples in held])), trained


def score(runs):
    """Mean over seeds."""
    return float(np.mean([value for value, _ in runs]))


def spread(runs):
    """Standard deviation of the score over seeds, nats a token."""
    return float(np.std([value for value, _ in runs], ddof=1))


def seconds(runs):
    """Of a fine-tune."""
    return float(np.median([taken for _, taken in runs]))
