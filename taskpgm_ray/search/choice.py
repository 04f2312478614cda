"""Which balance a search comes to: the maximum of the curve through its trials, not their luckiest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.search.candidates import Candidate, balance, distance
from taskpgm_ray.search.curve import fit
from taskpgm_ray.search.families import Family
from taskpgm_ray.search.stage import Outcome, from_uniform, winner

POINTS = 101
"""Balances at equal arc length along each family's path among which the maximum is looked for."""
LEAST = 3
"""Balances without which there is no curve."""
LEVEL = 1e-3
"""Scores nearer than this part of the curve's range count as equal."""


@dataclass(frozen=True, eq=False)
class FittedCurve:
    """The fitted score along one family's path."""

    family: str
    tau: NDArray[np.float64]
    """[k] balances, ascending."""
    mean: NDArray[np.float64]
    """[k] expected score."""
    sd: NDArray[np.float64]
    """[k] standard deviation of what is not known of it."""
    chosen: float
    """The balance of the maximum."""

    @property
    def maximum(self) -> tuple[float, float]:
        """Expected score there, and its standard deviation."""
        at = int(np.flatnonzero(self.tau == self.chosen)[0])
        return float(self.mean[at]), float(self.sd[at])


@dataclass(frozen=True, eq=False)
class Choice:
    """The mixture that a search chooses."""

    candidate: Candidate
    curve: FittedCurve | None = None
    """``None``: the best trial was taken."""


def choose(outcome: Outcome, families: Sequence[Family], config: StudyConfig) -> Choice:
    """The chosen mixture, by ``search.choose``; of less than three balances, or a user's own, the best trial's.

    Where the maximum is (nearly) a mixture that was tried, that one is taken; of equal scores that of the mixture
    nearest to uniform, which claims least.

    Args:
        outcome: What became of the trials.
        families: Those that were searched; contenders' paths are looked along.
        config: Of the study.
    """
    search = config.search
    tried = [plan for plan in outcome.finished if plan.candidate.kind == "balance"]
    if search.choose == "best" or config.mixture.fixed_tau(1) is not None or len(tried) < LEAST:
        return Choice(winner(outcome, search.metric))
    points = [point for plan in outcome.finished for point in plan.points(search.metric)]
    curve = fit(np.array([weights for weights, _ in points]), [scores for _, scores in points])
    contenders = [family for family in families if family.contender]
    low, high = search.tau
    paths = []
    for family in contenders:
        tau = np.array(family.path.equal_arc(POINTS, tau_min=low, tau_max=high))
        paths.append((tau, np.array([family.path.at(float(t)) for t in tau])))
    fitted = [curve.at(mixtures) for _, mixtures in paths]
    top = max(float(mean.max()) for mean, _ in fitted)
    level = top - LEVEL * (top - min(float(mean.min()) for mean, _ in fitted))
    _, which, at = min(
        (from_uniform(mixtures[k]), number, k)
        for number, ((_, mixtures), (mean, _)) in enumerate(zip(paths, fitted, strict=True))
        for k in np.flatnonzero(mean >= level)
    )
    made = balance(contenders[which], float(paths[which][0][at]), families)
    near = min((plan.candidate for plan in tried), key=lambda one: distance(one, made))
    if distance(near, made) <= search.merge_distance:
        made = near
    if made.method != contenders[which].name:
        # The same mixture was tried under another family's name: that family's curve is shown.
        which = [family.name for family in contenders].index(made.method)
        at = np.argmin(np.abs(paths[which][0] - float(made.tau or 0.0)))
    (tau, _), (mean, sd) = paths[which], fitted[which]
    return Choice(made, FittedCurve(made.method, tau, mean, sd, float(tau[at])))
