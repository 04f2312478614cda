"""How sure the weights of a mixture are, from the groups of probes that the divergences are stored by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from taskpgm_ray.affinity.jsd_sums import JSDSums
from taskpgm_ray.mrf import Limits, WeightUncertainty, group_jackknife, nearest_conditionally_psd, solve
from taskpgm_ray.mrf.mixture import Mixture
from taskpgm_ray.mrf.uncertainty import resolved
from taskpgm_ray.numerics.psd import cholesky
from taskpgm_ray.numerics.types import BoolArray, FloatArray

LEVEL = 0.95
DRAWS = 200
"""Draws of groups with replacement, for the inclusion of tasks."""
MOST_TASKS = 400
"""Pools beyond which the draws would take minutes; the intervals are given all the same."""


@dataclass(frozen=True, eq=False)
class Certainty:
    """Of the weights [n], over which probes were drawn. The adapters are taken as they are."""

    groups: int
    """Groups of probes."""
    low: FloatArray
    """Ends of an interval of `LEVEL` for each weight [n], by a jackknife over groups."""
    high: FloatArray
    inclusion: FloatArray | None
    """Part of the draws in which each task has weight [n]; ``None`` for very large pools."""
    apart: BoolArray
    """Pairs of tasks whose weights differ by more than chance [n, n], each tested at 1 - `LEVEL`."""
    uniform: bool
    """Whether every weight's simultaneous interval (Bonferroni) holds 1 / n: nothing tells the mixture from uniform."""
    covariance: FloatArray
    """[n, n]."""

    def share(self, members: np.ndarray, weights: FloatArray) -> tuple[float, float]:
        """Interval of the sum of some weights."""
        error = float(np.sqrt(max(self.covariance[np.ix_(members, members)].sum(), 0.0)))
        half = _quantile(self.groups, LEVEL) * error
        mass = float(weights[members].sum())
        return max(0.0, mass - half), min(1.0, mass + half)


def certainty(sums: JSDSums, mixture: Mixture, gamma: float, taken_off: float = 0.0, seed: int = 0) -> Certainty | None:
    """The certainty of a mixture of S = exp(-gamma (D - taken_off)); gamma and floor are held fixed.

    ``None`` with fewer than three groups of probes.
    """
    kept = np.flatnonzero(sums.weight > 0)
    if len(kept) < 3:
        return None
    n, groups = len(mixture.weights), len(kept)
    replicates = np.array([_affinity(D, gamma, taken_off) for D in sums.leave_one_bucket_out()])
    found = group_jackknife(replicates, mixture)
    errors, p = found.standard_errors, mixture.weights
    half = _quantile(groups, LEVEL) * errors
    wide = _quantile(groups, 1 - (1 - LEVEL) / n) * errors
    return Certainty(
        groups=groups,
        low=np.clip(p - half, 0.0, 1.0),
        high=np.clip(p + half, 0.0, 1.0),
        inclusion=_inclusion(sums, mixture, gamma, taken_off, seed) if n <= MOST_TASKS else None,
        apart=_apart(found, groups),
        uniform=bool((np.abs(p - 1 / n) <= wide + 1e-12).all()),
        covariance=found.covariance,
    )


def _affinity(D: FloatArray, gamma: float, taken_off: float) -> FloatArray:
    S = np.exp(-gamma * np.maximum(D - taken_off, 0.0))
    np.fill_diagonal(S, 1.0)
    # A kernel whose floor was taken off for all groups together may be indefinite for a part of them.
    return S if cholesky(S) is not None else nearest_conditionally_psd(S)[0]


def _apart(found: WeightUncertainty, groups: int) -> BoolArray:
    V, p = found.covariance, found.weights
    variance = np.diag(V)[:, None] + np.diag(V)[None, :] - 2 * V
    difference = np.abs(p[:, None] - p[None, :])
    return np.asarray(difference > _quantile(groups, LEVEL) * np.sqrt(np.maximum(variance, 1e-30)))


def _inclusion(sums: JSDSums, mixture: Mixture, gamma: float, taken_off: float, seed: int) -> FloatArray:
    """Part of the draws of groups with replacement in which each task has weight [n]."""
    rng = np.random.default_rng(seed)
    kept = np.flatnonzero(sums.weight > 0)
    parts = sums.sums[kept].astype(np.float64)
    weight = sums.weight[kept].astype(np.float64)
    drawn = rng.multinomial(len(kept), np.full(len(kept), 1 / len(kept)), size=DRAWS).astype(np.float64)
    means = np.einsum("bg,gij->bij", drawn, parts, optimize=True) / (drawn @ weight)[:, None, None]
    means = means + means.transpose(0, 2, 1)
    solved = resolved(np.array([_affinity(D, gamma, taken_off) for D in means]), mixture)
    return np.asarray((solved > mixture.lower + 1e-12).mean(axis=0))


def solved_within(S: FloatArray, tau: float, limits: Limits, utility: FloatArray | None) -> Mixture:
    """The mixture as a solution between bounds; where only some tasks may have weight, the others are held at 0."""
    lower, upper = limits.bounds
    if limits.most is not None:
        upper = np.where(limits.solve(S, tau, utility) > 0, limits.upper, 0.0)
    return solve(S, tau, utility=utility, target=limits.target, lower=lower, upper=upper)


def _quantile(groups: int, level: float) -> float:
    return float(student.ppf((1 + level) / 2, groups - 1))
