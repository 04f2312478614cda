"""Which solver runs: closed form, block pivoting, homotopy, in this order, each checked by the certificate."""

from dataclasses import dataclass

import numpy as np

from taskpgm_ray.errors import TaskPGMError
from taskpgm_ray.mrf.energy import cheapest, duality_gap, gradient
from taskpgm_ray.mrf.solvers.events import FREE, statuses
from taskpgm_ray.mrf.solvers.pivoting import Quadratic, block_pivot, stationary
from taskpgm_ray.mrf.solvers.problem import Problem
from taskpgm_ray.numerics.types import FloatArray

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


def find_optimum(problem: Problem, tau: float, start: FloatArray | None = None) -> Optimum:
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
    if found is not None and _gap(problem, tau, found.mass) <= CERTIFIED * problem.scale(tau):
        return found
    mass = problem.extended_line().optimum(tau, _feasible(problem, tau, start if found is None else found.mass))
    gap = _gap(problem, tau, mass)
    if gap > PROMISED * problem.scale(tau):
        raise TaskPGMError(
            f"no solver reached a certified optimum at tau = {tau:.6g} (gap {gap:.3g}): S is too close to "
            "singular for double precision; merge nearly equal tasks or add a ridge to S"
        )
    return Optimum(mass, "homotopy")


def _gap(problem: Problem, tau: float, mass: FloatArray) -> float:
    """Certificate of class masses [N]."""
    g = gradient(problem.reduced_S, problem.reduced_b, tau, mass)
    return duality_gap(g, mass, problem.reduced_lower, problem.reduced_upper)


def _feasible(problem: Problem, tau: float, guess: FloatArray | None) -> FloatArray:
    """The guess where it is feasible once it is cut to the bounds, else a vertex."""
    lower, upper = problem.reduced_lower, problem.reduced_upper
    if guess is not None:
        inside = np.clip(guess, lower, upper)
        if abs(float(inside.sum()) - 1) <= 1e-9:
            return inside
    # lower + (upper - lower) may miss upper by rounding.
    return np.clip(dearest_vertex(tau * problem.reduced_b, lower, upper), lower, upper)


def _pivoting(problem: Problem, tau: float, start: FloatArray | None) -> Optimum | None:
    lower, upper = problem.reduced_lower, problem.reduced_upper
    linear = tau * problem.reduced_b + problem.offset
    quadratic = Quadratic(problem.M, linear, lower, upper, problem.factor, problem.unconstrained(tau))
    if start is None:
        # All tasks between their bounds: the closed form. Where that is far from feasible, few tasks will have weight.
        everyone = upper > lower
        if not everyone.any():
            return Optimum(lower, "closed form")
        mass = stationary(quadratic, everyone)
        if mass is not None and ((mass >= lower) & (mass <= upper)).all():
            return Optimum(mass, "closed form")
        if mass is None or float(((mass < lower) | (mass > upper)).mean()) > SPARSE:
            mass = dearest_vertex(linear, lower, upper)
        start = mass
    status = statuses(start, lower, upper, -linear)
    found = block_pivot(quadratic, status == FREE, status > FREE)
    return None if found is None else Optimum(np.clip(found, lower, upper), "block pivoting")


def dearest_vertex(linear: FloatArray, lower: FloatArray, upper: FloatArray) -> FloatArray:
    """The vertex [n] that maximises linear'p: bounds filled from the largest entry."""
    order, weights = cheapest(-linear, lower, upper)
    p = np.empty(len(order))
    p[order] = weights
    return p
