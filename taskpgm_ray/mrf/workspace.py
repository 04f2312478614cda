"""The arrays that the compiled active-set kernels share."""

from typing import NamedTuple

import numpy as np

from taskpgm_ray.mrf._types import FloatArray, IntArray

LOWER, FREE, UPPER, FIXED = -1, 0, 1, 2
"""Status of a task: at its lower bound, between the bounds, at its upper bound, lower equal to upper."""

UNBOUNDED = 2.0
"""Stands for "no upper bound" in the kernels: a weight never exceeds 1, so this bound is never met."""


class Workspace(NamedTuple):
    """State of an active-set method for n tasks; the first k entries of A, Q, w, s, t, x count."""

    S: FloatArray
    lower: FloatArray
    upper: FloatArray
    p: FloatArray
    status: "np.ndarray[tuple[int], np.dtype[np.int8]]"
    A: IntArray
    Q: FloatArray
    w: FloatArray
    s: FloatArray
    t: FloatArray
    x: FloatArray
    g: FloatArray
    v: FloatArray
    rows: IntArray


def workspace(S: FloatArray, lower: FloatArray, upper: FloatArray, p: FloatArray) -> Workspace:
    """Allocate the arrays for a start at the feasible point p [n]; p is copied."""
    n = len(S)
    status = np.full(n, FREE, dtype=np.int8)
    status[p <= lower] = LOWER
    status[p >= upper] = UPPER
    status[upper <= lower] = FIXED
    return Workspace(
        S=S,
        lower=lower,
        upper=np.where(upper >= 1.0, UNBOUNDED, upper),
        p=np.clip(p, lower, upper),
        status=status,
        A=np.zeros(n, dtype=np.int64),
        Q=np.zeros((n, n)),
        w=np.zeros(n),
        s=np.zeros(n),
        t=np.zeros(n),
        x=np.zeros(n),
        g=np.zeros(n),
        v=np.zeros(n),
        rows=np.zeros(n, dtype=np.int64),
    )
