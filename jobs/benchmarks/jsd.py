"""Pairwise Jensen-Shannon divergences, n = 100, P = 2000, K = 64 and the tail."""

import os

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax

from jobs.benchmarks._common import medians, row
from taskpgm_ray.affinity import jsd_matrix


def numpy_blocked(logprobs, block=32):
    """The plain float64 loop: for each block of positions and each model, all later models at once."""
    n, positions, _ = logprobs.shape
    total = np.zeros((n, n))
    own = np.zeros(n)
    for start in range(0, positions, block):
        p = np.exp(logprobs[:, start : start + block])
        p = np.concatenate([p, 1 - p.sum(axis=2, keepdims=True)], axis=2).reshape(n, -1)
        own += (p * np.log(p)).sum(axis=1)
        for i in range(n - 1):
            m = (p[i] + p[i + 1 :]) / 2
            total[i, i + 1 :] += (m * np.log(m)).sum(axis=1)
    d = np.triu((own[:, None] + own[None]) / 2 - total, 1) / positions
    return d + d.T


def run():
    """Measure; rows as in jobs/benchmark.py."""
    rng = np.random.default_rng(0)
    n, positions, cells = 100, 2000, 64
    lp = np.ascontiguousarray(log_softmax(rng.normal(size=(n, positions, cells + 1)) * 2, axis=-1)[:, :, :cells])
    cores = len(os.sched_getaffinity(0))
    pairs = [(i, (i * 37 + 11) % n) for i in range(20)]
    p = np.exp(lp)
    p = np.concatenate([p, 1 - p.sum(axis=2, keepdims=True)], axis=2)

    def scipy_part():
        return [np.mean(jensenshannon(p[i], p[j], axis=1) ** 2) for i, j in pairs]

    times = medians(
        {
            "one": lambda: jsd_matrix(lp, threads=1),
            "all": lambda: jsd_matrix(lp),
            "numpy": lambda: numpy_blocked(lp),
            "scipy": scipy_part,
        }
    )
    whole_scipy = times["scipy"] * (n * (n - 1) / 2) / len(pairs)
    D = jsd_matrix(lp)
    against_scipy = [abs(D[i, j] - v) for (i, j), v in zip(pairs, scipy_part(), strict=True)]
    error = float(max(np.abs(D - numpy_blocked(lp)).max(), *against_scipy))
    return [
        row(f"pairwise JSD, {cores} cores", times["all"], times["numpy"], "numpy float64 blocked", 4),
        row("pairwise JSD, 1 core", times["one"], times["numpy"], "numpy float64 blocked", 3),
        row("pairwise JSD, all cores", times["all"], whole_scipy, "scipy jensenshannon (20 pairs, scaled)", 40),
        row("largest error", error, None, "numpy and scipy", 1e-12, error <= 1e-12),
    ]
