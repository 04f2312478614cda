"""The order in which tasks are drawn (hierarchical clustering), their short labels, and blocks for very large pools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from taskpgm_ray.mrf.clustering import average_linkage

MOST_CELLS = 400
"""Rows of a heat map beyond which neighbouring tasks share a cell."""


@dataclass(frozen=True)
class Clustering:
    """Leaves of the clustering tree from left to right, and the tree itself as line segments."""

    order: list[int]
    """Task numbers in drawing order."""
    branches: list[tuple[list[float], list[float]]]
    """Per merge the corners of its bracket: positions (0 is the first leaf) and heights (1 is the root)."""


def cluster(divergence: np.ndarray) -> Clustering:
    """Average linkage on sqrt(JSD), which is a metric.

    Args:
        divergence: Mean JSD in nats, float [n, n].
    """
    n = len(divergence)
    if n == 1:
        return Clustering([0], [])
    from scipy.cluster.hierarchy import dendrogram, leaves_list, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    distance = np.sqrt(np.maximum((divergence + divergence.T) / 2, 0))
    np.fill_diagonal(distance, 0)
    tree = average_linkage(distance)
    if n <= MOST_CELLS:  # cubic in n
        tree = optimal_leaf_ordering(tree, squareform(distance, checks=False))
    drawn = dendrogram(tree, no_plot=True)
    # scipy puts leaf i at 5 + 10 i.
    top = max(max(heights) for heights in drawn["dcoord"]) or 1.0
    branches = [
        ([(x - 5) / 10 for x in positions], [h / top for h in heights])
        for positions, heights in zip(drawn["icoord"], drawn["dcoord"], strict=True)
    ]
    return Clustering([int(leaf) for leaf in leaves_list(tree)], branches)


def labels(names: Sequence[str], width: int = 30) -> list[str]:
    """Names for figures: at most about ``width`` characters, still distinct, and with markup made harmless.

    Plotly reads a subset of HTML in every text, so the names are escaped here and nowhere else.
    """
    short, seen = [], set()
    for name in names:
        label = name if len(name) <= width else f"{name[: width // 2]}…{name[-(width // 2 - 1) :]}"
        copies = 2
        candidate = label
        while candidate in seen:
            candidate, copies = f"{label} ({copies})", copies + 1
        seen.add(candidate)
        short.append(escape(candidate, quote=False))
    return short


def blocks(n: int, most: int = MOST_CELLS) -> list[slice]:
    """Consecutive runs of drawn tasks that share a cell: single tasks as long as there are at most ``most``."""
    size = -(-n // most)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]
