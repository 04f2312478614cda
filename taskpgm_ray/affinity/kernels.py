"""From divergences to affinities S, and how many distinct tasks S sees (docs/mathematics.md, sections 4 and 9)."""

import numpy as np
import numpy.typing as npt
import scipy.linalg

from taskpgm_ray.errors import InputError
from taskpgm_ray.numerics.checks import affinity_matrix
from taskpgm_ray.numerics.constants import LN2
from taskpgm_ray.numerics.types import FloatArray


def median_gamma(D: npt.ArrayLike) -> float:
    """gamma = ln 2 / median off-diagonal divergence (or squared distance): half of the pairs are then above S = 1/2.

    Raises:
        InputError: fewer than two tasks, or a median of zero.
    """
    d = _divergences(D)
    n = len(d)
    if n < 2:
        raise InputError("the median divergence needs at least two tasks; give gamma")
    median = float(np.median(d[np.triu_indices(n, 1)]))
    if median <= 0:
        raise InputError(
            "the median divergence is 0: more than half of the pairs of models predict the same on every probe. "
            "Were the adapters applied? Otherwise give gamma"
        )
    return LN2 / median


def kernel(D: npt.ArrayLike, gamma: float | None = None) -> FloatArray:
    """S = exp(-gamma D) [n, n]: PSD for every gamma > 0 when D is a mean JSD over common probes (Schoenberg).

    Args:
        D: divergences [n, n], symmetric, >= 0, zero diagonal, nats; or squared distances of profiles.
        gamma: scale per unit of D; ``median_gamma(D)`` if None.
    """
    d = _divergences(D)
    scale = median_gamma(d) if gamma is None else float(gamma)
    if not np.isfinite(scale) or scale <= 0:
        raise InputError(f"gamma must be positive and finite, got {gamma!r}")
    return np.asarray(np.exp(-scale * d))


def effective_number(S: npt.ArrayLike) -> float:
    """Magnitude 1' S^-1 1: the effective number of distinct tasks at the scale of S (Leinster), 1 to n for kernels.

    For a singular S the least-squares solution is used, which is exact when 1 lies in the range of S.
    """
    matrix = affinity_matrix(S)
    ones = np.ones(len(matrix))
    x, *_ = scipy.linalg.lstsq(matrix, ones)
    if float(np.abs(matrix @ x - ones).max()) > 1e-6:
        raise InputError("S has no magnitude: 1 is not in its range")
    return float(x.sum())


def _divergences(D: npt.ArrayLike) -> FloatArray:
    d = affinity_matrix(D, "D")
    if float(d.min()) < 0:
        raise InputError(f"divergences must not be negative, the smallest is {d.min():.4g}")
    if float(np.abs(np.diag(d)).max()) > 1e-12:
        raise InputError("the divergence of a model from itself must be 0: the diagonal of D is not zero")
    return d
