"""Block principal pivoting: one balance, many tasks exchanged at a time (docs/mathematics.md, section 6).

The linear complementarity problem of a positive definite matrix is a P-matrix problem. Exchanging all violated tasks
at once usually needs five or six factorisations; exchanging only the one of largest index (Murty's rule) is finite.
After Kim and Park (2011); bounds make it a box problem with the same exchanges.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.linalg
from scipy.linalg.blas import dtrsv

from taskpgm_ray.numerics.psd import cholesky
from taskpgm_ray.numerics.types import BoolArray, FloatArray

GRACE = 3
"""Block exchanges that may fail to lower the number of violations before single exchanges begin."""

GROWTH = 16
"""Tasks that may always enter together; more only as many as are free, so that small supports stay small on the way."""

LARGE = 256
"""Order above which two triangular solves of one vector, which read the factor once each, are faster than `dpotrs`."""

ITERATIONS = 300
"""Factorisations before giving up."""


class Quadratic(NamedTuple):
    """Minimise p'Mp / 2 - linear'p over {lower <= p <= upper, 1'p = 1}."""

    M: FloatArray
    """Positive definite [n, n] (only the part of each visited free set has to be)."""
    linear: FloatArray
    """[n]."""
    lower: FloatArray
    """[n]."""
    upper: FloatArray
    """[n]."""
    factor: FloatArray | None = None
    """Cholesky factor of the whole M if known."""
    solved: FloatArray | None = None
    """M^-1 linear [n] if known."""


def block_pivot(problem: Quadratic, free: BoolArray, at_upper: BoolArray) -> FloatArray | None:
    """The optimum [n] from a guess of its active set.

    Args:
        problem: of n tasks.
        free: guess of the tasks strictly between their bounds [n].
        at_upper: guess of the tasks at their upper bound [n]; the others start at the lower one.

    Returns:
        The optimum, or None when a factorisation failed or the iterations ran out.
    """
    free, at_upper = free.copy(), at_upper & ~free
    if not free.any():
        free[int(np.argmax(problem.linear))] = True
        at_upper &= ~free
    fewest, grace = len(free) + 1, GRACE
    size = float(np.abs(problem.linear).max()) + float(np.abs(np.diag(problem.M)).max())
    tolerance = 1e-15 * max(size, 1e-300)
    for _ in range(ITERATIONS):
        point = _Stationary.of(problem, free, at_upper)
        if point is None:
            return None
        violations = _violations(problem, point, free, at_upper, tolerance)
        if not violations.tasks.any():
            point.refine()
            violations = _violations(problem, point, free, at_upper, tolerance)
            if not violations.tasks.any():
                return point.p
        count = int(violations.tasks.sum())
        changes = violations.tasks & ~violations.surplus(max(GROWTH, int(free.sum())))
        if count < fewest:
            fewest, grace = count, GRACE
        elif grace > 0:
            grace -= 1
        else:
            last = int(np.flatnonzero(changes)[-1])
            changes = np.zeros_like(changes)
            changes[last] = True
        leaving, entering = changes & violations.crossed, changes & violations.mispriced
        at_upper = (at_upper & ~entering) | (changes & violations.above)
        free = (free & ~leaving) | entering
        if not free.any():
            # The sum constraint needs one free task; the one that was most inside is the natural choice.
            inside = np.minimum(point.p - problem.lower, problem.upper - point.p)
            free[int(np.argmax(np.where(changes, inside, -np.inf)))] = True
            at_upper &= ~free
    return None


def stationary(problem: Quadratic, free: BoolArray) -> FloatArray | None:
    """The stationary point [n] of given free tasks, the others at their lower bounds; refined if it is feasible.

    None when the free part of M is singular to rounding.
    """
    point = _Stationary.of(problem, free, np.zeros_like(free))
    if point is None:
        return None
    if ((point.p >= problem.lower) & (point.p <= problem.upper)).all():
        point.reduced_costs()
        point.refine()
    return point.p


@dataclass
class _Violations:
    """What is wrong with a stationary point; each mask [n]."""

    mu: FloatArray
    above: BoolArray
    """Free tasks above their upper bound."""
    crossed: BoolArray
    """Free tasks outside their bounds."""
    wants_up: BoolArray
    """Tasks at their lower bound that are worth more weight."""
    mispriced: BoolArray
    """Tasks at a bound whose reduced cost has the wrong sign."""

    def __post_init__(self) -> None:
        """Join the masks."""
        self.tasks = self.crossed | self.mispriced

    def surplus(self, room: int) -> BoolArray:
        """The tasks that want to enter beyond the ``room`` that gain most."""
        surplus = np.zeros_like(self.wants_up)
        if int(self.wants_up.sum()) > room:
            surplus[np.argpartition(np.where(self.wants_up, self.mu, 0.0), room)[room:]] = True
        return surplus & self.wants_up


def _violations(
    problem: Quadratic, point: "_Stationary", free: BoolArray, at_upper: BoolArray, tolerance: float
) -> _Violations:
    """What is wrong with a point; prices within the tolerance (units of S) are right."""
    p, mu = point.p, point.reduced_costs()
    movable = problem.upper > problem.lower
    above = free & (p > problem.upper)
    wants_up = ~free & ~at_upper & movable & (mu < -tolerance)
    wants_down = at_upper & movable & (mu > tolerance)
    return _Violations(mu, above, above | (free & (p < problem.lower)), wants_up, wants_up | wants_down)


class _Stationary:
    """The stationary point of one active set."""

    def __init__(
        self, rows: FloatArray, triangle: FloatArray, index: np.ndarray, linear: FloatArray, p: FloatArray,
        pull: FloatArray, solved: FloatArray | None = None,
    ) -> None:  # fmt: skip
        self.rows, self.triangle, self.index, self.linear, self.p, self.pull = rows, triangle, index, linear, p, pull
        ones = np.ones(len(index))
        if solved is None:
            both = _solve(triangle, np.column_stack([(linear - pull)[index], ones]))
            solved, self.direction = both[:, 0], both[:, 1]
        else:
            self.direction = _solve(triangle, ones)
        self.total = 1.0 - float(p.sum())
        self.nu = (self.total - float(solved.sum())) / float(self.direction.sum())
        self.set(solved + self.nu * self.direction)

    @classmethod
    def of(cls, problem: Quadratic, free: BoolArray, at_upper: BoolArray) -> "_Stationary | None":
        """Factorise the free part of M; None when that fails."""
        M = problem.M
        p = np.where(at_upper, problem.upper, problem.lower)
        p[free] = 0.0
        fixed = np.flatnonzero(p)
        pull = p[fixed] @ M[fixed] if len(fixed) else np.zeros(len(p))
        index = np.flatnonzero(free)
        solved = None
        if len(index) == len(p):
            solved = problem.solved
            rows, triangle = M, problem.factor if problem.factor is not None else cholesky(M)
        else:
            # Rows of the symmetric M are contiguous in memory, columns are not.
            rows = M[index]
            triangle = cholesky(rows[:, index])
        if triangle is None:
            return None
        # A factor with a pivot near zero may overflow: such a point is none.
        with np.errstate(over="ignore", invalid="ignore"):
            point = cls(rows, triangle, index, problem.linear, p, pull, solved)
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
    """(L L')^-1 rhs, for rhs [k] or [k, m]."""
    if len(triangle) < LARGE:
        solution, _ = scipy.linalg.lapack.dpotrs(triangle, rhs, lower=1)
        return np.asarray(solution, dtype=np.float64).reshape(rhs.shape)
    columns = [dtrsv(triangle, dtrsv(triangle, one, lower=1), lower=1, trans=1) for one in np.atleast_2d(rhs.T)]
    return np.asarray(columns, dtype=np.float64).T.reshape(rhs.shape)
