"""``add_task``: the mixture after one more task, from the mixture before (section 13)."""

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf import checks
from taskpgm_ray.mrf._threads import single_threaded_blas
from taskpgm_ray.mrf._types import FloatArray
from taskpgm_ray.mrf.optimum import CERTIFIED, Optimum, optimum
from taskpgm_ray.mrf.problem import build
from taskpgm_ray.mrf.response import bordered_inverse, free_tasks
from taskpgm_ray.mrf.solve import Mixture
from taskpgm_ray.mrf.solve import mixture as finished


def add_task(
    S: npt.ArrayLike, old: Mixture, *, utility: float | None = None, target: npt.ArrayLike | None = None
) -> Mixture:
    """The mixture of n + 1 tasks at the same tau, where the new one is the last row of S.

    With the bordered inverse of the old free tasks: p' = w + tau Q b', mu_new = s'p' - tau b_new - nu'. If mu_new >= 0
    and no sign changes, the new task stays out; else one step p_new = -mu_new / kappa brings it in. Where that step
    breaks a sign, the solver continues from its support. Always equal to a fresh ``solve``.

    Args:
        S: affinities [n + 1, n + 1]; the leading block must be the one of ``old`` (gamma frozen).
        old: mixture of the first n tasks.
        utility: utility of the new task, exactly when ``old`` was solved with a utility.
        target: the new target [n + 1], exactly when ``old`` was solved with a target.

    Raises:
        InputError: sizes do not match, the old mixture had bounds, or utility and target are not as above.
    """
    matrix = checks.affinity_matrix(S)
    n = len(old.weights)
    if len(matrix) != n + 1:
        raise InputError(f"S must have {n + 1} tasks, one more than the mixture, got {len(matrix)}")
    if (old.lower > 0).any() or (old.upper < 1).any():
        raise InputError("a mixture with bounds cannot be updated: bounds of the new task are unknown, use solve")
    if (utility is None) != (old.utility is None):
        raise InputError("give the utility of the new task exactly when the old mixture was solved with a utility")
    if (target is None) != (old.target is None):
        raise InputError("give the new target exactly when the old mixture was solved with a target")
    u = None if old.utility is None or utility is None else np.append(old.utility, utility)
    with single_threaded_blas():
        problem = build(matrix, u, target)
        if problem.classes.trivial:
            guess = _bordered(matrix, problem.b, old)
            if guess is not None:
                gap = problem.gap(guess, old.tau)
                if guess.min() >= 0 and gap <= CERTIFIED * problem.scale(old.tau):
                    return finished(problem, old.tau, Optimum(guess, "bordered update"))
                start = np.maximum(guess, 0.0)
                return finished(problem, old.tau, optimum(problem, old.tau, start / start.sum()))
        start = problem.classes.sums(np.append(old.weights, 0.0))
        return finished(problem, old.tau, optimum(problem, old.tau, start))


def _bordered(S: FloatArray, b: FloatArray, old: Mixture) -> FloatArray | None:
    """The stationary point with the old free tasks, and the new one if its reduced cost is negative."""
    tau, n = old.tau, len(old.weights)
    A = free_tasks(old.weights, old.lower, old.upper)
    Q, w = bordered_inverse(S, A)
    s = S[A, n]
    S_AA = S[np.ix_(A, A)]
    p = w + tau * (Q @ b[A])
    nu = float(w @ (S_AA @ p - tau * b[A]))
    mu = float(s @ p) - tau * float(b[n]) - nu
    weights = np.zeros(n + 1)
    if mu >= 0:
        weights[A] = p
        return weights
    t = Q @ s + w
    t += w * (1.0 - t.sum())
    level = float(w @ (s - S_AA @ t))
    kappa = float(S[n, n] - s @ t) - level
    if kappa <= 1e-13 * float(np.abs(S).max()):
        return None
    step = -mu / kappa
    weights[A] = p - step * t
    weights[n] = step
    return weights
