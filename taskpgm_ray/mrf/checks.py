"""Validation at the border of the mathematics: every argument is checked once, with an error that says what to do."""

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf._types import Bound, FloatArray

ASYMMETRY = 1e-9
"""Largest |S - S'| relative to max |S| that passes as rounding."""

FEASIBILITY = 1e-12
"""Slack in sum(lower) <= 1 <= sum(upper) that passes as rounding."""


def affinity_matrix(S: npt.ArrayLike, name: str = "S") -> FloatArray:
    """A finite, symmetric float64 matrix [n, n], or InputError."""
    matrix = as_floats(S, name)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"{name} must be a square matrix [n, n], got shape {matrix.shape}")
    if matrix.shape[0] == 0:
        raise InputError(f"{name} is empty: a mixture needs at least one task")
    matrix = np.ascontiguousarray(matrix)
    if (matrix == matrix.T).all():
        return matrix
    difference = np.abs(matrix - matrix.T)
    if float(difference.max()) > ASYMMETRY * float(np.abs(matrix).max()):
        i, j = np.unravel_index(int(difference.argmax()), difference.shape)
        raise InputError(
            f"{name} is not symmetric: {name}[{i}, {j}] = {matrix[i, j]:.6g}, {name}[{j}, {i}] = {matrix[j, i]:.6g}; "
            "symmetrise it first, e.g. (S + S.T) / 2 for a pointwise-mutual-information table"
        )
    return (matrix + matrix.T) / 2


def balance(tau: float) -> float:
    """Check the balance tau = n * beta / lambda: a finite number >= 0."""
    if isinstance(tau, bool) or not np.isscalar(tau) or isinstance(tau, (str, bytes, complex)):
        raise InputError(f"tau must be one number, got {tau!r}")
    value = float(tau)
    if not np.isfinite(value) or value < 0:
        raise InputError(
            f"tau must be finite and >= 0, got {tau!r}; the limit of large tau is the last point of path(S).weights"
        )
    return value


def vector(values: npt.ArrayLike, n: int, name: str) -> FloatArray:
    """A finite float64 vector [n], or InputError."""
    array = as_floats(values, name)
    if array.shape != (n,):
        raise InputError(f"{name} must have shape ({n},), one entry a task, got {array.shape}")
    return array


def target_mixture(target: npt.ArrayLike, n: int) -> FloatArray:
    """A mixture on the simplex [n]: non-negative, sum 1 (to 1e-9; divided by its sum)."""
    m = vector(target, n, "target")
    if float(m.min()) < 0:
        raise InputError(f"target must not be negative: target[{int(m.argmin())}] = {m.min():.6g}")
    if abs(float(m.sum()) - 1) > 1e-9:
        raise InputError(f"target must sum to 1, it sums to {m.sum():.12g}; divide it by its sum")
    return np.asarray(m / m.sum())


def box(lower: Bound, upper: Bound, n: int) -> tuple[FloatArray, FloatArray]:
    """Bounds as vectors [n] with 0 <= lower <= upper <= 1 and sum(lower) <= 1 <= sum(upper), or InputError."""
    low = _bound(lower, 0.0, n, "lower")
    high = np.minimum(_bound(upper, 1.0, n, "upper", allow_infinite=True), 1.0)
    if float(low.min()) < 0:
        raise InputError(f"lower must not be negative: lower[{int(low.argmin())}] = {low.min():.6g}")
    crossed = low > high
    if crossed.any():
        i = int(np.flatnonzero(crossed)[0])
        raise InputError(f"the bounds of task {i} contradict each other: lower {low[i]:.6g} > upper {high[i]:.6g}")
    if float(low.sum()) > 1 + FEASIBILITY:
        raise InputError(f"no mixture meets the bounds: lower sums to {low.sum():.6g} > 1; lower the lower bounds")
    if float(high.sum()) < 1 - FEASIBILITY:
        raise InputError(
            f"no mixture meets the bounds: upper sums to {high.sum():.6g} < 1; raise the upper bounds "
            "(more epochs, or a smaller training budget)"
        )
    return low, high


def as_floats(values: npt.ArrayLike, name: str) -> FloatArray:
    """A finite float64 array of any shape, or InputError naming the first bad entry."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be an array of real numbers: {error}") from error
    if not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0].tolist()
        raise InputError(f"{name} must be finite: entry {where} is {array[tuple(where)]}")
    return array


def _bound(values: Bound, default: float, n: int, name: str, allow_infinite: bool = False) -> FloatArray:
    if values is None:
        return np.full(n, default)
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be a number or one number a task: {error}") from error
    if allow_infinite:
        array = np.where(np.isposinf(array), default, array)
    if array.ndim == 0:
        array = np.full(n, float(array))
    return vector(array, n, name)
