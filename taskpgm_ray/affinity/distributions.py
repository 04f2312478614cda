"""Coarse distributions: log-probabilities on the common support, and the tail that they leave out.

All models are compared on the same tokens at each position (the support); what lies outside is one further cell, the
tail. Only then is the average Jensen-Shannon divergence the square of a Hilbert-space distance, and exp(-gamma JSD)
positive semidefinite (docs/mathematics.md, section 4).
"""

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import InputError
from taskpgm_ray.numerics.types import FloatArray

OVERFULL = 1e-5
"""A position whose support sums to more than 1 + OVERFULL is not a distribution; less than that is rounding."""

LEAST_COVERAGE = 0.95
"""Mean mass on the support below which a divergence leaves out too much to be trusted silently."""


def check_logprobs(logprobs: npt.ArrayLike, models: int | None = None) -> npt.NDArray[np.floating]:
    """Log-probabilities [n, P, K], nats, <= 0, NaN-free; -inf (probability 0) is allowed.

    Raises:
        InputError: wrong shape, NaN, +inf or positive entries, naming the first bad model and position.
    """
    array = np.asarray(logprobs)
    if array.dtype not in (np.float32, np.float64):
        if not np.issubdtype(array.dtype, np.number) or np.issubdtype(array.dtype, np.complexfloating):
            raise InputError(f"logprobs must be real numbers, got dtype {array.dtype}")
        array = array.astype(np.float64)
    if array.ndim != 3 or 0 in array.shape:
        raise InputError(f"logprobs must have shape [models, positions, support], none empty, got {array.shape}")
    if models is not None and len(array) != models:
        raise InputError(f"logprobs must have {models} models, got {len(array)}")
    if not array.max() <= 1e-5:  # also true for NaN
        model, position, cell = np.argwhere(~(array <= 1e-5))[0]
        raise InputError(
            f"logprobs[{model}, {position}, {cell}] = {array[model, position, cell]} is no log-probability (nats, <= 0)"
        )
    return array


def position_weights(weights: npt.ArrayLike | None, positions: int) -> FloatArray:
    """Weights of the probe positions [P], non-negative with a positive sum, divided by the sum; uniform if None.

    The weights are common to all pairs of models. To count each example once, give each of its positions
    1 / (its number of positions); to count each task once, divide further by the task's number of examples
    (``balanced_weights`` does both).
    """
    if weights is None:
        return np.full(positions, 1.0 / positions)
    w = np.asarray(weights, dtype=np.float64)
    if w.shape != (positions,):
        raise InputError(f"weights must have shape ({positions},), one a probe position, got {w.shape}")
    if not np.isfinite(w).all() or (w < 0).any() or not w.sum() > 0:
        raise InputError("weights must be finite and >= 0 with a positive sum")
    return np.asarray(w / w.sum())


def balanced_weights(example: npt.ArrayLike, task: npt.ArrayLike | None = None) -> FloatArray:
    """Weights [P] that count every example once, and every task once if ``task`` is given; they sum to 1.

    Args:
        example: id of the example of each position [P]. Ids are unique over tasks.
        task: id of the task of each position [P].
    """
    _, e, size = np.unique(np.asarray(example), return_inverse=True, return_counts=True)
    w = 1.0 / size[e]
    if task is not None:
        labels = np.asarray(task)
        if labels.shape != e.shape:
            raise InputError(f"task must have one entry a position ({e.shape}), got {labels.shape}")
        _, t = np.unique(labels, return_inverse=True)
        w = w / np.bincount(t, weights=w)[t]
    return np.asarray(w / w.sum())


def with_tail(logprobs: npt.NDArray[np.floating], first_position: int = 0) -> FloatArray:
    """Probabilities [n, P, K + 1] whose last cell is the tail 1 - sum of the others (at least 0).

    Raises:
        InputError: the support of a position sums to more than 1 + 1e-5.
    """
    n, positions, cells = logprobs.shape
    p = np.empty((n, positions, cells + 1))
    np.exp(logprobs, out=p[:, :, :cells], dtype=np.float64)
    covered = p[:, :, :cells].sum(axis=2)
    if float(covered.max()) > 1 + OVERFULL:
        model, position = np.unravel_index(int(covered.argmax()), covered.shape)
        raise InputError(
            f"the support of model {model} at position {position + first_position} has total probability "
            f"{covered[model, position]:.6g} > 1: these are not log-probabilities of one distribution, or a token is "
            "listed twice"
        )
    over = covered > 1
    if over.any():
        p[over, :cells] /= covered[over][:, None]
    np.subtract(1.0, covered, out=p[:, :, cells])
    np.maximum(p[:, :, cells], 0.0, out=p[:, :, cells])
    return p
