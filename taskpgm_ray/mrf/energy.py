"""The energy of a mixture, its gradient and the certificate (docs/mathematics.md, sections 1 and 2).

Everywhere E(p) = p'Sp / 2 - tau * b'p on the simplex (or a box in it), which is the energy of TaskPGM
(arXiv 2507.12612) divided by lambda. The direction b [n] is S m for a target mixture m (uniform unless given; then
tau * b = (beta / lambda) * S 1 as in the paper) or u / n for a user's own utility u.
"""

import numpy as np

from taskpgm_ray.numerics.types import FloatArray, IntArray


def direction(
    S: FloatArray, utility: FloatArray | None, target: FloatArray | None, sums: FloatArray | None = None
) -> FloatArray:
    """The direction b [n] of the linear term: u / n for a utility u, else S m (row means when m is uniform).

    ``sums`` are the row sums of S [n] where they are known.
    """
    if utility is not None:
        return np.asarray(utility / len(S))
    if target is not None:
        return np.asarray(S @ target)
    return np.asarray((S.sum(axis=1) if sums is None else sums) / len(S))


def energy(S: FloatArray, b: FloatArray, tau: float, p: FloatArray) -> float:
    """E(p) = p'Sp / 2 - tau * b'p, in units of lambda."""
    return float(p @ (S @ p) / 2 - tau * (b @ p))


def gradient(S: FloatArray, b: FloatArray, tau: float, p: FloatArray) -> FloatArray:
    """The gradient S p - tau * b [n]."""
    return product(S, p) - tau * b


def product(S: FloatArray, p: FloatArray) -> FloatArray:
    """S p [n] of the symmetric S; where few tasks have weight, only their rows are read."""
    held = np.flatnonzero(p)
    return p[held] @ S[held] if 4 * len(held) < len(p) else S @ p


def cheapest(cost: FloatArray, lower: FloatArray, upper: FloatArray) -> tuple[IntArray, FloatArray]:
    """The mixture of least cost'p, a fractional knapsack: the bounds are filled from the cheapest task on.

    Returns:
        (order [n], weights [n]): the tasks by rising cost, and their weights in this order.
    """
    order = np.argsort(cost, kind="stable")
    room = 1.0 - float(lower.sum())
    capacity = (upper - lower)[order]
    before = np.concatenate([[0.0], np.cumsum(capacity)[:-1]])
    return order, lower[order] + np.clip(room - before, 0.0, capacity)


def duality_gap(g: FloatArray, p: FloatArray, lower: FloatArray, upper: FloatArray) -> float:
    """The Frank-Wolfe gap g'p - min {g'v : lower <= v <= upper, 1'v = 1}, an upper bound of E(p) - min E.

    It holds for every feasible p, whichever solver found it, when S is positive semidefinite on the simplex.
    """
    # Subtracting the smallest entry first avoids the cancellation of two large sums.
    first = int(np.argmin(g))
    shifted = g - g[first]
    if upper[first] - lower[first] >= 1.0 - float(lower.sum()):
        # The cheapest task takes all that is free, at no cost: nothing has to be sorted.
        return float(max(0.0, shifted @ p - shifted @ lower))
    order, best = cheapest(g, lower, upper)
    return float(max(0.0, shifted @ p - shifted[order] @ best))
