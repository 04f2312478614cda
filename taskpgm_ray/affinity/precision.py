"""How precise the divergences of a pool are, and whether that is enough (docs/mathematics.md, section 18)."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
import numpy.typing as npt

LEAST_PROBES = 40
"""Of fewer probes, in all tasks together, a standard error is not judged: the twenty groups of its jackknife would have
less than two of them on average, and some might have none."""


@dataclass(frozen=True)
class Precision:
    """The standard errors of the divergences beside what these differ by."""

    error: float
    """Standard error of a divergence, root mean square over pairs of tasks, nats."""
    spread: float
    """Standard deviation of the measured divergences over pairs, nats."""

    @property
    def ratio(self) -> float:
        """The error as a part of the spread; infinite where nothing differs, as in a pool of two."""
        return self.error / self.spread if self.spread > 0 else inf


def precision(divergence: npt.ArrayLike, standard_error: npt.ArrayLike) -> Precision:
    """The precision of a pool.

    Args:
        divergence: [n, n] nats.
        standard_error: [n, n] of each.
    """
    d, error = np.asarray(divergence, dtype=np.float64), np.asarray(standard_error, dtype=np.float64)
    pairs = np.triu_indices(len(d), 1)
    if not len(pairs[0]):
        return Precision(0.0, 0.0)
    return Precision(float(np.sqrt(np.mean(error[pairs] ** 2))), float(d[pairs].std()))
