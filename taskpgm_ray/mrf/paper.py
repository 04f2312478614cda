"""The paper's own ways to a mixture (arXiv 2507.12612), to compare with: shift, closed form, projection; the Laplacian.

The exact mixture is `taskpgm_ray.mrf.solve`. The shortcut differs from it wherever the closed form has negative
weights, because the point of the simplex that is nearest to an infeasible optimum is not the best one of the simplex
(docs/mathematics.md, section 3); and where S is indefinite the shift of its diagonal decides much of the mixture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf.mixture import Mixture, certificate, solve
from taskpgm_ray.numerics import psd
from taskpgm_ray.numerics.checks import affinity_matrix
from taskpgm_ray.numerics.threads import single_threaded_blas
from taskpgm_ray.numerics.types import FloatArray


def shifted(S: npt.ArrayLike) -> FloatArray:
    """S plus as much of the identity as makes it positive definite [n, n]: |its smallest eigenvalue|, and rounding."""
    with single_threaded_blas():
        return psd.shifted(affinity_matrix(S))[0]


def closed_form(S: npt.ArrayLike, tau: float) -> FloatArray:
    """The optimum [n] without the condition that weights are not negative, equation (3.1); sums to 1.

    Args:
        S: Positive definite [n, n].
        tau: The balance.

    Raises:
        InputError: S is singular, or its inverse adds up to nothing.
    """
    matrix = affinity_matrix(S)
    with single_threaded_blas():
        try:
            diverse = np.linalg.solve(matrix, np.ones(len(matrix)))
        except np.linalg.LinAlgError as error:
            raise InputError("S is singular: the closed form does not exist") from error
    total = float(diverse.sum())
    if not np.isfinite(diverse).all() or total == 0:
        raise InputError("the inverse of S adds up to nothing: the closed form does not exist")
    return np.asarray(tau / len(matrix) + (1 - tau) * diverse / total)


def projected(point: npt.ArrayLike) -> FloatArray:
    """The point of the simplex [n] that is nearest to any point [n] (Euclid)."""
    v = np.asarray(point, dtype=np.float64)
    falling = np.sort(v)[::-1]
    excess = (np.cumsum(falling) - 1) / np.arange(1, len(v) + 1)
    return np.asarray(np.maximum(v - excess[np.flatnonzero(falling > excess)[-1]], 0.0))


def shortcut(S: npt.ArrayLike, tau: float) -> FloatArray:
    """The paper's mixture [n] of any symmetric S at one balance: the closed form of the shifted S, projected."""
    return projected(closed_form(shifted(S), tau))


def laplacian(S: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """The Laplacian variant: exp(S / s) are the weights of a graph of tasks, s the deviation of S off its diagonal.

    p'Lp / 2 is the sum over pairs of weight (p_i - p_j)^2 / 2: tasks that are alike get like shares, instead of few of
    them any. At tau = 0 the optimum is uniform, and tau moves it towards tasks that are like many.

    Args:
        S: Symmetric [n, n]; its diagonal does not matter. It may be indefinite, the Laplacian never is.

    Returns:
        The Laplacian L = D - exp(S / s) [n, n] and the utility that goes with it, the degrees D [n]: what
        `taskpgm_ray.mrf.solve` takes. Both are divided by the largest weight, which changes no mixture.
    """
    matrix = affinity_matrix(S)
    off = ~np.eye(len(matrix), dtype=bool)
    above = np.where(off, matrix - matrix.max(where=off, initial=-np.inf), 0.0)
    deviation = float(matrix[off].std()) if off.any() else 0.0
    # Pairs that are all alike weigh the same.
    weights = np.where(off, np.exp(above / deviation) if deviation > 0 else 1.0, 0.0)
    degrees = weights.sum(axis=1)
    return np.asarray(np.diag(degrees) - weights), np.asarray(degrees)


@dataclass(frozen=True, eq=False)
class Shortcut:
    """The paper's mixture beside the best one of the same, shifted matrix."""

    weights: FloatArray
    """[n], of the shortcut."""
    exact: Mixture
    energy: float
    """Of the shortcut, in units of lambda."""
    gap: float
    """How far above the smallest energy that is at most: a proof that needs no exact mixture."""

    @property
    def excess(self) -> float:
        """How far it is above the exact mixture's energy."""
        return self.energy - self.exact.energy

    @property
    def distance(self) -> float:
        """Total variation between the two: the share of the mixture that lies elsewhere."""
        return float(np.abs(self.weights - self.exact.weights).sum()) / 2


def beside_exact(S: npt.ArrayLike, tau: float) -> Shortcut:
    """The shortcut, and what it costs.

    Args:
        S: Symmetric [n, n].
        tau: The balance.
    """
    definite = shifted(S)
    weights = projected(closed_form(definite, tau))
    return Shortcut(weights, solve(definite, tau), *certificate(definite, tau, weights))
