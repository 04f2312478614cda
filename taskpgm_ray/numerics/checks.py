"""Matrices and vectors checked where they enter the mathematics: once, with an error that says what to do."""

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import InputError
from taskpgm_ray.numerics.types import FloatArray

ASYMMETRY = 1e-9
"""Largest |S - S'| relative to max |S| that passes as rounding."""


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


def vector(values: npt.ArrayLike, n: int, name: str) -> FloatArray:
    """A finite float64 vector [n], or InputError."""
    array = as_floats(values, name)
    if array.shape != (n,):
        raise InputError(f"{name} must have shape ({n},), one entry a task, got {array.shape}")
    return array


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
