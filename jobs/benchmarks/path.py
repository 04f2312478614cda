"""The whole path over the balance against cvxcla's critical-line algorithm."""

import time

import numpy as np
from threadpoolctl import threadpool_limits

from jobs.benchmarks._common import clustered, medians, row
from taskpgm_ray.mrf import path

FAMILIES = {
    "clustered": clustered,
    "nearly singular": lambda n: np.exp(-0.05 * _squares(np.random.default_rng(0).normal(size=(n, 2)))),
    "rank n / 3": lambda n: _gram(np.random.default_rng(0).normal(size=(n, n // 3))),
}


def _squares(X):
    return ((X[:, None] - X[None]) ** 2).sum(-1)


def _gram(X):
    return X @ X.T / X.shape[1]


def _relative_gap(traced, S):
    return float((traced.gap / np.maximum(1.0, np.maximum(1.0, traced.tau) * np.abs(S).max())).max())


def run():
    """Measure; rows as in jobs/benchmark.py."""
    from cvxcla import CLA

    rows = []
    with threadpool_limits(1):
        for n in (200, 1000):
            S = clustered(n)
            r, zeros, ones = S.mean(axis=1), np.zeros(n), np.ones(n)

            def peer(S=S, r=r, zeros=zeros, ones=ones):
                return CLA(
                    mean=r, covariance=S, lower_bounds=zeros, upper_bounds=ones, a=ones[None, :], b=np.ones(1)
                )  # fmt: skip

            times = medians({"ours": lambda S=S: path(S), "cvxcla": peer})
            traced, theirs = path(S), peer()
            what = f"whole path, n = {n} ({len(traced.tau)} breakpoints, cvxcla {len(theirs)})"
            worst = _relative_gap(traced, S)
            rows += [
                row(what, times["ours"], times["cvxcla"], "cvxcla", 8),
                row(f"largest relative gap, n = {n}", worst, None, None, 1e-12, worst <= 1e-12),
            ]
        for name, n in (("clustered", 2000), ("nearly singular", 300), ("rank n / 3", 300)):
            S = FAMILIES[name](n)
            path(S)
            start = time.perf_counter()
            traced = path(S)
            seconds = time.perf_counter() - start
            worst = _relative_gap(traced, S)
            rows += [
                row(f"whole path, {name}, n = {n} ({len(traced.tau)} breakpoints)", seconds),
                row(f"largest relative gap, {name}, n = {n}", worst, None, None, 1e-12, worst <= 1e-12),
            ]
    return rows
