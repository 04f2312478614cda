"""Exact duplicates: merged before solving, their mass split afterwards.

Two tasks are exact duplicates when their rows of S and their utilities agree to rounding. The energy then depends on
the sum of their weights only. The split that this project chooses is the mixture nearest to the target m: within a
class of mass M, p_i = clip(m_i + theta, lower_i, upper_i) with theta such that the class sums to M. With a uniform
target and no bounds this is the equal split, and at tau = 1 it returns the target itself (docs/mathematics.md,
section 3).
"""

from dataclasses import dataclass

import numpy as np

from taskpgm_ray.numerics.types import FloatArray, IntArray

ROUNDING = 1e-14
"""Largest difference of two rows, relative to max |S|, that counts as equal."""


@dataclass(frozen=True)
class Classes:
    """Classes of exact duplicates: ``label`` [n] is the class of each task, ``first`` [N] one member of each class."""

    label: IntArray
    first: IntArray

    @property
    def trivial(self) -> bool:
        """True when no task has a duplicate."""
        return len(self.first) == len(self.label)

    def members(self) -> list[IntArray]:
        """The classes that have more than one member."""
        order = np.argsort(self.label, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(self.label[order])) + 1)
        return [group for group in groups if len(group) > 1]

    def sums(self, values: FloatArray) -> FloatArray:
        """Sum ``values`` [n] within each class -> [N]."""
        return np.asarray(np.bincount(self.label, weights=values, minlength=len(self.first)), dtype=np.float64)


def find(S: FloatArray, b: FloatArray) -> Classes:
    """Find the classes of exact duplicates of S [n, n] with utility direction b [n]."""
    n = len(S)
    spread = float(np.abs(b).max()) or 1.0
    if (np.diff(np.sort(b)) > ROUNDING * spread).all():
        # No two utilities are equal, so no two tasks are; most pools end here.
        return Classes(label=np.arange(n), first=np.arange(n))
    scale = max(-float(S.min()), float(S.max())) or 1.0
    # One random projection puts duplicates side by side; only neighbours need a full comparison.
    mark = S @ np.random.default_rng(0).standard_normal(n)
    order = np.argsort(mark, kind="stable")
    near = np.abs(np.diff(mark[order])) <= 10 * np.sqrt(n) * ROUNDING * scale
    representative = np.arange(n)
    for run in _runs(near):
        heads: list[int] = []
        for i in sorted(order[run].tolist()):
            for head in heads:
                same = np.abs(S[i] - S[head]).max() <= ROUNDING * scale and abs(b[i] - b[head]) <= ROUNDING * spread
                if same:
                    representative[i] = head
                    break
            else:
                heads.append(i)
    first, label = np.unique(representative, return_inverse=True)
    return Classes(label=label.astype(np.int64), first=first.astype(np.int64))


def split(mass: FloatArray, classes: Classes, target: FloatArray, lower: FloatArray, upper: FloatArray) -> FloatArray:
    """Weights [n] from the mass [N] of each class: the split nearest to the target within the bounds."""
    weights = mass[classes.label]
    for group in classes.members():
        total = float(mass[classes.label[group[0]]])
        weights[group] = water_fill(total, target[group], lower[group], upper[group])
    return np.clip(weights, lower, upper)


def kinks(group: IntArray, target: FloatArray, lower: FloatArray, upper: FloatArray) -> FloatArray:
    """The masses of one class at which the split of ``water_fill`` bends."""
    m, low, high = target[group], lower[group], upper[group]
    thetas = np.unique(np.concatenate([low - m, high - m]))
    return np.asarray(np.clip(m + thetas[:, None], low, high).sum(axis=1))


def water_fill(total: float, m: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """clip(m + theta, low, high) with theta such that the sum is ``total``."""
    thetas = np.unique(np.concatenate([low - m, high - m]))
    sums = np.clip(m + thetas[:, None], low, high).sum(axis=1)
    theta = float(np.interp(total, sums, thetas))
    filled = np.clip(m + theta, low, high)
    free = (filled > low) & (filled < high)
    if free.any():
        # Interpolation leaves a rounding error in the sum; the certificate of the whole mixture is sharper than that.
        filled[free] += (total - filled.sum()) / free.sum()
        filled = np.clip(filled, low, high)
    return filled


def _runs(near: np.ndarray) -> list[slice]:
    """Slices of consecutive positions joined by True in ``near`` [n - 1]."""
    if not near.any():
        return []
    edges = np.flatnonzero(np.diff(np.concatenate([[False], near, [False]])))
    return [slice(start, stop + 1) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
