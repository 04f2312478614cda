"""The bandwidth by the noise rule (ours) against the median rule (peer), on simulated pools whose truth is known.

A task is a place in sixty dimensions, an adapter is its task and the luck of its seed, divergences are squared
distances: 0.16 nats between data sets and 0.02 between two adapters of one, about as measured on real pools. Data sets
that come several times are the same task. The figures are how far the mixture at tau = 0 is from giving every data set
the same (total variation between data sets); the means of 50 pools.
"""

import numpy as np

from jobs.benchmarks._common import row
from taskpgm_ray.affinity import effective_number, kernel, median_gamma
from taskpgm_ray.affinity.bandwidth import noise_kernel
from taskpgm_ray.mrf import solve

DIMENSIONS, POOLS, SECONDS = 60, 50, 4
BETWEEN, FLOOR = 0.16, 0.02
"""Nats."""
SHAPES = {
    "14 data sets": [1] * 14,
    "10 data sets, one four times, one twice": [4, 2, *[1] * 8],
    "3 data sets, one ten times": [10, 1, 1],
    "11 data sets, one ten times": [10, *[1] * 10],
    "24 data sets, four of them five times": [5, 5, 5, 5, *[1] * 20],
    "3 data sets": [1] * 3,
    "2 data sets, each six times": [6, 6],
}


def run():
    """A row per shape of a pool, and one of pools without any difference."""
    rng = np.random.default_rng(0)
    rows = []
    for what, shape in SHAPES.items():
        found = np.array([one_pool(rng, shape) for _ in range(POOLS)])
        ours, peer, seen, by_median, true = found.mean(axis=0)
        sees = f"sees {seen:.1f}, median rule {by_median:.1f}, without noise {true:.1f} tasks"
        rows.append(row(f"{what}: {sees}", ours, peer, "median rule", target=1.0))
    contrast = np.mean([noise_kernel(*pool(rng, np.zeros((8, DIMENSIONS)))[:2]).contrast for _ in range(500)])
    what = "8 adapters that are noise: share of 500 pools with contrast"
    rows.append({**row(what, float(contrast), 1.0, "median rule", target=None), "target": 0.025})
    rows[-1]["met"] = contrast <= 0.025
    return rows


def one_pool(rng, shape):
    """(distance to equal shares by the noise rule, by the median rule, tasks seen by both and without noise)."""
    places = np.repeat(rng.normal(size=(len(shape), DIMENSIONS)) * np.sqrt(BETWEEN / 2 / DIMENSIONS), shape, axis=0)
    D, floors, truth = pool(rng, places)
    found, plain = noise_kernel(D, floors), kernel(D, median_gamma(D))
    true = np.exp(-found.gamma * truth) if found.contrast else np.ones_like(truth)
    seen = [effective_number(S) for S in (found.S, plain, true)]
    return [*(_unequal(S, shape) for S in (found.S, plain)), *seen]


def pool(rng, places):
    """(divergences of the adapters, floors by second adapters, divergences without noise)."""
    spread = np.sqrt(FLOOR * np.exp(0.3 * rng.normal(size=len(places))) / 2 / DIMENSIONS)[:, None]
    first, second = (places + spread * rng.normal(size=places.shape) for _ in range(2))
    D, truth = (((x[:, None] - x[None]) ** 2).sum(axis=2) for x in (first, places))
    return D, ((first - second) ** 2).sum(axis=1)[:SECONDS], truth


def _unequal(S, shape):
    weights = np.add.reduceat(solve(S, 0.0).weights, np.cumsum([0, *shape[:-1]]))
    return float(np.abs(weights - 1 / len(shape)).sum() / 2)
