"""Budgeted selection: time, and the quality of greedy and of the unrestricted mixture's heaviest tasks."""

import numpy as np

from jobs.benchmarks._common import clustered, medians, row
from taskpgm_ray.mrf import select, solve


def run():
    """Measure; rows as in jobs/benchmark.py."""
    rows = []
    for n, k in ((100, 10), (200, 20), (1000, 50)):
        S = clustered(n)
        times = medians(
            {"plain": lambda S=S, k=k: select(S, k, 1.0, swaps=False), "polished": lambda S=S, k=k: select(S, k, 1.0)}
        )
        plain, polished = select(S, k, 1.0, swaps=False), select(S, k, 1.0)
        heaviest = np.argsort(-solve(S, 0.999).weights, kind="stable")[:k]
        b = S.mean(axis=1)
        naive = solve(S[np.ix_(heaviest, heaviest)], 1.0, utility=b[heaviest] * k).energy
        rows += [
            row(f"n = {n}, k = {k}: greedy, {plain.exact_solves} solves (s)", times["plain"]),
            row(f"n = {n}, k = {k}: with swaps, {polished.exact_solves} solves (s)", times["polished"]),
            row(f"n = {n}, k = {k}: energy", polished.energy, naive, "top-k of the whole mixture, re-solved"),
        ]
    return rows
