"""Equal systems judged on few items: how often is a difference shown that is none?

``ours`` is the share of simulated comparisons with a verdict, at 95 % and with five seeds of each system. By how much
the systems differ spreads by 0.3 nats over items, by 0.02 over seeds, and by another 0.1 over items within a seed.
"""

import numpy as np

from jobs.benchmarks._common import row
from taskpgm_ray.evaluation import ItemScore
from taskpgm_ray.evaluation.statistics import NOT_SHOWN, paired_difference, verdict

STUDIES, SEEDS, RESAMPLES = 300, 5, 1000
LASTING, PASSING, SPREAD = 0.3, 0.1, 0.02
NOMINAL = 0.05
DESIGNS = {
    "MMLU 57 x 2 and BBH 27 x 2": {"mmlu": [2] * 57, "bbh": [2] * 27},
    "the same and one task of 2": {"mmlu": [2] * 57, "bbh": [2] * 27, "arc_easy": [2]},
    "the same and one task of 30": {"mmlu": [2] * 57, "bbh": [2] * 27, "arc_easy": [30]},
    "8 data sets of 20": {"pool": [20] * 8},
    "3 tasks of 2": {"bbh": [2] * 3},
    "one task of 5": {"arc_easy": [5]},
    "one task of 2": {"arc_easy": [2]},
}


def run():
    """A row per design; it is met within two standard errors of the simulation."""
    rows, chance = [], 2 * np.sqrt(NOMINAL * (1 - NOMINAL) / STUDIES)
    for what, sizes in DESIGNS.items():
        share = float(np.mean([shown(sizes, np.random.default_rng(study)) for study in range(STUDIES)]))
        rows.append({**row(what, share), "target": NOMINAL, "met": share <= NOMINAL + chance})
    return rows


def shown(sizes, rng):
    """Whether two equal systems are told apart; the other one is 0 on all items, so that one is the difference."""
    keys = [
        (name, f"t{t}", str(item)) for name, tasks in sizes.items() for t, n in enumerate(tasks) for item in range(n)
    ]
    values = rng.normal(0, LASTING, len(keys)) + rng.normal(0, SPREAD, (SEEDS, 1))
    values = values + rng.normal(0, PASSING, (SEEDS, len(keys)))
    one = [
        ItemScore(*key, 0.0, value, seed)
        for seed in range(SEEDS)
        for key, value in zip(keys, values[seed], strict=True)
    ]
    other = [ItemScore(*key, 0.0, 0.0, seed) for seed in range(SEEDS) for key in keys]
    return verdict(paired_difference(one, other, n_boot=RESAMPLES)) != NOT_SHOWN
