"""5,000 tasks: one balance, a grid of 32 and the whole path, with time and peak memory."""

import resource
import time

import numpy as np

from jobs.benchmarks._common import clustered, row
from taskpgm_ray.mrf import grid, path, solve


def run():
    """Measure; rows as in jobs/benchmark.py."""
    S = clustered(5000)
    start = time.perf_counter()
    one = solve(S, 2.0)
    single = time.perf_counter() - start
    start = time.perf_counter()
    mixtures = grid(S, np.linspace(0, 6, 32))
    whole = time.perf_counter() - start
    worst = max(one.gap, *(m.gap / max(1.0, m.tau) for m in mixtures))
    peak = _peak_memory()
    start = time.perf_counter()
    traced = path(S)
    tracing = time.perf_counter() - start
    along = float((traced.gap / np.maximum(1.0, traced.tau)).max())
    return [
        row("n = 5000, one balance (s)", single),
        row("n = 5000, grid of 32 balances (s)", whole),
        row("largest relative gap", worst, None, None, 1e-12, worst <= 1e-12),
        row("peak memory of the process so far (GiB)", peak),
        row(f"n = 5000, whole path, {len(traced.tau)} breakpoints (s)", tracing),
        row("largest relative gap along the path", along, None, None, 1e-12, along <= 1e-12),
        row("peak memory of the process (GiB)", _peak_memory()),
    ]


def _peak_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
