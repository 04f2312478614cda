"""The mixture restricted to a few tasks, and bounds of what each further task would gain."""

from dataclasses import dataclass

import numpy as np

from taskpgm_ray.mrf._types import BoolArray, FloatArray, IntArray
from taskpgm_ray.mrf.optimum import feasible_start
from taskpgm_ray.mrf.problem import Problem


@dataclass
class SubsetState:
    """The best mixture on ``members``."""

    problem: Problem
    tau: float
    members: list[int]
    """Tasks with positive weight."""
    weights: FloatArray
    energy: float
    free: IntArray
    """Tasks strictly between their bounds, with the bordered inverse (Q, w, c)."""
    Q: FloatArray
    w: FloatArray
    c: float

    def gains(self) -> tuple[FloatArray, BoolArray]:
        """(bound [n], exact [n]): an upper bound of the energy that adding each task saves; is it attained?

        bound_j = mu_j^2 / (2 kappa_j) for a negative reduced cost mu_j, else 0: the gain of the step from the present
        optimum when weights may become negative. It is exact when the step keeps all weights inside their bounds.
        """
        S, p = self.problem.S, self.weights
        A = self.free
        g = S @ p - self.tau * self.problem.b
        nu = float(self.w @ g[A])
        mu = g - nu
        S_A = S[A]
        t = self.Q @ S_A + self.w[:, None]
        t_n = self.w @ S_A - self.c
        kappa = np.diag(S) - np.einsum("aj,aj->j", S_A, t) - t_n
        scale = float(np.abs(S).max())
        outside = np.ones(len(p), dtype=bool)
        outside[self.members] = False
        useful = outside & (mu < -1e-14 * scale * max(1.0, self.tau)) & (self.problem.upper > 0)
        clear = useful & (kappa > 1e-12 * scale)
        # A task in the affine hull of the others has no finite bound: it has to be evaluated.
        bound = np.where(useful, np.inf, 0.0)
        bound[clear] = mu[clear] ** 2 / (2 * kappa[clear])
        step = np.zeros(len(p))
        step[clear] = -mu[clear] / kappa[clear]
        moved = p[A][:, None] - t[:, clear] * step[clear]
        inside = (moved >= 0).all(axis=0) & (moved <= self.problem.upper[A][:, None]).all(axis=0)
        exact = np.zeros(len(p), dtype=bool)
        exact[np.flatnonzero(clear)] = inside & (step[clear] <= self.problem.upper[clear])
        if self.problem.bounded and len(self.members) > len(A):
            # Tasks at their upper bounds may want to move too, so that the step is no bound of the gain.
            bound[useful] = np.inf
            exact[:] = False
        return bound, exact


def evaluate(problem: Problem, tau: float, tasks: list[int]) -> SubsetState:
    """Solve the mixture on ``tasks`` exactly."""
    from taskpgm_ray.mrf import active_set
    from taskpgm_ray.mrf.workspace import workspace

    index = np.array(sorted(set(tasks)), dtype=np.int64)
    S = np.ascontiguousarray(problem.S[np.ix_(index, index)])
    linear = tau * problem.b[index]
    upper = np.minimum(problem.upper[index], 1.0)
    lower = np.zeros(len(index))
    W = workspace(S, lower, upper, feasible_start(linear, lower, upper))
    _, k, c = active_set.minimise(W, linear, 50 * len(index) + 200)
    part = np.clip(W.p, 0.0, upper)
    weights = np.zeros(problem.n)
    weights[index] = part
    return SubsetState(
        problem=problem,
        tau=tau,
        members=[int(i) for i in index[part > 0]],
        weights=weights,
        energy=float(part @ (S @ part) / 2 - linear @ part),
        free=index[W.A[:k]],
        Q=W.Q[:k, :k].copy(),
        w=W.w[:k].copy(),
        c=float(c),
    )
