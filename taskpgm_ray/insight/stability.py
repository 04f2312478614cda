"""How much a mixture hangs on the number of steps of the single-task fine-tunes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from taskpgm_ray.affinity.halfway import Halfway
from taskpgm_ray.mrf import solve
from taskpgm_ray.search.families import Family

MOVED = 0.1
"""Part of the mixture that moves from which on it is said to hang on the number of steps."""


@dataclass(frozen=True)
class Stability:
    """Some tasks' affinities at half of their adapters' budget, beside those at its end."""

    tasks: int
    correlation: float
    """Spearman's, of the distances of all pairs of these tasks at the two points."""
    moved: float | None
    """Total variation between their mixtures at the two points, 0 to 1; ``None`` where either has no kernel."""

    @property
    def holds(self) -> bool:
        """Whether the mixture stays where it is; by the correlation, nothing can be said."""
        return self.moved is None or self.moved <= MOVED


def stability(halfway: Halfway | None, family: Family, tau: float) -> Stability | None:
    """What the second half of the steps has changed.

    The mixtures are those of these tasks alone, with the family's bandwidth and noise floor in the unit of their
    median distance, by the row sums of S and without constraints.

    Args:
        halfway: The tasks; ``None``: not measured.
        family: Of the study's mixture; of one that is no kernel of the adapters' behaviour nothing can be said.
        tau: The study's balance.
    """
    if halfway is None or family.affinity not in ("jsd", "pmi"):
        return None
    kind, moved = family.affinity, None
    if family.gamma is not None:
        floor = family.noise.taken_off if family.noise else 0.0
        kernels = halfway.kernels(kind, family.gamma, floor)
        if kernels is not None:
            half, full = (solve(S, tau).weights for S in kernels)
            moved = float(np.abs(half - full).sum() / 2)
    return Stability(len(halfway.tasks), halfway.correlation(kind), moved)
