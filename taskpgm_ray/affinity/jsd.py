"""Jensen-Shannon divergences between models, averaged over a common probe set (docs/mathematics.md, section 9)."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from taskpgm_ray.affinity.coarse import check_logprobs, position_weights, with_tail
from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf._types import FloatArray

LN2 = float(np.log(2.0))


def jsd_matrix(
    logprobs: npt.ArrayLike, weights: npt.ArrayLike | None = None, *, threads: int | None = None
) -> FloatArray:
    """Mean Jensen-Shannon divergence of every pair of models, in nats, in [0, ln 2].

    Computed on the coarse distributions (support and tail), a lower bound of the divergence of the full distributions;
    ``bracket`` gives the upper bound. The result is of negative type: exp(-gamma D) is PSD for every gamma > 0.

    Args:
        logprobs: log-probabilities of the common support [n, P, K], nats, float32 or float64, without the tail.
        weights: weight of each position [P], common to all pairs; equal if None.
        threads: rows of pairs computed at the same time; None: all cores this process may use.

    Returns:
        [n, n], symmetric, zero diagonal.

    Raises:
        InputError: wrong shapes, NaN, entries that are not log-probabilities.
    """
    array = check_logprobs(logprobs)
    w = position_weights(weights, array.shape[1])
    return _average(array, w, threads, tails_only=False)


def bracket(
    logprobs: npt.ArrayLike, weights: npt.ArrayLike | None = None, *, threads: int | None = None
) -> tuple[FloatArray, FloatArray]:
    """Lower and upper bound of the mean JSD of the full distributions, from the support and the tail mass.

    With tails a and b: coarse <= JSD <= coarse + (a + b) / 2 * h2(a / (a + b)), h2 the binary entropy in nats. The left
    side is attained when the tails have equal conditionals, the right side when they are disjoint. Only the lower
    bound is sure to be of negative type: build S from it and report the upper one.

    Returns:
        (lower, upper), each [n, n] nats.
    """
    array = check_logprobs(logprobs)
    w = position_weights(weights, array.shape[1])
    lower = _average(array, w, threads, tails_only=False)
    upper = lower + _average(array, w, threads, tails_only=True)
    np.fill_diagonal(upper, 0.0)
    return lower, np.minimum(upper, LN2)


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
        divergences[e] = _average(array[:, chosen], w[chosen] / total[e], 1, tails_only=False)
    return divergences, total


def thread_count(threads: int | None) -> int:
    """Number of threads: as asked, else the cores that this process may use."""
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
    return threads


def in_threads(work: Callable[[int, int], None], threads: int) -> None:
    """Run work(first, step) for first = 0 ... threads - 1 at the same time; errors are raised here."""
    if threads == 1:
        work(0, 1)
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, first, threads) for first in range(threads)]:
            done.result()


def _average(array: npt.NDArray[np.floating], w: FloatArray, threads: int | None, tails_only: bool) -> FloatArray:
    """Weighted mean over positions of JSD, or of the widest addition that the tails allow."""
    from taskpgm_ray.affinity import jsd_kernel

    n, positions, cells = array.shape
    mixed, own = np.zeros((n, n)), np.zeros(n)
    tail_total = np.zeros(n)
    block = max(1, (positions if tails_only else jsd_kernel.TILE // (cells + 1)))
    several = thread_count(threads)
    for start in range(0, positions, block * 16):
        p = with_tail(array[:, start : start + block * 16], start)
        share = w[start : start + block * 16]
        if tails_only:
            p = p[:, :, -1:]
            tail_total += p[:, :, 0] @ share
        p *= 0.5
        # Contiguous tiles of whole positions, so that n rows of one tile stay in the cache.
        tiles = [
            (np.ascontiguousarray(p[:, a : a + block].reshape(n, -1)), np.repeat(share[a : a + block], p.shape[2]))
            for a in range(0, p.shape[1], block)
        ]

        def work(first: int, step: int, tiles: list[tuple[FloatArray, FloatArray]] = tiles) -> None:
            for halves, cell_weights in tiles:
                jsd_kernel.add_pairs(halves, cell_weights, mixed, first, step)

        in_threads(work, min(several, n))
        for halves, cell_weights in tiles:
            jsd_kernel.add_single(halves, cell_weights, own)
    if tails_only:
        # (a + b) / 2 h2(a / (a + b)) = [(a + b) ln (a + b) - a ln a - b ln b] / 2, where the kernel saw (a + b) / 2.
        values = mixed + LN2 * (tail_total[:, None] + tail_total[None, :]) / 2 - (own[:, None] + own[None, :]) / 2
    else:
        values = (own[:, None] + own[None, :]) / 2 - mixed
    lower = np.tril(np.maximum(values, 0.0), -1)
    return np.asarray(lower + lower.T)
