"""The arguments of the mixture problem, checked once, with an error that says what to do."""

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import InputError
from taskpgm_ray.numerics.checks import as_floats, vector
from taskpgm_ray.numerics.types import Bound, FloatArray

FEASIBILITY = 1e-12
"""Slack in sum(lower) <= 1 <= sum(upper) that passes as rounding."""


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


def on_simplex(values: npt.ArrayLike, n: int, name: str) -> FloatArray:
    """A mixture [n]: non-negative, sum 1 (to 1e-9; divided by its sum)."""
    m = vector(values, n, name)
    if float(m.min()) < 0:
        raise InputError(f"{name} must not be negative: {name}[{int(m.argmin())}] = {m.min():.6g}")
    if abs(float(m.sum()) - 1) > 1e-9:
        raise InputError(f"{name} must sum to 1, it sums to {m.sum():.12g}; divide it by its sum")
    return np.asarray(m / m.sum())


def guess(start: npt.ArrayLike, n: int) -> FloatArray:
    """A rough mixture [n] from the weights of the first tasks [up to n]; the others get 0.

    Any finite numbers will do: negative ones become 0, and a positive sum is divided out.
    """
    first = as_floats(start, "start")
    if first.ndim != 1 or len(first) > n:
        raise InputError(f"start must be the weights of at most {n} tasks, got shape {first.shape}")
    weights = np.append(np.maximum(first, 0.0), np.zeros(n - len(first)))
    return np.asarray(weights / (float(weights.sum()) or 1.0))


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


def inside(weights: FloatArray, lower: FloatArray, upper: FloatArray) -> None:
    """Check that a mixture [n] keeps its bounds, but for rounding; else InputError naming the task."""
    outside = np.flatnonzero((weights < lower - FEASIBILITY) | (weights > upper + FEASIBILITY))
    if len(outside):
        i = int(outside[0])
        raise InputError(
            f"weights[{i}] = {weights[i]:.6g} is outside its bounds {lower[i]:.6g} and {upper[i]:.6g}: no gap is "
            "certified for it"
        )


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
