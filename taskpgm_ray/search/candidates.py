"""Which mixtures are tried: balances at equal arc length along the path of mixtures, and the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.config import SearchConfig
from taskpgm_ray.mixture import proportional, uniform
from taskpgm_ray.mrf import MixturePath

SAME = 1e-9
"""Mixtures whose weights differ by less than this everywhere are one candidate."""


@dataclass(frozen=True)
class Candidate:
    """One mixture to be tried."""

    name: str
    kind: Literal["balance", "baseline"]
    tau: float | None
    weights: NDArray[np.float64]
    """[n] on the simplex."""


def candidates(
    path: MixturePath, sizes: Sequence[int], config: SearchConfig, fixed_tau: float | None = None
) -> list[Candidate]:
    """The baselines, and the balances of the configured range (or only ``fixed_tau`` when the user set one).

    A balance whose mixture a baseline has already (tau = 1 is uniform) is not tried again under a second name.

    Args:
        path: The exact path of mixtures over tau, covering the range.
        sizes: [n] training examples per task, for the proportional baseline.
        config: Number of balances, range, baselines.
        fixed_tau: The user's own balance.
    """
    made: list[Candidate] = [
        Candidate(name, "baseline", None, uniform(len(sizes)) if name == "uniform" else proportional(sizes))
        for name in config.baselines
    ]
    taus = (
        [fixed_tau]
        if fixed_tau is not None
        else list(path.equal_arc(config.balances, tau_min=config.tau[0], tau_max=config.tau[1]))
    )
    for tau in taus:
        weights = path.at(float(tau))
        if all(np.abs(weights - other.weights).max() > SAME for other in made):
            made.append(Candidate(f"tau-{tau:.4g}", "balance", float(tau), weights))
    return made
