"""Coverage of the 95 % intervals of the weights: simulated examples, true weights from the population.

Each example sees the tasks, points in a few dimensions, in a random metric of its own; metrics have mean 1,
so that the population's divergence is the plain squared distance. In two designs the balance is one at which a task
leaves the true mixture, the worst case for intervals.
"""

import numpy as np

from jobs.benchmarks._common import row
from taskpgm_ray.mrf import bootstrap, infinitesimal_jackknife, path, solve

GAMMA, EXAMPLES, REPEATS, BOOTSTRAPPED = 4.0, 400, 1000, 20
SURE = 0.95
"""Intervals are promised for tasks that are in the mixture at least this often."""

DESIGNS = {"interior, n = 10": (10, 4, 1.1), "a task at the boundary, n = 12": (12, 4, None), "n = 30": (30, 6, None)}
"""Name -> (tasks, dimensions, tau); None: the median balance at which a task leaves."""


def design_rows(name, tasks, dimensions, tau):
    """Rows of one design."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(tasks, dimensions))
    squares = (0.05 * (X[:, None] - X[None]) ** 2).reshape(-1, dimensions)
    S = np.exp(-GAMMA * squares.sum(axis=1).reshape(tasks, tasks))
    if tau is None:
        leaves = path(S).exit
        leaves = np.sort(leaves[np.isfinite(leaves)])
        tau = float(leaves[len(leaves) // 2])
    truth = solve(S, tau).weights
    covered, included = np.zeros((REPEATS, tasks)), np.zeros((REPEATS, tasks))
    frequency = np.zeros((BOOTSTRAPPED, tasks))
    for repeat in range(REPEATS):
        d = (rng.gamma(1.0, size=(EXAMPLES, dimensions)) @ squares.T).reshape(EXAMPLES, tasks, tasks)
        S = np.exp(-GAMMA * d.mean(axis=0))
        m = solve(S, tau)
        low, high = infinitesimal_jackknife(S, m, d, gamma=GAMMA).interval()
        covered[repeat] = (low <= truth) & (truth <= high)
        included[repeat] = m.weights > 0
        if repeat < BOOTSTRAPPED:
            frequency[repeat] = bootstrap(m, d, gamma=GAMMA, replicates=100, seed=repeat).inclusion
    inclusion = included.mean(axis=0)
    sure = inclusion >= SURE
    share = covered[:, sure].mean(axis=0)
    doubtful = int(((inclusion > 0.02) & ~sure).sum())
    what = f"{name}, tau = {tau:.3g}: {int(sure.sum())} sure tasks, {doubtful} doubtful"
    mean, least, most = float(share.mean()), float(share.min()), float(share.max())
    return [
        row(f"{what}; mean coverage", mean, None, None, 0.95, 0.9 <= mean <= 0.98),
        row(f"{name}: lowest coverage of a sure task", least, None, None, 0.90, least >= 0.9),
        row(f"{name}: highest coverage of a sure task", most, None, None, 0.98, most <= 0.98),
        row(
            f"{name}: mean bootstrap inclusion - simulated inclusion, largest",
            float(np.abs(frequency.mean(axis=0) - inclusion).max()),
        ),
    ]


def run():
    """Measure; rows as in jobs/benchmark.py."""
    return [found for name, design in DESIGNS.items() for found in design_rows(name, *design)]
