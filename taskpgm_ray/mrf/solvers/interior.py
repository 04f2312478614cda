"""Convex quadratic programs with general linear constraints: interior point, then an exact step on its active set.

For constraints that tie tasks together (groups), which the solvers for a box do not know. Mehrotra's predictor and
corrector (Nocedal and Wright, Numerical Optimization, section 16.6); a few dozen factorisations at any size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from taskpgm_ray.numerics.types import BoolArray, FloatArray

ITERATIONS = 100
POLISHES = 50
CENTRED = 1e-15
"""Mean complementarity, relative to the size of the problem, at which the interior point ends."""
BACK = 0.995
"""Part of the way to the boundary that a step goes."""


@dataclass(frozen=True)
class Program:
    """Minimise x'Mx / 2 - c'x over A x = b, lower <= x <= upper, low <= R x <= high."""

    M: FloatArray
    """[n, n], PSD."""
    c: FloatArray
    A: FloatArray
    """[e, n], independent rows."""
    b: FloatArray
    R: FloatArray
    """[g, n]."""
    low: FloatArray
    high: FloatArray
    lower: FloatArray
    upper: FloatArray
    """[n], above ``lower``."""

    @property
    def rows(self) -> FloatArray:
        """All inequalities as G x >= h: G [m, n]."""
        n = len(self.c)
        return np.vstack([np.eye(n), -np.eye(n), self.R, -self.R])

    @property
    def limits(self) -> FloatArray:
        """h [m]."""
        return np.concatenate([self.lower, -self.upper, self.low, -self.high])


@dataclass(frozen=True)
class Minimum:
    """Where a program is least, and the gradient there as a sum of prices."""

    x: FloatArray
    """[n]."""
    prices: FloatArray
    """Of the rows of R [g]: positive where a row is at its low end, negative at its high end."""
    equal_prices: FloatArray
    """Of the rows of A [e]."""


def minimise(program: Program) -> Minimum:
    """The minimum of a feasible program."""
    x, y, z = _interior(program)
    return _polished(program, x, y, z)


def _interior(program: Program) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(x, prices of the equations, multipliers of the inequalities), to about eight digits and more."""
    n, g = len(program.c), len(program.low)
    h = program.limits
    x = (program.lower + program.upper) / 2
    y = np.zeros(len(program.b))
    s = np.maximum(_times(program, x) - h, 0.1)
    size = max(1.0, float(np.abs(program.M).max()), float(np.abs(program.c).max()))
    z = np.full(2 * (n + g), size)
    for _ in range(ITERATIONS):
        dual = program.M @ x - program.c - program.A.T @ y - _transposed(program, z)
        primal = program.A @ x - program.b
        slack = _times(program, x) - h - s
        mu = float(s @ z) / len(s)
        if mu <= CENTRED * size and max(np.abs(primal).max(), np.abs(slack).max()) <= 1e-13:
            break
        solver = _Newton(program, z / s)
        dx, dy, ds, dz = solver.step(dual, primal, slack, s * z, s, z)
        reach = min(_reach(s, ds), _reach(z, dz))
        centre = (float((s + reach * ds) @ (z + reach * dz)) / len(s) / mu) ** 3
        # The second-order term is that of a whole step: where the predictor reaches less, all of it makes steps that
        # circle round the minimum for ever.
        dx, dy, ds, dz = solver.step(dual, primal, slack, s * z + reach**2 * ds * dz - centre * mu, s, z)
        if not np.isfinite(dx).all():
            break
        a, d = min(1.0, BACK * _reach(s, ds)), min(1.0, BACK * _reach(z, dz))
        # One length for both sides: the quadratic term couples them.
        a = d = min(a, d)
        x, s, y, z = x + a * dx, s + a * ds, y + d * dy, z + d * dz
    return x, y, z


class _Newton:
    """The linear system of one iteration, factorised once for predictor and corrector."""

    def __init__(self, program: Program, weight: FloatArray) -> None:
        n, g = len(program.c), len(program.low)
        self.program, self.weight = program, weight
        H = program.M.copy()
        H[np.diag_indices(n)] += weight[:n] + weight[n : 2 * n]
        if g:
            H += (program.R.T * (weight[2 * n : 2 * n + g] + weight[2 * n + g :])) @ program.R
        self.factor = _cholesky(H)
        self.projected = scipy.linalg.cho_solve(self.factor, program.A.T)
        self.schur = _cholesky(program.A @ self.projected)

    def step(
        self, dual: FloatArray, primal: FloatArray, slack: FloatArray, product: FloatArray, s: FloatArray, z: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Newton's step (x, y, s, z) for these residuals."""
        right = -dual - _transposed(self.program, (product + z * slack) / s)
        free = scipy.linalg.cho_solve(self.factor, right)
        dy = scipy.linalg.cho_solve(self.schur, -primal - self.program.A @ free)
        dx = free + self.projected @ dy
        ds = _times(self.program, dx) + slack
        return dx, dy, ds, -(product + z * ds) / s


def _polished(program: Program, x: FloatArray, y: FloatArray, z: FloatArray) -> Minimum:
    """The exact minimum on the active constraints, which are corrected until no sign is wrong."""
    n, g = len(program.c), len(program.low)
    near = Minimum(np.clip(x, program.lower, program.upper), z[2 * n : 2 * n + g] - z[2 * n + g :], y)
    size = max(1.0, float(np.abs(program.M).max()), float(np.abs(program.c).max()))
    active = z > _times(program, x) - program.limits
    seen: set[bytes] = set()
    for _ in range(POLISHES):
        # A variable, or a row, is at one of its ends at most.
        active[n : 2 * n] &= ~active[:n]
        active[2 * n + g :] &= ~active[2 * n : 2 * n + g]
        if active.tobytes() in seen:
            break
        seen.add(active.tobytes())
        x, y, multipliers = _stationary(program, active)
        slack = _times(program, x) - program.limits
        if np.abs(program.A @ x - program.b).max(initial=0.0) > 1e-12:
            # So many constraints cannot all be active: the guess is none of the minimum's.
            break
        broken, paid = slack < -1e-13, multipliers < -1e-13 * size
        if not broken.any() and not paid.any():
            own = multipliers[2 * n : 2 * n + g] - multipliers[2 * n + g :]
            return Minimum(np.clip(x, program.lower, program.upper), own, y)
        active = (active & ~paid) | broken
    return near


def _stationary(program: Program, active: BoolArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The minimum with the active inequalities as equalities: (x, prices of the equations, all multipliers [m])."""
    n, g = len(program.c), len(program.low)
    x = np.where(active[:n], program.lower, program.upper)
    free = ~(active[:n] | active[n : 2 * n])
    at_low, at_high = active[2 * n : 2 * n + g], active[2 * n + g :]
    rows = np.vstack([program.A, program.R[at_low], program.R[at_high]])
    wanted = np.concatenate([program.b, program.low[at_low], program.high[at_high]])
    k, r = int(free.sum()), len(rows)
    fixed = np.where(free, 0.0, x)
    K = np.zeros((k + r, k + r))
    K[:k, :k] = program.M[np.ix_(free, free)]
    K[:k, k:] = -rows[:, free].T
    K[k:, :k] = rows[:, free]
    right = np.concatenate([(program.c - program.M @ fixed)[free], wanted - rows @ fixed])
    # Least squares: of tasks that are the same, or rows that say the same, none is preferred.
    solved = np.linalg.lstsq(K, right, rcond=1e-14)[0]
    x = fixed
    x[free] = solved[:k]
    prices = solved[k:]
    cost = program.M @ x - program.c - rows.T @ prices
    multipliers = np.zeros(2 * (n + g))
    multipliers[:n][active[:n]] = cost[active[:n]]
    multipliers[n : 2 * n][active[n : 2 * n]] = -cost[active[n : 2 * n]]
    own = prices[len(program.b) :]
    multipliers[2 * n : 2 * n + g][at_low] = own[: at_low.sum()]
    multipliers[2 * n + g :][at_high] = -own[at_low.sum() :]
    return x, prices[: len(program.b)], multipliers


def _times(program: Program, x: FloatArray) -> FloatArray:
    """G x."""
    grouped = program.R @ x
    return np.concatenate([x, -x, grouped, -grouped])


def _transposed(program: Program, z: FloatArray) -> FloatArray:
    """G'z."""
    n, g = len(program.c), len(program.low)
    return np.asarray(z[:n] - z[n : 2 * n] + program.R.T @ (z[2 * n : 2 * n + g] - z[2 * n + g :]))


def _cholesky(H: FloatArray) -> tuple[FloatArray, bool]:
    """Factor of a matrix that is positive definite but for rounding."""
    ridge = 0.0
    while True:
        try:
            factor: tuple[FloatArray, bool] = scipy.linalg.cho_factor(H + ridge * np.eye(len(H)), lower=True)
            return factor
        except np.linalg.LinAlgError:
            ridge = max(10 * ridge, 1e-15 * float(np.abs(H).max()))


def _reach(value: FloatArray, step: FloatArray) -> float:
    """How far along the step all values stay positive, at most 1."""
    falling = step < 0
    return float(min(1.0, (-value[falling] / step[falling]).min())) if falling.any() else 1.0
