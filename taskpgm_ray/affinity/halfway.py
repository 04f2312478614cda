"""Some of the pool's adapters at half of their budget, beside themselves at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from taskpgm_ray.affinity.bandwidth import above_floor
from taskpgm_ray.numerics.types import FloatArray


@dataclass(frozen=True, eq=False)
class Halfway:
    """How far the adapters of m tasks are from each other, at two points of the same fine-tunes."""

    tasks: tuple[str, ...]
    half: Mapping[str, FloatArray]
    """Kind (``jsd``, ``pmi``) -> distances [m, m] at half of the budget, in the unit of `Affinities.distances`."""
    full: Mapping[str, FloatArray]
    """The same at its end."""

    def correlation(self, kind: str) -> float:
        """Spearman's, of the m (m - 1) / 2 distances at half of the budget and at its end; 0 where all are one."""
        pairs = np.triu_indices(len(self.tasks), 1)
        half, full = (one[kind][pairs] for one in (self.half, self.full))
        if np.ptp(half) == 0 or np.ptp(full) == 0:
            return 0.0
        return float(spearmanr(half, full).statistic)

    def kernels(self, kind: str, gamma: float, floor: float) -> tuple[FloatArray, FloatArray] | None:
        """S [m, m] at half of the budget and at its end, the typical pair as alike in one as in the other.

        Adapters move apart as long as they are trained. With one gamma for both, a mixture would change by that alone,
        which is no change of what is near to what: so gamma and the floor are taken in the unit of the median distance.

        Args:
            kind: What the kernel is made of.
            gamma: Bandwidth at the end, per unit of the distance.
            floor: What is taken off each distance at the end.

        Returns:
            ``None`` where most of the distances are 0 at one of the two.
        """
        pairs = np.triu_indices(len(self.tasks), 1)
        half, full = self.half[kind], self.full[kind]
        medians = [float(np.median(D[pairs])) for D in (half, full)]
        if min(medians) <= 0:
            return None
        scale = medians[1] / medians[0]
        return above_floor(half, gamma * scale, floor / scale)[0], above_floor(full, gamma, floor)[0]
