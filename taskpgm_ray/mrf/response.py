"""How the optimum answers to small changes: (Q, w) of the free tasks (docs/mathematics.md, section 5)."""

import numpy as np
import scipy.linalg

from taskpgm_ray.mrf._types import FloatArray, IntArray
from taskpgm_ray.mrf.psd import centred


def bordered_inverse(S: FloatArray, free: IntArray) -> tuple[FloatArray, FloatArray]:
    """(Q [k, k], w [k]) of the free tasks: the inverse of [[S_AA, 1], [1', 0]] is [[Q, w], [w', -1/sigma]].

    Where S_AA is singular on 1-perp (duplicates, low rank) Q is the pseudo-inverse of J S_AA J and w the least-norm
    solution, so that exact duplicates respond alike.
    """
    A = S[np.ix_(free, free)]
    k = len(free)
    if k == 1:
        return np.zeros((1, 1)), np.ones(1)
    values, vectors = scipy.linalg.eigh(centred(A))
    keep = values > 1e-12 * max(float(np.abs(A).max()), 1e-300)
    Q = (vectors[:, keep] / values[keep]) @ vectors[:, keep].T
    if keep.sum() == k - 1:
        # Refine once against the matrix itself: Q <- Q (2 - (J S J) Q).
        Q = 2 * Q - Q @ (A @ Q)
    Q = (Q + Q.T) / 2
    w = np.full(k, 1 / k) - Q @ A.mean(axis=1)
    return Q, w


def free_tasks(weights: FloatArray, lower: FloatArray, upper: FloatArray) -> IntArray:
    """Tasks strictly between their bounds; an upper bound of 1 is none."""
    return np.flatnonzero((weights > lower) & ((weights < upper) | (upper >= 1.0)))
