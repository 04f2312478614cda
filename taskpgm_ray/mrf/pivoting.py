"""Block principal pivoting: one balance, many tasks exchanged at a time (docs/mathematics.md, section 6).

The linear complementarity problem of a positive definite matrix is a P-matrix problem. Exchanging all violated tasks
at once usually needs five or six factorisations; exchanging only the one of largest index (Murty's rule) is finite.
After Kim and Park (2011); bounds make it a box problem with the same exchanges.
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg

from taskpgm_ray.mrf._types import BoolArray, FloatArray
from taskpgm_ray.mrf.psd import cholesky

GRACE = 3
"""Block exchanges that may fail to lower the number of violations before single exchanges begin."""

GROWTH = 16
"""Tasks that may always enter together; more only as many as are free, so that small supports stay small on the way."""


class Pivoted(NamedTuple):
    """An optimum with its active set: weights, tasks between their bounds, tasks at the upper bound; each [n]."""

    p: FloatArray
    free: BoolArray
    at_upper: BoolArray


def block_pivot(
    M: FloatArray,
    linear: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    free: BoolArray,
    at_upper: BoolArray,
    factor: FloatArray | None = None,
    max_iterations: int = 300,
) -> Pivoted | None:
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
        The optimum, or None when a factorisation failed or the iterations ran out.
    """
    movable = upper > lower
    free, at_upper = free.copy(), at_upper & ~free
    if not free.any():
        free[int(np.argmax(linear))] = True
        at_upper &= ~free
    tolerance = 1e-15 * max(float(np.abs(linear).max()) + float(np.abs(np.diag(M)).max()), 1e-300)
    fewest, grace = len(linear) + 1, GRACE
    for _ in range(max_iterations):
        point = _Stationary.of(M, linear, lower, upper, free, at_upper, factor)
        if point is None:
            return None
        for refined in (False, True):
            if refined:
                point.refine()
            p, mu = point.p, point.reduced_costs()
            below, above = free & (p < lower), free & (p > upper)
            wants_up = ~free & ~at_upper & movable & (mu < -tolerance)
            wants_down = at_upper & movable & (mu > tolerance)
            violated = below | above | wants_up | wants_down
            if violated.any():
                break
        else:
            return Pivoted(p, free, at_upper)
        count = int(violated.sum())
        room = max(GROWTH, int(free.sum()))
        if int(wants_up.sum()) > room:
            worst = np.argpartition(np.where(wants_up, mu, 0.0), room)[room:]
            wants_up[worst] = False
            violated = below | above | wants_up | wants_down
        if count < fewest:
            fewest, grace = count, GRACE
        elif grace > 0:
            grace -= 1
        else:
            single = np.zeros_like(violated)
            single[np.flatnonzero(violated)[-1]] = True
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


def stationary(
    M: FloatArray, linear: FloatArray, lower: FloatArray, upper: FloatArray, free: BoolArray,
    factor: FloatArray | None = None,
) -> FloatArray | None:  # fmt: skip
    """The stationary point [n] of given free tasks, the others at their lower bounds; refined if it is feasible.

    Arguments as ``block_pivot``. None when the free part of M is singular to rounding.
    """
    point = _Stationary.of(M, linear, lower, upper, free, np.zeros_like(free), factor)
    if point is None:
        return None
    if ((point.p >= lower) & (point.p <= upper)).all():
        point.reduced_costs()
        point.refine()
    return point.p


class _Stationary:
    """The stationary point of one active set."""

    def __init__(self, rows: FloatArray, triangle: FloatArray, index: np.ndarray, linear: FloatArray, p: FloatArray,
                 pull: FloatArray) -> None:  # fmt: skip
        self.rows, self.triangle, self.index, self.linear, self.p, self.pull = rows, triangle, index, linear, p, pull
        rhs = (linear - pull)[index]
        solved = _solve(triangle, np.column_stack([rhs, np.ones(len(index))]))
        self.direction = solved[:, 1]
        self.total = 1.0 - float(p.sum())
        self.nu = (self.total - float(solved[:, 0].sum())) / float(self.direction.sum())
        self.set(solved[:, 0] + self.nu * self.direction)

    @classmethod
    def of(
        cls, M: FloatArray, linear: FloatArray, lower: FloatArray, upper: FloatArray, free: BoolArray,
        at_upper: BoolArray, factor: FloatArray | None,
    ) -> "_Stationary | None":  # fmt: skip
        """Factorise the free part of M; None when that fails."""
        p = np.where(at_upper, upper, lower)
        p[free] = 0.0
        fixed = np.flatnonzero(p)
        pull = p[fixed] @ M[fixed] if len(fixed) else np.zeros(len(p))
        index = np.flatnonzero(free)
        if len(index) == len(p):
            rows, triangle = M, factor if factor is not None else cholesky(M)
        else:
            # Rows of the symmetric M are contiguous in memory, columns are not.
            rows = M[index]
            triangle = cholesky(rows[:, index])
        if triangle is None:
            return None
        # A factor with a pivot near zero may overflow: such a point is none.
        with np.errstate(over="ignore", invalid="ignore"):
            point = cls(rows, triangle, index, linear, p, pull)
        return point if np.isfinite(point.x).all() else None

    def set(self, x: FloatArray) -> None:
        self.x = x
        self.p[self.index] = x

    def reduced_costs(self) -> FloatArray:
        """mu [n]; what is left on the free tasks is rounding, and set to zero."""
        self.gradient = self.x @ self.rows + self.pull - self.linear
        mu = self.gradient - self.nu
        mu[self.index] = 0.0
        return mu

    def refine(self) -> None:
        """One step of iterative refinement of the bordered system; needs ``reduced_costs`` first."""
        step = _solve(self.triangle, self.nu - self.gradient[self.index])
        shift = (self.total - float(self.x.sum()) - float(step.sum())) / float(self.direction.sum())
        self.nu += shift
        self.set(self.x + step + shift * self.direction)


def _solve(triangle: FloatArray, rhs: FloatArray) -> FloatArray:
    solution, _ = scipy.linalg.lapack.dpotrs(triangle, rhs, lower=1)
    return np.asarray(solution, dtype=np.float64).reshape(rhs.shape)
