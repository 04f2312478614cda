"""Which solver runs: closed form, block pivoting, active set, in this order, each checked by the certificate."""

from dataclasses import dataclass

import numpy as np

from taskpgm_ray.errors import TaskPGMError
from taskpgm_ray.mrf._types import BoolArray, FloatArray
from taskpgm_ray.mrf.pivoting import block_pivot
from taskpgm_ray.mrf.problem import Problem
from taskpgm_ray.mrf.psd import cholesky

CERTIFIED = 1e-13
"""A gap below this, times max(1, max|S|) * max(1, tau), ends the search for a better solver."""

LARGEST_FALLBACK = 1e-9
"""A gap above this (same units) after every solver is an error, not a result."""


@dataclass(frozen=True)
class Optimum:
    """An optimal point of the reduced problem: masses [N], gradient threshold nu, the solver that found it."""

    mass: FloatArray
    method: str


def optimum(problem: Problem, tau: float, start: FloatArray | None = None) -> Optimum:
    """Solve one balance. ``start`` [N] is a guess whose positive entries seed the active set."""
    if problem.passes_through_centre and tau == 1.0:
        return Optimum(problem.classes.sums(problem.centre), "closed form")
    best, best_gap = None, np.inf
    limit = CERTIFIED * problem.scale(tau)
    for solver in (_closed_form, _pivoting, _active_set, _polished):
        found = solver(problem, tau, start if best is None else best.mass)
        if found is None:
            continue
        gap = reduced_gap(problem, tau, found.mass)
        if gap < best_gap:
            best, best_gap = found, gap
        if best_gap <= limit:
            break
    if best is None or best_gap > LARGEST_FALLBACK * problem.scale(tau):
        raise TaskPGMError(
            f"no solver reached a certified optimum at tau = {tau:.6g} (gap {best_gap:.3g}): S is too close to "
            "singular for double precision; merge nearly equal tasks or add a ridge to S"
        )
    return best


def reduced_gap(problem: Problem, tau: float, mass: FloatArray) -> float:
    """Certificate of class masses [N]."""
    from taskpgm_ray.mrf.energy import duality_gap

    g = problem.reduced_S @ mass - tau * problem.reduced_b
    return duality_gap(g, mass, problem.reduced_lower, problem.reduced_upper)


def diversity_direction(problem: Problem) -> FloatArray | None:
    """w = M^-1 1 / (1' M^-1 1) over all classes [N], once refined; None when M is singular to rounding."""
    from scipy.linalg.lapack import dpotrs

    factor = problem.factor
    if factor is None:
        return None
    ones = np.ones(len(problem.M))
    x, _ = dpotrs(factor, ones, lower=1)
    step, _ = dpotrs(factor, ones - problem.M @ x, lower=1)
    x = np.asarray(x + step, dtype=np.float64)
    return np.asarray(x / x.sum())


def _closed_form(problem: Problem, tau: float, start: FloatArray | None) -> Optimum | None:
    """p = tau m + (1 - tau) w where that is inside the bounds (section 3 of docs/mathematics.md)."""
    if problem.utility is not None or problem.M is not problem.reduced_S:
        return None
    w = diversity_direction(problem)
    if w is None:
        return None
    mass = tau * problem.classes.sums(problem.centre) + (1 - tau) * w
    inside = (mass >= problem.reduced_lower) & (mass <= problem.reduced_upper)
    return Optimum(mass, "closed form") if inside.all() else None


def _pivoting(problem: Problem, tau: float, start: FloatArray | None) -> Optimum | None:
    lower, upper = problem.reduced_lower, problem.reduced_upper
    linear = tau * problem.reduced_b + problem.offset
    free: BoolArray = np.ones(len(linear), dtype=bool) if start is None else (start > lower) & (start < upper)
    at_upper = np.zeros_like(free) if start is None else (start >= upper) & (upper > lower)
    free = free & (upper > lower)
    if not free.any():
        free = upper > lower
        if not free.any():
            return None
    found = block_pivot(problem.M, linear, lower, upper, free, at_upper, problem.factor)
    return None if found is None else Optimum(np.clip(found[0], lower, upper), "block pivoting")


def _active_set(problem: Problem, tau: float, start: FloatArray | None) -> Optimum:
    from taskpgm_ray.mrf import active_set, workspace

    lower, upper = problem.reduced_lower, problem.reduced_upper
    linear = tau * problem.reduced_b
    p = feasible_start(linear, lower, upper) if start is None else start
    W = workspace.workspace(problem.reduced_S, lower, upper, p)
    active_set.minimise(W, linear, 50 * len(p) + 200)
    return Optimum(np.clip(W.p, lower, upper), "active set")


def _polished(problem: Problem, tau: float, start: FloatArray | None) -> Optimum | None:
    """Solve the bordered system of the support by elimination, whose residual is at rounding even when S_AA is not.

    Explicit inverses lose accuracy on nearly equal tasks. Signs that change are followed for a few exchanges.
    """
    if start is None:
        return None
    lower, upper = problem.reduced_lower, problem.reduced_upper
    S, linear = problem.reduced_S, tau * problem.reduced_b
    p = np.clip(start, lower, upper)
    free = (p > lower) & (p < upper)
    best, best_gap = p, reduced_gap(problem, tau, p)
    for _ in range(20):
        index = np.flatnonzero(free)
        k = len(index)
        if k == 0:
            break
        K = np.ones((k + 1, k + 1))
        K[:k, :k] = S[np.ix_(index, index)]
        K[k, k] = 0.0
        rest = np.where(free, 0.0, p)
        rhs = np.append(linear[index] - S[index] @ rest, 1.0 - rest.sum())
        try:
            x = np.linalg.solve(K, rhs)
        except np.linalg.LinAlgError:
            break
        p = rest.copy()
        p[index] = x[:k]
        outside = (p < lower) | (p > upper)
        p = np.clip(p, lower, upper)
        gap = reduced_gap(problem, tau, p)
        if abs(p.sum() - 1) <= 1e-12 and gap < best_gap:
            best, best_gap = p, gap
        mu = S @ p - linear + x[k]
        size = max(float(np.abs(S).max()), float(np.abs(linear).max()))
        wrong = ~free & (((p <= lower) & (mu < -1e-15 * size)) | ((p >= upper) & (mu > 1e-15 * size))) & (upper > lower)
        if outside.any():
            free &= ~outside
        elif wrong.any():
            free[int(np.argmax(np.where(wrong, np.abs(mu), -1.0)))] = True
        else:
            break
    return Optimum(best, "active set")


def feasible_start(linear: FloatArray, lower: FloatArray, upper: FloatArray) -> FloatArray:
    """The vertex that maximises linear'p: bounds filled from the largest entry."""
    order = np.argsort(-linear, kind="stable")
    room = 1.0 - float(lower.sum())
    capacity = (upper - lower)[order]
    before = np.concatenate([[0.0], np.cumsum(capacity)[:-1]])
    p = lower.copy()
    p[order] += np.clip(room - before, 0.0, capacity)
    return p


__all__ = ["Optimum", "cholesky", "diversity_direction", "feasible_start", "optimum", "reduced_gap"]
