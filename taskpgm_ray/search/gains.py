"""What each task is worth on the search split, by each utility that the search asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.finetune.job import Job
from taskpgm_ray.runtime.run import Run
from taskpgm_ray.search.lift import measure_lift
from taskpgm_ray.search.marginal import measure_marginal
from taskpgm_ray.search.merges import Merges
from taskpgm_ray.search.trials import Planner


def measure_gains(jobs: Sequence[Job], planner: Planner, run: Run) -> Mapping[str, NDArray[np.float64]]:
    """Utility's name in ``search.utilities`` -> what each task is worth by it [n]; of those that are measured."""
    search = planner.config.search
    found = {}
    if search.measures_lift:
        found["targeted"] = measure_lift(jobs, planner, run)
    if search.measures_marginal:
        found["marginal"] = measure_marginal(Merges(jobs, planner, run))
    return found
