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
    made: list[Candidate] = []
    for name in config.baselines:
        weights = uniform(len(sizes)) if name == "uniform" else proportional(sizes)
        # Tasks of one size make the two baselines the same mixture, which is trained once.
        if _new(weights, made):
            made.append(Candidate(name, "baseline", None, weights))
    if fixed_tau is None:
        taus = list(path.equal_arc(config.balances, tau_min=config.tau[0], tau_max=config.tau[1]))
    else:
        taus = [fixed_tau]
    balances = [Candidate(f"tau-{tau:.4g}", "balance", float(tau), path.at(float(tau))) for tau in taus]
    made += [balance for balance in balances if _new(balance.weights, made)]
    # Someone has to win: where every balance is a baseline's mixture, one of them is a candidate all the same.
    return made if made[-1].kind == "balance" else [*made, balances[0]]


def _new(weights: NDArray[np.float64], made: Sequence[Candidate]) -> bool:
    return all(np.abs(weights - other.weights).max() > SAME for other in made)
