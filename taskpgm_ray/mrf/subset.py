"""The best mixture on a few tasks, and bounds of what further ones would save (docs/mathematics.md, section 8).

A primal active-set method (Wolfe 1976, with bounds). The free tasks A are always affinely independent, so that
H = [[0, 1'], [1, S_AA]]^-1 = [[-1/sigma, w'], [w, Q]] exists for every S that is PSD on 1-perp, singular or not. A task
that enters or leaves changes H by one rank-one term, and a neighbouring subset starts from the H of the last one.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from taskpgm_ray.mrf._types import BoolArray, FloatArray
from taskpgm_ray.mrf.energy import duality_gap, energy
from taskpgm_ray.mrf.optimum import feasible_start, optimum
from taskpgm_ray.mrf.problem import Problem, build

DEPENDENT = 1e-11
"""A task with kappa below this, times max|S|, is affinely dependent on the free tasks."""

CERTIFIED = 1e-12
"""Largest gap of a result, times max|S| + tau max|b| of the subset; above it ``optimum`` solves the subset anew."""


@dataclass(frozen=True)
class Subset:
    """A mixture on a few of n tasks: the best one, unless it comes from ``without``."""

    problem: Problem
    tau: float
    weights: FloatArray
    """[n]."""
    free: list[int]
    """Affinely independent tasks between their bounds (and never none), in the order of the rows of H."""
    H: FloatArray
    """Bordered inverse of the free tasks [k + 1, k + 1], the border first."""

    @cached_property
    def energy(self) -> float:
        """In units of lambda."""
        return energy(self.problem.S, self.problem.b, self.tau, self.weights)

    @cached_property
    def members(self) -> list[int]:
        """Tasks with positive weight, ascending."""
        return [int(i) for i in np.flatnonzero(self.weights > 0)]

    @cached_property
    def all_free(self) -> bool:
        """All members are in ``free``: the energy is that of the minimum over their affine hull."""
        return set(self.members) == set(self.free)

    @cached_property
    def prices(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(mu [n], kappa [n], t [k, n]): reduced cost, squared distance from the affine hull, affine coordinates."""
        S = self.problem.S
        s, z = _coordinates(S, self.free, self.H)
        gradient = S @ self.weights - self.tau * self.problem.b
        mu = gradient - self.H[0, 1:] @ gradient[self.free]
        return mu, np.diag(S) - np.einsum("aj,aj->j", s, z), z[1:]

    @cached_property
    def size(self) -> float:
        """max |S| over the rows of the free tasks: the unit of what counts as rounding."""
        return float(np.abs(self.problem.S[self.free]).max())

    def gains(self) -> tuple[FloatArray, BoolArray]:
        """(bound [n], exact [n]): an upper bound of the energy that each further task saves; is it attained?

        While every member is free, the step from here to the minimum over the affine hull with j saves mu_j^2 / (2
        kappa_j), equation (8.1), exactly that when it keeps all weights inside their bounds. Always valid is -mu_j
        upper_j, the first-order term. Nothing is saved where mu_j >= 0.
        """
        problem = self.problem
        mu, kappa, t = self.prices
        rounding = 1e-14 * (self.size + self.tau * float(np.abs(problem.b).max()))
        useful = (mu < -rounding) & (self.weights <= 0)
        bound = np.where(useful, -mu * problem.upper, 0.0)
        exact = np.zeros(problem.n, dtype=bool)
        if self.all_free:
            clear = np.flatnonzero(useful & (kappa > DEPENDENT * self.size))
            step = -mu[clear] / kappa[clear]
            bound[clear] = np.minimum(bound[clear], -mu[clear] * step / 2)
            moved = self.weights[self.free][:, None] - t[:, clear] * step
            inside = (moved >= 0).all(axis=0) & (moved <= problem.upper[self.free][:, None]).all(axis=0)
            exact[clear] = inside & (step <= problem.upper[clear])
        return bound, exact

    def exchange_gains(self) -> tuple[FloatArray, BoolArray]:
        """(bound [m, n], valid [m]): an upper bound of what the exchange of the m-th member i for task j saves.

        Without i (q = Q e_i) the energy rises by p_i^2 / (2 Q_ii), and for every j outside

            mu'_j = mu_j - p_i t_ij / Q_ii,    kappa'_j = kappa_j + t_ij^2 / Q_ii,

        (8.2), so that one table bounds all exchanges. A row is valid where the others' weights stay inside their bounds
        without i: elsewhere the sign of mu' decides nothing.
        """
        m, n = len(self.members), self.problem.n
        if not self.all_free or m == 1:
            return np.full((m, n), np.inf), np.zeros(m, dtype=bool)
        order = np.argsort(self.free)
        p, Q = self.weights[self.members], self.H[1:, 1:][np.ix_(order, order)]
        mu, kappa, t = self.prices
        t, pivot = t[order], np.diag(Q)
        without = p[:, None] - Q * (p / pivot)
        np.fill_diagonal(without, 0.0)
        upper = self.problem.upper[self.members][:, None]
        valid = ((without >= 0) & (without <= upper)).all(axis=0)
        ratio = t / pivot[:, None]
        mu = np.minimum(mu - p[:, None] * ratio, 0.0)
        kappa = kappa + t * ratio
        bound = -mu * self.problem.upper
        clear = kappa > DEPENDENT * self.size
        bound[clear] = np.minimum(bound[clear], mu[clear] ** 2 / (2 * kappa[clear]))
        bound -= (p**2 / (2 * pivot))[:, None]
        bound[:, self.members] = -np.inf
        return bound, np.asarray(valid)

    def without(self, task: int) -> "Subset | None":
        """A feasible start without a free task, its weight shared equally; None where bounds are in the way."""
        if self.problem.bounded or task not in self.free or len(self.free) == 1:
            return None
        rest, H = _without(self.free, self.H, self.free.index(task))
        weights = self.weights.copy()
        weights[rest] += weights[task] / len(rest)
        weights[task] = 0.0
        return Subset(self.problem, self.tau, weights, rest, H)


def evaluate(problem: Problem, tau: float, tasks: list[int], start: Subset | None = None) -> Subset:
    """The best mixture on ``tasks`` (which hold the members of ``start``), certified by its duality gap.

    Where the subset is singular to double precision and the gap says so, the solvers of ``optimum`` take over.

    Raises:
        TaskPGMError: they reached no certified optimum either.
    """
    index = np.array(sorted(set(tasks)), dtype=np.int64)
    S = problem.S[np.ix_(index, index)]
    linear = tau * problem.b[index]
    lower, upper = problem.lower[index], problem.upper[index]
    if start is None:
        p = feasible_start(linear, lower, upper)
        first = _marginal(S @ p - linear, p, lower)
        free, H = [first], _alone(S, first)
    else:
        p, free, H = start.weights[index], np.searchsorted(index, start.free).tolist(), start.H
    p, free, H = _minimise(S, linear, lower, upper, p, free, H)
    limit = CERTIFIED * float(np.abs(S).max() + np.abs(linear).max())
    if duality_gap(S @ p - linear, p, lower, upper) > limit or abs(p.sum() - 1.0) > CERTIFIED:
        part = build(S, problem.b[index] * len(index), None, lower, upper)
        p = part.expand(optimum(part, tau).mass)
        first = _marginal(S @ p - linear, p, lower)
        free, H = [first], _alone(S, first)
    weights = np.zeros(problem.n)
    weights[index] = p
    return Subset(problem, tau, weights, index[free].tolist(), H)


def _marginal(gradient: FloatArray, p: FloatArray, lower: FloatArray) -> int:
    """The task that sets the price where no other is free: the dearest of those that can give weight away."""
    able = p > lower if (p > lower).any() else p > 0.0
    return int(np.argmax(np.where(able, gradient, -np.inf)))


def _minimise(
    S: FloatArray,
    linear: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    p: FloatArray,
    free: list[int],
    H: FloatArray,
) -> tuple[FloatArray, list[int], FloatArray]:
    """Minimise p'Sp / 2 - linear'p over the box and the simplex from a feasible p and some of its free tasks."""
    scale = float(np.abs(S).max())
    tolerance = 1e-15 * (scale + float(np.abs(linear).max()))
    idle = np.zeros(len(p), dtype=bool)
    for _ in range(10 * len(p) + 20):
        p, free, H = _settle(S, linear, lower, upper, p, free, H)
        g = S @ p - linear
        mu = g - H[0, 1:] @ g[free]
        wants = np.maximum(np.where(p < upper, -mu, 0.0), np.where(p > lower, mu, 0.0))
        wants[free] = 0.0
        wants[idle] = 0.0
        j = int(wants.argmax())
        if wants[j] <= tolerance:
            break
        s, z = _coordinates(S, free, H, j)
        kappa = float(S[j, j] - s @ z)
        if kappa <= DEPENDENT * scale:
            # Along e_j - t the energy falls at the rate |mu_j| until a weight meets its bound.
            direction = np.zeros(len(p))
            direction[j], direction[free] = 1.0, -z[1:]
            direction *= -np.sign(mu[j])
            length, stop = _room(p, direction, lower, upper)
            if wants[j] <= max(kappa, 0.0) * length:
                idle[j] = True  # the minimum is nearer than the bound, and lower by less than rounding
                continue
            p = p + length * direction
            p[stop] = upper[stop] if direction[stop] > 0 else lower[stop]
            idle[:] = False
            if stop in free and len(free) > 1:
                free, H = _without(free, H, free.index(stop))
            elif stop in free:
                free, H = [j], _alone(S, j)
            continue
        free, H = [*free, j], _enter(H, z, kappa)
    p = np.clip(p, lower, upper)
    while len(free) > 1 and p[free].min() <= 0.0:
        # It met its bound together with another task; free tasks have weight.
        free, H = _without(free, H, int(p[free].argmin()))
    if p[free[0]] <= 0.0:
        first = _marginal(S @ p - linear, p, lower)
        free, H = [first], _alone(S, first)
    return p, free, H


def _coordinates(
    S: FloatArray, free: list[int], H: FloatArray, tasks: int | slice = slice(None)
) -> tuple[FloatArray, FloatArray]:
    """(s, z): s = [1; S_A,tasks] and z = H s = [t_n; t], refined once, since H is large where tasks nearly coincide."""
    rows = S[free]
    s = np.concatenate([np.ones_like(rows[:1, tasks]), rows[:, tasks]])
    z = H @ s
    residual = s.copy()
    residual[0] -= z[1:].sum(axis=0)
    residual[1:] -= z[0] + rows[:, free] @ z[1:]
    return s, z + H @ residual


def _settle(
    S: FloatArray,
    linear: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    p: FloatArray,
    free: list[int],
    H: FloatArray,
) -> tuple[FloatArray, list[int], FloatArray]:
    """Move to the minimum over the affine hull of the free tasks; those that meet a bound on the way leave."""
    size = float(np.abs(S).max() + np.abs(linear).max())
    refinements = 0
    while True:
        residual = np.append(1.0 - p.sum(), (linear - S @ p)[free])
        direction = np.zeros(len(p))
        direction[free] = (H @ residual)[1:]
        length, stop = _room(p, direction, lower, upper)
        if length < 1.0 and len(free) > 1:
            p = p + length * direction
            p[stop] = upper[stop] if direction[stop] > 0 else lower[stop]
            free, H = _without(free, H, free.index(stop))
            continue
        p = p + min(length, 1.0) * direction
        stationary = residual[1:] - H[0, 1:] @ residual[1:]
        if max(np.abs(stationary).max(), size * abs(residual[0])) <= 4e-16 * size or refinements == 8:
            return p, free, H
        refinements += 1
        if refinements == 4:
            # Refinement should have arrived by now: the updates have worn H out.
            border = np.ones((len(free) + 1, len(free) + 1))
            border[0, 0], border[1:, 1:] = 0.0, S[np.ix_(free, free)]
            H = np.asarray(np.linalg.inv(border), dtype=np.float64)


def _room(p: FloatArray, direction: FloatArray, lower: FloatArray, upper: FloatArray) -> tuple[float, int]:
    """How far p can move inside the bounds, and the task that meets its bound there."""
    room = np.full(len(p), np.inf)
    falls, rises = direction < 0, direction > 0
    room[falls] = (lower - p)[falls] / direction[falls]
    room[rises] = (upper - p)[rises] / direction[rises]
    stop = int(room.argmin())
    return max(float(room[stop]), 0.0), stop


def _alone(S: FloatArray, task: int) -> FloatArray:
    """H of a single free task."""
    return np.array([[-S[task, task], 1.0], [1.0, 0.0]])


def _enter(H: FloatArray, z: FloatArray, kappa: float) -> FloatArray:
    """H with one more task, where z = H [1; s] = [t_n; t]."""
    u = np.append(z, -1.0)
    grown = np.zeros((len(u), len(u)))
    grown[:-1, :-1] = H
    return np.asarray(grown + np.outer(u, u / kappa))


def _without(free: list[int], H: FloatArray, slot: int) -> tuple[list[int], FloatArray]:
    """The free tasks and H without the task of this slot."""
    h = H[:, slot + 1]
    shrunk = H - np.outer(h, h / h[slot + 1])
    keep = np.arange(len(H)) != slot + 1
    return free[:slot] + free[slot + 1 :], np.asarray(shrunk[np.ix_(keep, keep)])
