"""Matrices and vectors checked where they enter the mathematics: once, with an error that says what to do."""

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import InputError
from taskpgm_ray.numerics.types import FloatArray

ASYMMETRY = 1e-9
"""Largest |S - S'| relative to max |S| that passes as rounding."""

STRIP = 256
"""Rows that are compared with their columns at a time: both stay in the cache, which halves the time of the check."""


def affinity_matrix(S: npt.ArrayLike, name: str = "S") -> FloatArray:
    """A finite, symmetric float64 matrix [n, n], or InputError."""
    return summed_matrix(S, name)[0]


def summed_matrix(S: npt.ArrayLike, name: str = "S") -> tuple[FloatArray, FloatArray]:
    """``affinity_matrix`` and its row sums [n]: they say that it is finite, and the solvers need them anyway."""
    matrix = _as_array(S, name)
    if matrix.ndim == 2:
        matrix = np.ascontiguousarray(matrix)
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.asarray(matrix.sum(axis=-1)) if matrix.ndim else matrix
    if not np.isfinite(sums).all():
        # Finite numbers may have a sum that is not.
        _check_finite(matrix, name)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"{name} must be a square matrix [n, n], got shape {matrix.shape}")
    if matrix.shape[0] == 0:
        raise InputError(f"{name} is empty: a mixture needs at least one task")
    if _symmetric(matrix):
        return matrix, sums
    difference = np.abs(matrix - matrix.T)
    if float(difference.max()) > ASYMMETRY * float(np.abs(matrix).max()):
        i, j = np.unravel_index(int(difference.argmax()), difference.shape)
        raise InputError(
            f"{name} is not symmetric: {name}[{i}, {j}] = {matrix[i, j]:.6g}, {name}[{j}, {i}] = {matrix[j, i]:.6g}; "
            "symmetrise it first, e.g. (S + S.T) / 2 for a pointwise-mutual-information table"
        )
    mean = (matrix + matrix.T) / 2
    return mean, mean.sum(axis=1)


def vector(values: npt.ArrayLike, n: int, name: str) -> FloatArray:
    """A finite float64 vector [n], or InputError."""
    array = as_floats(values, name)
    if array.shape != (n,):
        raise InputError(f"{name} must have shape ({n},), one entry a task, got {array.shape}")
    return array


def as_floats(values: npt.ArrayLike, name: str) -> FloatArray:
    """A finite float64 array of any shape, or InputError naming the first bad entry."""
    array = _as_array(values, name)
    _check_finite(array, name)
    return array


def _as_array(values: npt.ArrayLike, name: str) -> FloatArray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be an array of real numbers: {error}") from error


def _check_finite(array: FloatArray, name: str) -> None:
    if not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0].tolist()
        raise InputError(f"{name} must be finite: entry {where} is {array[tuple(where)]}")


def _symmetric(matrix: FloatArray) -> bool:
    """True when matrix [n, n] equals its transpose to the last bit."""
    ends = range(STRIP, len(matrix) + STRIP, STRIP)
    return all(np.array_equal(matrix[end - STRIP : end, :end], matrix[:end, end - STRIP : end].T) for end in ends)
