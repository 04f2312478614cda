"""Data sets that the pool holds in several parts: whether the affinities and the mixture see through it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from taskpgm_ray.mrf import solve
from taskpgm_ray.report.data import ReportData


@dataclass(frozen=True)
class Planted:
    """One data set that was split into parts."""

    name: str
    parts: int
    within: float
    """Largest divergence of two of its parts (JSD, nats)."""
    nearest: float
    """Smallest divergence of a part to a task of another data set; infinite where there is none."""
    share: float
    """The parts' weight together at tau = 0."""
    share_as_one: float
    """The weight at tau = 0 of the first part, in a pool without the other parts of any data set. A mixture that sees
    through the redundancy gives both alike; uniform gives the parts as many times as much as there are parts."""


def planted(data: ReportData) -> list[Planted]:
    """The data sets that the pool holds in several parts, in the tasks' order."""
    groups: dict[str, list[int]] = {}
    for index, task in enumerate(data.tasks):
        groups.setdefault(task.group or task.name, []).append(index)
    split = solve(data.affinity, 0.0).weights
    firsts = [members[0] for members in groups.values()]
    whole = dict(zip(firsts, solve(data.affinity[np.ix_(firsts, firsts)], 0.0).weights, strict=True))
    return [
        Planted(
            name,
            len(members),
            float(data.divergence[np.ix_(members, members)].max()),
            float(np.delete(data.divergence[members], members, axis=1).min(initial=np.inf)),
            float(split[members].sum()),
            float(whole[members[0]]),
        )
        for name, members in groups.items()
        if len(members) > 1
    ]
