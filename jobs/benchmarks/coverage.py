"""Coverage of the 95 % intervals of the weights: simulated examples, true weights from the population."""

import numpy as np

from jobs.benchmarks._common import row
from taskpgm_ray.mrf import bootstrap, infinitesimal_jackknife, solve

GAMMA, TAU, TASKS, EXAMPLES, REPEATS = 4.0, 1.1, 10, 400, 200


def run():
    """Measure; rows as in jobs/benchmark.py."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(TASKS, 4))
    squares = 0.05 * (X[:, None] - X[None]) ** 2
    # Gamma(1) metrics have mean 1: the population divergence is the plain sum.
    truth = solve(np.exp(-GAMMA * squares.sum(-1)), TAU).weights
    covered, inclusion = np.zeros((REPEATS, TASKS)), np.zeros((REPEATS, TASKS))
    for repeat in range(REPEATS):
        d = np.einsum("ijx,ex->eij", squares, rng.gamma(1.0, size=(EXAMPLES, 4)))
        S = np.exp(-GAMMA * d.mean(axis=0))
        m = solve(S, TAU)
        low, high = infinitesimal_jackknife(S, m, d, gamma=GAMMA).interval()
        covered[repeat] = (low <= truth) & (truth <= high)
        inclusion[repeat] = m.weights > 0
    sure = inclusion.mean(axis=0) >= 0.95
    share = covered[:, sure].mean(axis=0)
    d = np.einsum("ijx,ex->eij", squares, rng.gamma(1.0, size=(EXAMPLES, 4)))
    m = solve(np.exp(-GAMMA * d.mean(axis=0)), TAU)
    frequency = bootstrap(m, d, gamma=GAMMA).inclusion
    return [
        row(
            f"mean coverage, {int(sure.sum())} tasks with inclusion >= 0.95",
            float(share.mean()),
            None,
            None,
            0.95,
            bool(0.9 <= share.mean() <= 0.98),
        ),
        row("lowest coverage of a task", float(share.min()), None, None, 0.90, bool(share.min() >= 0.9)),
        row("highest coverage of a task", float(share.max()), None, None, 0.98, bool(share.max() <= 0.98)),
        row(
            "bootstrap inclusion - simulated inclusion, largest",
            float(np.abs(frequency - inclusion.mean(axis=0)).max()),
        ),
    ]
