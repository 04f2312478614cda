"""What each task is worth among all others on the search split: the marginal utility, by merges that leave it out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.search.merges import Merges, Mixture


def measure_marginal(merges: Merges) -> NDArray[np.float64]:
    """Search score of the equal merge of all tasks' adapters minus that of all but one [n], in the search's metric.

    What an adapter gains alone (`taskpgm_ray.search.lift`) says what its task teaches a model that knows nothing of the
    others; a task of wrong answers teaches the form of an answer and gains too. Beside all others only what it adds
    counts, which is negative where it spoils theirs. The leave-one-out value of data valuation, without training.
    """
    names = [job.name for job in merges.jobs]
    n = len(names)
    without = (1.0 - np.eye(n)) / (n - 1)
    every = Mixture("all-tasks", np.full(n, 1 / n))
    mixtures = [every, *(Mixture(f"without-{name}", row) for name, row in zip(names, without, strict=True))]
    whole, *others = merges.scores(mixtures)
    return np.asarray(whole - np.array(others))
