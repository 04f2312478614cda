"""Clusters of similar tasks and their share of the mixture: far better determined than the split inside them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import InputError
from taskpgm_ray.numerics.checks import affinity_matrix, vector
from taskpgm_ray.numerics.psd import squared_distances
from taskpgm_ray.numerics.types import FloatArray, IntArray


@dataclass(frozen=True)
class Clusters:
    """A partition of n tasks, clusters by falling mass."""

    label: IntArray
    """Cluster of each task [n], 0 is the heaviest."""
    mass: FloatArray
    """Sum of the weights of each cluster."""
    tree: FloatArray
    """Average-linkage tree in scipy's format [n - 1, 4]."""


def clusters(
    S: npt.ArrayLike, weights: npt.ArrayLike, *, count: int | None = None, distance: float | None = None
) -> Clusters:
    """Average linkage on d_ij = sqrt(S_ii + S_jj - 2 S_ij), cut into ``count`` clusters or at ``distance``.

    Exactly one of ``count`` and ``distance`` (units of sqrt(S)) must be given.
    """
    from scipy.cluster.hierarchy import fcluster

    matrix = affinity_matrix(S)
    n = len(matrix)
    p = vector(weights, n, "weights")
    if (count is None) == (distance is None):
        raise InputError("give exactly one of count and distance")
    if count is not None and not 1 <= count <= n:
        raise InputError(f"count must be from 1 to {n}, got {count}")
    if n == 1:
        return Clusters(np.zeros(1, dtype=np.int64), p.copy(), np.zeros((0, 4)))
    tree = average_linkage(np.sqrt(squared_distances(matrix)))
    raw = fcluster(tree, count, "maxclust") if count is not None else fcluster(tree, float(distance or 0.0), "distance")
    _, label = np.unique(raw, return_inverse=True)
    mass = np.asarray(np.bincount(label, weights=p), dtype=np.float64)
    order = np.argsort(-mass, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return Clusters(rank[label], mass[order], tree)


def average_linkage(distances: npt.ArrayLike) -> FloatArray:
    """The average-linkage tree [n - 1, 4] in scipy's format.

    Args:
        distances: [n, n], n >= 2; made symmetric, and the diagonal is ignored.
    """
    from scipy.cluster.hierarchy import average
    from scipy.spatial.distance import squareform

    d = np.asarray(distances, dtype=np.float64)
    d = (d + d.T) / 2
    np.fill_diagonal(d, 0.0)
    return np.asarray(average(squareform(d, checks=False)))
