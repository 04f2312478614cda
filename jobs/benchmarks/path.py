"""The whole path over the balance against cvxcla's critical-line algorithm."""

import numpy as np
from threadpoolctl import threadpool_limits

from jobs.benchmarks._common import clustered, medians, row
from taskpgm_ray.mrf import path


def run():
    """Measure; rows as in jobs/benchmark.py."""
    from cvxcla import CLA

    rows = []
    for n in (200, 1000):
        S = clustered(n)
        r = S.mean(axis=1)

        def ours(S=S):
            return path(S)

        def peer(S=S, r=r, n=n):
            return CLA(
                mean=r,
                covariance=S,
                lower_bounds=np.zeros(n),
                upper_bounds=np.ones(n),
                a=np.ones((1, n)),
                b=np.ones(1),
            )

        with threadpool_limits(1):
            times = medians({"ours": ours, "cvxcla": peer})
            traced = ours()
            theirs = peer()
        rows.append(
            row(f"whole path, n = {n} ({len(traced.tau)} breakpoints)", times["ours"], times["cvxcla"], "cvxcla", 8)
        )
        size = np.maximum(1.0, traced.tau) * max(1.0, np.abs(S).max())
        worst = float((traced.gap / size).max())
        rows.append(
            row(
                f"largest relative gap, n = {n} ({len(theirs)} turning points)",
                worst,
                None,
                None,
                1e-12,
                worst <= 1e-12,
            )
        )
    return rows
