"""Timing in turn, rows, and the matrices of the benchmarks."""

import time

import numpy as np


def medians(functions, repeats=3, clock=time.perf_counter):
    """Median seconds of each function by a clock, run in turn ``repeats`` times after one untimed round."""
    for function in functions.values():
        function()
    times = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = clock()
            function()
            times[name].append(clock() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def row(what, ours, peer=None, peer_name=None, target=None, met=None):
    """One row of the table; the ratio is peer over ours."""
    ratio = None if peer is None or not ours else float(peer / ours)
    if met is None and target is not None and ratio is not None:
        met = bool(ratio >= target)
    return {
        "what": what, "ours": ours, "peer": peer, "peer_name": peer_name, "ratio": ratio, "target": target, "met": met
    }  # fmt: skip


def clustered(n, seed=0, dim=20):
    """Gaussian kernel on points in clusters, scaled to a median similarity of one half."""
    rng = np.random.default_rng(seed)
    groups = max(2, n // 20)
    X = rng.normal(size=(n, dim)) + 2 * rng.normal(size=(groups, dim))[rng.integers(0, groups, size=n)]
    G = X @ X.T
    d = np.maximum(np.diag(G)[:, None] + np.diag(G)[None] - 2 * G, 0.0)
    np.fill_diagonal(d, 0.0)
    return np.exp(-np.log(2) / np.median(d[:500][d[:500] > 0]) * d)
