"""Which solver runs: closed form, block pivoting, homotopy, in this order, each checked by the certificate."""

from dataclasses import dataclass

import numpy as np

from taskpgm_ray.errors import TaskPGMError
from taskpgm_ray.mrf._types import FloatArray
from taskpgm_ray.mrf.energy import duality_gap
from taskpgm_ray.mrf.events import FREE, statuses
from taskpgm_ray.mrf.pivoting import block_pivot, stationary
from taskpgm_ray.mrf.problem import Problem

CERTIFIED = 1e-13
"""A gap below this, times max(1, max|S|) * max(1, tau), ends the search for a better solver."""

PROMISED = 1e-12
"""A gap above this (same units) after every solver is an error, not a result."""


SPARSE = 0.25
"""Share of infeasible weights in the closed form above which the search for the support begins with one task."""


@dataclass(frozen=True)
class Optimum:
    """An optimal point of the reduced problem: masses [N], and the solver that found it."""

    mass: FloatArray
    method: str


def optimum(problem: Problem, tau: float, start: FloatArray | None = None) -> Optimum:
    """Solve one balance.

    Args:
        problem: the validated problem of N classes.
        tau: the balance.
        start: a guess [N], whose entries strictly between their bounds seed the free tasks.

    Raises:
        TaskPGMError: no solver reached the promised gap.
    """
    if problem.passes_through_centre and tau == 1.0:
        return Optimum(problem.classes.sums(problem.centre), "closed form")
    found = _pivoting(problem, tau, start)
    if found is not None and reduced_gap(problem, tau, found.mass) <= CERTIFIED * problem.scale(tau):
        return found
    lower, upper = problem.reduced_lower, problem.reduced_upper
    guess = start if found is None else found.mass
    if guess is None or abs(float(guess.sum()) - 1) > 1e-9:
        guess = feasible_start(tau * problem.reduced_b, lower, upper)
    mass = problem.extended_line().optimum(tau, np.clip(guess, lower, upper))
    gap = reduced_gap(problem, tau, mass)
    if gap > PROMISED * problem.scale(tau):
        raise TaskPGMError(
            f"no solver reached a certified optimum at tau = {tau:.6g} (gap {gap:.3g}): S is too close to "
            "singular for double precision; merge nearly equal tasks or add a ridge to S"
        )
    return Optimum(mass, "homotopy")


def reduced_gap(problem: Problem, tau: float, mass: FloatArray) -> float:
    """Certificate of class masses [N]."""
    g = problem.reduced_S @ mass - tau * problem.reduced_b
    return duality_gap(g, mass, problem.reduced_lower, problem.reduced_upper)


def _pivoting(problem: Problem, tau: float, start: FloatArray | None) -> Optimum | None:
    lower, upper = problem.reduced_lower, problem.reduced_upper
    linear = tau * problem.reduced_b + problem.offset
    if start is None:
        # All tasks between their bounds: the closed form. Where that is far from feasible, few tasks will have weight.
        everyone = upper > lower
        if not everyone.any():
            return Optimum(lower, "closed form")
        mass = stationary(problem.M, linear, lower, upper, everyone, problem.factor)
        if mass is not None and ((mass >= lower) & (mass <= upper)).all():
            return Optimum(mass, "closed form")
        if mass is None or float(((mass < lower) | (mass > upper)).mean()) > SPARSE:
            mass = feasible_start(linear, lower, upper)
        start = mass
    status = statuses(start, lower, upper, -linear)
    found = block_pivot(problem.M, linear, lower, upper, status == FREE, status > FREE, problem.factor)
    return None if found is None else Optimum(np.clip(found.p, lower, upper), "block pivoting")


def feasible_start(linear: FloatArray, lower: FloatArray, upper: FloatArray) -> FloatArray:
    """The vertex that maximises linear'p: bounds filled from the largest entry."""
    order = np.argsort(-linear, kind="stable")
    room = 1.0 - float(lower.sum())
    capacity = (upper - lower)[order]
    before = np.concatenate([[0.0], np.cumsum(capacity)[:-1]])
    p = lower.copy()
    p[order] += np.clip(room - before, 0.0, capacity)
    return p


__all__ = ["Optimum", "feasible_start", "optimum", "reduced_gap"]
