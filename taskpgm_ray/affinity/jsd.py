"""Jensen-Shannon divergences between models, averaged over a common probe set (docs/mathematics.md, section 9)."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from taskpgm_ray.affinity import jsd_kernel
from taskpgm_ray.affinity.distributions import check_logprobs, position_weights, with_tail
from taskpgm_ray.errors import InputError
from taskpgm_ray.numerics.constants import LN2
from taskpgm_ray.numerics.types import FloatArray


def jsd_matrix(
    logprobs: npt.ArrayLike, weights: npt.ArrayLike | None = None, *, threads: int | None = None
) -> FloatArray:
    """Mean Jensen-Shannon divergence of every pair of models, in nats, in [0, ln 2].

    Computed on the coarse distributions (support and tail), a lower bound of the divergence of the full distributions;
    ``bracket`` gives the upper bound. The result is of negative type: exp(-gamma D) is PSD for every gamma > 0.

    Args:
        logprobs: log-probabilities of the common support [n, P, K], nats, float32 or float64, without the tail.
        weights: weight of each position [P], common to all pairs; equal if None.
        threads: tiles of positions computed at the same time; None: all cores this process may use. The result does
            not depend on it.

    Returns:
        [n, n], symmetric, zero diagonal.

    Raises:
        InputError: wrong shapes, NaN, entries that are not log-probabilities.
    """
    array = check_logprobs(logprobs)
    w = position_weights(weights, array.shape[1])
    return _symmetric(_sum(_divergence, array, w, threads))


def jsd_rows(
    logprobs: npt.ArrayLike, rows: slice, weights: npt.ArrayLike | None = None, *, threads: int | None = None
) -> FloatArray:
    """Some rows of ``jsd_matrix``, without the pairs of the other models.

    Args:
        logprobs: as in ``jsd_matrix``.
        rows: which m of the n models.
        weights: as in ``jsd_matrix``.
        threads: as in ``jsd_matrix``.

    Returns:
        [m, n] nats.

    Raises:
        InputError: wrong shapes, NaN, entries that are not log-probabilities.
    """
    array = check_logprobs(logprobs)
    w = position_weights(weights, array.shape[1])

    def cross(halves: FloatArray) -> FloatArray:
        cells = halves.reshape(len(halves), -1)
        return jsd_kernel.cross_divergences(cells[rows], cells)

    return np.asarray(np.maximum(_sum(cross, array, w, threads), 0.0))


def bracket(
    logprobs: npt.ArrayLike, weights: npt.ArrayLike | None = None, *, threads: int | None = None
) -> tuple[FloatArray, FloatArray]:
    """Lower and upper bound of the mean JSD of the full distributions, from the support and the tail mass.

    With tails a and b: coarse <= JSD <= coarse + (a + b) / 2 * h2(a / (a + b)), h2 the binary entropy in nats; equation
    (9.1). The left side is attained when the tails have equal conditionals, the right side when they are disjoint. Only
    the lower bound is sure to be of negative type: build S from it and report the upper one.

    Returns:
        (lower, upper), each [n, n] nats.
    """
    array = check_logprobs(logprobs)
    w = position_weights(weights, array.shape[1])
    lower = _symmetric(_sum(_divergence, array, w, threads))
    return lower, np.minimum(lower + _symmetric(_sum(_widening, array, w, threads)), LN2)


def example_divergences(
    logprobs: npt.ArrayLike, example: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> tuple[FloatArray, FloatArray]:
    """JSD of every pair on every example: the sampling units of the uncertainty.

    Args:
        logprobs: [n, P, K] as in ``jsd_matrix``.
        example: id of the example of each position [P].
        weights: weight of each position [P]; equal if None.

    Returns:
        (d [E, n, n], w [E]): weighted mean over the positions of each example (ids ascending), and the total weight of
        each example. The weighted mean of d is ``jsd_matrix``.
    """
    array = check_logprobs(logprobs)
    w = position_weights(weights, array.shape[1])
    ids = np.asarray(example)
    if ids.shape != w.shape:
        raise InputError(f"example must have one id a position ({w.shape[0]}), got shape {ids.shape}")
    _, label = np.unique(ids, return_inverse=True)
    total = np.asarray(np.bincount(label, weights=w), dtype=np.float64)
    if (total <= 0).any():
        raise InputError("every example needs a position of positive weight; leave the others out")
    divergences = np.empty((len(total), len(array), len(array)))
    for e in range(len(total)):
        chosen = np.flatnonzero(label == e)
        divergences[e] = _symmetric(_sum(_divergence, array[:, chosen], w[chosen] / total[e], 1))
    return divergences, total


def thread_count(threads: int | None) -> int:
    """Number of threads: as asked, else the cores that this process may use."""
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
    return threads


def _divergence(halves: FloatArray) -> FloatArray:
    return jsd_kernel.pair_divergences(halves.reshape(len(halves), -1))


def _widening(halves: FloatArray) -> FloatArray:
    """(a + b) / 2 h2(a / (a + b)) = ln 2 (a + b) / 2 - (the divergence of the tail cells alone)."""
    tail = np.ascontiguousarray(halves[:, :, -1])
    total = tail.sum(axis=1)
    return np.tril(LN2 * (total[:, None] + total[None, :]), -1) - jsd_kernel.pair_divergences(tail)


def _sum(
    measure: Callable[[FloatArray], FloatArray],
    array: npt.NDArray[np.floating],
    w: FloatArray,
    threads: int | None,
) -> FloatArray:
    """Sum over tiles of whole positions of measure(w * p / 2 [n, positions, K + 1]).

    Threads take whole tiles, and the tiles are added in their order: the sum does not depend on their number.
    """
    _, positions, cells = array.shape
    size = max(1, jsd_kernel.TILE // (cells + 1))
    half = w[:, None] / 2

    def tile(start: int) -> FloatArray:
        part = slice(start, start + size)
        halves = with_tail(array[:, part], start)
        halves *= half[part]
        return measure(np.maximum(halves, jsd_kernel.TINY, out=halves))

    with ThreadPoolExecutor(thread_count(threads)) as pool:
        found = pool.map(tile, range(0, positions, size))
        total = next(found)
        for more in found:
            total += more
    return total


def _symmetric(lower: FloatArray) -> FloatArray:
    """A matrix of divergences from what is below its diagonal."""
    positive = np.maximum(lower, 0.0)
    return np.asarray(positive + positive.T)
