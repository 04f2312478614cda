"""How much better one model is than another on the search split, task by task of the pool, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.evaluation import ItemScore
from taskpgm_ray.evaluation.statistics import paired_difference

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Gain:
    """What each task of the pool is worth by one measure, in the search's metric."""

    values: Floats
    """[n]."""
    errors: Floats
    """[n] standard errors from the spread over items; the models are taken as they are."""

    @classmethod
    def of(cls, pairs: Sequence[tuple[Sequence[ItemScore], Sequence[ItemScore]]], config: StudyConfig) -> Gain:
        """A task's worth is the first model's score minus the second's [n pairs], on the same items.

        Raises:
            EvaluationError: The two were not asked the same items, or a benchmark has one item only.
        """
        metric, weights = config.search.metric, config.evaluation.weights
        found = [paired_difference(one, other, metric=metric, weights=weights) for one, other in pairs]
        return cls(np.array([r.difference for r in found]), np.array([r.item_error for r in found]))
