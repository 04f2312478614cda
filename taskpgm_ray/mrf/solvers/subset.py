"""The best mixture on a few tasks, and bounds of what further ones would save (docs/mathematics.md, section 8).

A primal active-set method (Wolfe 1976, with bounds). The free tasks A are always affinely independent, so that
H = [[0, 1'], [1, S_AA]]^-1 = [[-1/sigma, w'], [w, Q]] exists for every S that is PSD on 1-perp, singular or not. A task
that enters or leaves changes H by one rank-one term, and a neighbouring subset starts from the H of the last one.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from taskpgm_ray.mrf.energy import duality_gap, energy, gradient
from taskpgm_ray.mrf.solvers.optimum import dearest_vertex, find_optimum
from taskpgm_ray.mrf.solvers.problem import Problem, build
from taskpgm_ray.numerics.types import BoolArray, FloatArray

DEPENDENT = 1e-11
"""A task with kappa below this, times max|S|, is affinely dependent on the free tasks."""

CERTIFIED = 1e-12
"""Largest gap of a result, times max|S| + tau max|b| of the subset; above it ``optimum`` solves it anew."""


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
        s, z = coordinates(S, self.free, self.H)
        g = gradient(S, self.problem.b, self.tau, self.weights)
        mu = g - self.H[0, 1:] @ g[self.free]
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
        rest, H = leave(self.free, self.H, self.free.index(task))
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
    search = ActiveSet(
        problem.S[np.ix_(index, index)], tau * problem.b[index], problem.lower[index], problem.upper[index]
    )
    if start is None:
        search.stand_on(dearest_vertex(search.linear, search.lower, search.upper))
    else:
        search.p, search.H = start.weights[index], start.H
        search.free = np.searchsorted(index, start.free).tolist()
    search.minimise()
    if search.gap() > CERTIFIED * search.size or abs(search.p.sum() - 1.0) > CERTIFIED:
        part = build(search.S, problem.b[index] * len(index), None, search.lower, search.upper)
        search.stand_on(part.expand(find_optimum(part, tau).mass))
    weights = np.zeros(problem.n)
    weights[index] = search.p
    return Subset(problem, tau, weights, index[search.free].tolist(), search.H)


@dataclass
class ActiveSet:
    """Minimise p'Sp / 2 - linear'p over the box and the simplex: a feasible p [n] and its free tasks, on the way."""

    S: FloatArray
    linear: FloatArray
    lower: FloatArray
    upper: FloatArray
    p: FloatArray = field(default_factory=lambda: np.zeros(0))
    free: list[int] = field(default_factory=list)
    """Affinely independent tasks between their bounds, in the order of the rows of H."""
    H: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))
    """Bordered inverse of the free tasks, the border first."""

    def __post_init__(self) -> None:
        """Fix the units of S and of a gradient, below which differences are rounding."""
        self.scale = float(np.abs(self.S).max())
        self.size = self.scale + float(np.abs(self.linear).max())

    def gradient(self) -> FloatArray:
        """S p - linear [n]."""
        return self.S @ self.p - self.linear

    def gap(self) -> float:
        """The certificate of p."""
        return duality_gap(self.gradient(), self.p, self.lower, self.upper)

    def stand_on(self, p: FloatArray) -> None:
        """Start from a feasible p with one free task, the dearest of those that can give weight away."""
        self.p = p
        able = p > self.lower if (p > self.lower).any() else p > 0.0
        self._only(int(np.argmax(np.where(able, self.gradient(), -np.inf))))

    def minimise(self) -> None:
        """Go to the minimum: settle, let in the task of largest reduced cost, until none is worth it."""
        idle = np.zeros(len(self.p), dtype=bool)
        for _ in range(10 * len(self.p) + 20):
            self._settle()
            g = self.gradient()
            mu = g - self.H[0, 1:] @ g[self.free]
            wants = np.maximum(np.where(self.p < self.upper, -mu, 0.0), np.where(self.p > self.lower, mu, 0.0))
            wants[self.free] = 0.0
            wants[idle] = 0.0
            j = int(wants.argmax())
            if wants[j] <= 1e-15 * self.size:
                break
            s, z = coordinates(self.S, self.free, self.H, j)
            kappa = float(self.S[j, j] - s @ z)
            if kappa > DEPENDENT * self.scale:
                self.free, self.H = [*self.free, j], _enter(self.H, z, kappa)
            elif self._slide(j, float(mu[j]), kappa, z):
                idle[:] = False
            else:
                idle[j] = True
        self.p = np.clip(self.p, self.lower, self.upper)
        while len(self.free) > 1 and self.p[self.free].min() <= 0.0:
            # It met its bound together with another task; free tasks have weight.
            self.free, self.H = leave(self.free, self.H, int(self.p[self.free].argmin()))
        if self.p[self.free[0]] <= 0.0:
            self.stand_on(self.p)

    def _only(self, task: int) -> None:
        self.free, self.H = [task], np.array([[-self.S[task, task], 1.0], [1.0, 0.0]])

    def _slide(self, j: int, mu: float, kappa: float, z: FloatArray) -> bool:
        """Let in a dependent task j: along e_j - t the energy falls at the rate |mu| until a weight meets its bound.

        False where the minimum is nearer than the bound, and lower by less than rounding: p stays.
        """
        direction = np.zeros(len(self.p))
        direction[j], direction[self.free] = 1.0, -z[1:]
        direction *= -np.sign(mu)
        length, stop = self._room(direction)
        if abs(mu) <= max(kappa, 0.0) * length:
            return False
        self._step(direction, length, stop)
        if stop in self.free and len(self.free) > 1:
            self.free, self.H = leave(self.free, self.H, self.free.index(stop))
        elif stop in self.free:
            self._only(j)
        return True

    def _settle(self) -> None:
        """Move to the minimum over the affine hull of the free tasks; those that meet a bound on the way leave."""
        refinements = 0
        while True:
            residual = np.append(1.0 - self.p.sum(), (self.linear - self.S @ self.p)[self.free])
            direction = np.zeros(len(self.p))
            direction[self.free] = (self.H @ residual)[1:]
            length, stop = self._room(direction)
            if length < 1.0 and len(self.free) > 1:
                self._step(direction, length, stop)
                self.free, self.H = leave(self.free, self.H, self.free.index(stop))
                continue
            self.p = self.p + min(length, 1.0) * direction
            stationary = residual[1:] - self.H[0, 1:] @ residual[1:]
            error = max(float(np.abs(stationary).max()), self.size * abs(float(residual[0])))
            if error <= 4e-16 * self.size or refinements == 8:
                return
            refinements += 1
            if refinements == 4:
                # Refinement should have arrived by now: the updates have worn H out.
                border = np.ones((len(self.free) + 1, len(self.free) + 1))
                border[0, 0], border[1:, 1:] = 0.0, self.S[np.ix_(self.free, self.free)]
                self.H = np.asarray(np.linalg.inv(border), dtype=np.float64)

    def _room(self, direction: FloatArray) -> tuple[float, int]:
        """How far p can move inside the bounds, and the task that meets its bound there."""
        room = np.full(len(self.p), np.inf)
        falls, rises = direction < 0, direction > 0
        room[falls] = (self.lower - self.p)[falls] / direction[falls]
        room[rises] = (self.upper - self.p)[rises] / direction[rises]
        stop = int(room.argmin())
        return max(float(room[stop]), 0.0), stop

    def _step(self, direction: FloatArray, length: float, stop: int) -> None:
        """Move p until ``stop`` meets its bound."""
        self.p = self.p + length * direction
        self.p[stop] = self.upper[stop] if direction[stop] > 0 else self.lower[stop]


def coordinates(
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


def leave(free: list[int], H: FloatArray, slot: int) -> tuple[list[int], FloatArray]:
    """The free tasks and H without the task of this slot."""
    h = H[:, slot + 1]
    shrunk = H - np.outer(h, h / h[slot + 1])
    keep = np.arange(len(H)) != slot + 1
    return free[:slot] + free[slot + 1 :], np.asarray(shrunk[np.ix_(keep, keep)])


def _enter(H: FloatArray, z: FloatArray, kappa: float) -> FloatArray:
    """H with one more task, where z = H [1; s] = [t_n; t]."""
    u = np.append(z, -1.0)
    grown = np.zeros((len(u), len(u)))
    grown[:-1, :-1] = H
    return np.asarray(grown + np.outer(u, u / kappa))
