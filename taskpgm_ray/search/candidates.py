"""Which mixtures are tried: balances at equal arc length along the path of each family, and the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.config import SearchConfig
from taskpgm_ray.mixture import capped_proportional, dirichlet, proportional, temperature, uniform
from taskpgm_ray.search.families import Family


@dataclass(frozen=True)
class Candidate:
    """One mixture to be tried."""

    name: str
    kind: Literal["balance", "baseline"]
    """``balance``: TaskPGM's, which may win. ``baseline``: only to be compared with."""
    tau: float | None
    weights: NDArray[np.float64]
    """[n] on the simplex."""
    method: str
    """What it stands for: a family's name, or the baseline's own. Each method is judged by its best candidate."""


def candidates(
    families: Sequence[Family],
    sizes: Sequence[int],
    config: SearchConfig,
    fixed_tau: float | None = None,
    seed: int = 0,
) -> list[Candidate]:
    """The baselines, and the balances of every family (or only ``fixed_tau`` when the user set one).

    A mixture that another candidate nearly is (``config.merge_distance``) is not tried again under a second name.

    Args:
        families: The paths of mixtures; their paths cover the configured range.
        sizes: [n] training examples per task, for the baselines.
        config: Number of balances, range, baselines.
        fixed_tau: The user's own balance.
        seed: Draws the random mixture.
    """
    made = baselines(sizes, config, seed)
    for family in families:
        balances = [balance(family, tau, families) for tau in _taus(family, config, fixed_tau)]
        new: list[Candidate] = []
        for one in balances:
            if all(distance(one, other) > config.merge_distance for other in (*made, *new)):
                new.append(one)
        # Each family is to be judged: where all its mixtures are others', one of them is tried all the same.
        made += new or balances[:1]
    return made


def baselines(sizes: Sequence[int], config: SearchConfig, seed: int) -> list[Candidate]:
    """The configured baselines that need no affinity; of those that are one mixture, the first."""
    n = len(sizes)
    known = {
        "uniform": lambda: uniform(n),
        "proportional": lambda: proportional(sizes),
        "temperature": lambda: temperature(sizes, config.temperature),
        "capped": lambda: capped_proportional(sizes, config.cap or float(np.median(sizes))),
        "random": lambda: dirichlet(n, seed),
    }
    made: list[Candidate] = []
    for name in config.baselines:
        if name in known:
            one = Candidate(name, "baseline", None, known[name](), name)
            # Tasks of one size make several of them the same mixture, which is trained once.
            if all(distance(one, other) > config.merge_distance for other in made):
                made.append(one)
    return made


def balance(family: Family, tau: float, families: Sequence[Family]) -> Candidate:
    """The family's mixture at one balance."""
    # With one family to choose from, the balance says everything.
    lone = family.contender and sum(other.contender for other in families) == 1
    name = f"tau-{tau:.4g}" if lone else f"{family.name}-tau-{tau:.4g}"
    return Candidate(name, "balance" if family.contender else "baseline", tau, family.path.at(tau), family.name)


def distance(a: Candidate, b: Candidate) -> float:
    """Total variation between two mixtures, 0 to 1."""
    return float(np.abs(a.weights - b.weights).sum() / 2)


def _taus(family: Family, config: SearchConfig, fixed_tau: float | None) -> list[float]:
    if fixed_tau is not None:
        return [fixed_tau]
    return [float(t) for t in family.path.equal_arc(config.balances, tau_min=config.tau[0], tau_max=config.tau[1])]
