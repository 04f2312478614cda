"""``add_task``: the mixture after one more task, from the mixture before (docs/mathematics.md, section 13)."""

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
    S: npt.ArrayLike,
    old: Mixture,
    *,
    utility: float | None = None,
    target: npt.ArrayLike | None = None,
    lower: float = 0.0,
    upper: float = 1.0,
) -> Mixture:
    """The mixture of n + 1 tasks at the same tau, where the new one is the last row of S.

    With the bordered inverse of the old free tasks: p' = w + tau Q b', mu_new = s'p' - tau b_new - nu'. If mu_new >= 0
    and no sign changes, the new task stays out; else one step p_new = -mu_new / kappa brings it in, equation (13.1).
    Where that step breaks a sign, where S has exact duplicates and where there are bounds, the solver continues from
    the old support.

    The old mixture is a start and nothing more: the result is validated and certified on S, equal to a fresh ``solve``
    whatever ``old`` was. What remains of the O(n^3) is the one Cholesky factorisation that shows S to be PSD, without
    which the gap would prove nothing.

    Args:
        S: affinities [n + 1, n + 1], with the leading block of ``old`` (the kernel's gamma frozen).
        old: mixture of the first n tasks.
        utility: utility of the new task, exactly when ``old`` was solved with a utility.
        target: the new target [n + 1], exactly when ``old`` was solved with a target.
        lower: smallest weight of the new task; the others keep the bounds of ``old``.
        upper: largest weight of the new task.

    Raises:
        InputError: sizes or bounds do not match, or utility and target are not as above.
        IndefiniteAffinityError: S is not PSD where it has to be.
    """
    matrix = checks.affinity_matrix(S)
    n = len(old.weights)
    if len(matrix) != n + 1:
        raise InputError(f"S must have {n + 1} tasks, one more than the mixture, got {len(matrix)}")
    if (utility is None) != (old.utility is None):
        raise InputError("give the utility of the new task exactly when the old mixture was solved with a utility")
    if (target is None) != (old.target is None):
        raise InputError("give the new target exactly when the old mixture was solved with a target")
    u = None if old.utility is None or utility is None else np.append(old.utility, utility)
    low, high = np.append(old.lower, lower), np.append(old.upper, upper)
    bounded = bool((low > 0).any() or (high < 1).any())
    with single_threaded_blas():
        problem = build(matrix, u, target, *((low, high) if bounded else (None, None)))
        guess = _bordered(matrix, problem.b, old) if problem.classes.trivial and not bounded else None
        start = np.append(old.weights, 0.0)
        if guess is not None:
            if guess.min() >= 0 and problem.gap(guess, old.tau) <= CERTIFIED * problem.scale(old.tau):
                return finished(problem, old.tau, Optimum(guess, "bordered update"))
            start = np.maximum(guess, 0.0)
            start /= start.sum()
        return finished(problem, old.tau, optimum(problem, old.tau, problem.classes.sums(start)))


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
