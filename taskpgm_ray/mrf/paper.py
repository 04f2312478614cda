"""The paper's own shortcut to a mixture (arXiv 2507.12612), to compare with: shift, closed form, projection.

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
