"""Block principal pivoting: one balance, many tasks exchanged at a time (docs/mathematics.md, section 6).

The linear complementarity problem of a positive definite matrix is a P-matrix problem. Exchanging all violated tasks
at once usually needs five or six factorisations; exchanging only the one of largest index (Murty's rule) is finite.
After Kim and Park (2011); bounds make it a box problem with the same exchanges.
"""

import numpy as np
import scipy.linalg

from taskpgm_ray.mrf._types import BoolArray, FloatArray
from taskpgm_ray.mrf.psd import cholesky

GRACE = 3
"""Block exchanges that may fail to lower the number of violations before single exchanges begin."""


def block_pivot(
    M: FloatArray,
    linear: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    free: BoolArray,
    at_upper: BoolArray,
    factor: FloatArray | None = None,
    max_iterations: int = 300,
) -> tuple[FloatArray, BoolArray, BoolArray] | None:
    """Minimise p'Mp / 2 - linear'p over {lower <= p <= upper, 1'p = 1} from a guess of the free tasks.

    Args:
        M: positive definite [n, n] (only the part of each visited free set has to be).
        linear: [n].
        lower: [n].
        upper: [n].
        free: guess of the tasks strictly between their bounds.
        at_upper: guess of the tasks at their upper bound; the others start at the lower one.
        factor: Cholesky factor of the whole M if known.
        max_iterations: factorisations before giving up.

    Returns:
        (p, free, at_upper), or None when a factorisation failed or the iterations ran out.
    """
    free, at_upper = free.copy(), at_upper & ~free
    if not free.any():
        free[int(np.argmax(linear))] = True
        at_upper &= ~free
    size = float(np.abs(linear).max()) + float(np.abs(M).max())
    tolerance = 1e-15 * max(size, 1e-300)
    fewest, grace = len(linear) + 1, GRACE
    for _ in range(max_iterations):
        point = _stationary(M, linear, lower, upper, free, at_upper, factor)
        if point is None:
            return None
        p, mu = point
        below = free & (p < lower)
        above = free & (p > upper)
        wants_up = ~free & ~at_upper & (mu < -tolerance) & (upper > lower)
        wants_down = at_upper & (mu > tolerance) & (upper > lower)
        violated = below | above | wants_up | wants_down
        count = int(violated.sum())
        if count == 0:
            return p, free, at_upper
        if count < fewest:
            fewest, grace = count, GRACE
        elif grace > 0:
            grace -= 1
        else:
            keep = np.flatnonzero(violated)[-1]
            single = np.zeros_like(violated)
            single[keep] = True
            violated = single
        free, at_upper = (
            (free & ~(violated & (below | above))) | (violated & (wants_up | wants_down)),
            (at_upper & ~(violated & wants_down)) | (violated & above),
        )
        if not free.any():
            # The sum constraint needs one free task; the one that was most inside is the natural choice.
            free[int(np.argmax(np.where(violated, np.minimum(p - lower, upper - p), -np.inf)))] = True
            at_upper &= ~free
    return None


def _stationary(
    M: FloatArray,
    linear: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    free: BoolArray,
    at_upper: BoolArray,
    factor: FloatArray | None,
) -> tuple[FloatArray, FloatArray] | None:
    """The stationary point with the given active set, once refined: (p, mu), or None if it cannot be factorised."""
    n = len(linear)
    p = np.where(at_upper, upper, lower)
    if free.all():
        part, triangle, index = M, factor if factor is not None else cholesky(M), np.arange(n)
    else:
        index = np.flatnonzero(free)
        part = M[np.ix_(index, index)]
        triangle = cholesky(part)
    if triangle is None:
        return None
    p[index] = 0.0
    fixed = np.flatnonzero(p)
    pull = M[:, fixed] @ p[fixed] if len(fixed) else np.zeros(n)
    rhs = linear[index] - pull[index]
    total = 1.0 - float(p.sum())
    both = _solve(triangle, np.column_stack([rhs, np.ones(len(index))]))
    ones_sum = float(both[:, 1].sum())
    nu = (total - float(both[:, 0].sum())) / ones_sum
    x = both[:, 0] + nu * both[:, 1]
    # One step of refinement on the bordered system: residual of stationarity and of the sum.
    residual = rhs + nu - part @ x
    step = _solve(triangle, residual)
    shift = (total - float(x.sum()) - float(step.sum())) / ones_sum
    x += step + shift * both[:, 1]
    nu += shift
    p[index] = x
    mu = (M[:, index] @ x if not free.all() else M @ x) + pull - linear - nu
    mu[index] = 0.0
    return p, mu


def _solve(triangle: FloatArray, rhs: FloatArray) -> FloatArray:
    solution, _ = scipy.linalg.lapack.dpotrs(triangle, rhs, lower=1)
    return np.asarray(solution, dtype=np.float64).reshape(rhs.shape)
