"""The baseline ``regression``: the mixture that a regression of all other trials' scores on their weights proposes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from taskpgm_ray.config import REGRESSION
from taskpgm_ray.search.candidates import Candidate
from taskpgm_ray.search.families import Family
from taskpgm_ray.search.proposal import propose
from taskpgm_ray.search.regression import pooled, regress
from taskpgm_ray.search.trials import Planner, TrialPlan
from taskpgm_ray.storage import Unit, fingerprint

POINTS = 21
"""Balances at equal arc length along each contender's path near which mixtures are drawn, too."""


@dataclass(frozen=True)
class RegressionFinding:
    """How well regressions rank mixtures, and what the better one expects of the mixture that it proposes."""

    model: str
    """``log-linear`` or ``boosted``."""
    correlation: float
    """Spearman's, of what it predicts for mixtures that were left out and what they scored."""
    low: float
    """Lower end of its interval."""
    mixtures: int
    """Different mixtures that it was fitted to."""
    predicted: float
    """Score of its own mixture."""


def regressed(
    finished: Sequence[TrialPlan], families: Sequence[Family], planner: Planner
) -> tuple[Candidate, RegressionFinding]:
    """The mixture that these trials propose, within the limits of the families.

    It is kept in a unit, so that the same trials propose the same mixture on other machines and with other libraries.

    Args:
        finished: The trials that it learns from; none of them its own.
        families: Those that were searched; contenders' paths are looked at.
        planner: Config and storage.

    Raises:
        InputError: The trials say too little for a regression.
    """
    search, seed = planner.config.search, planner.config.seed
    points = [point for plan in finished for point in plan.points(search.metric)]
    mixtures = np.array([weights for weights, of_one in points for _ in of_one])
    scores = [score for _, of_one in points for score in of_one]
    limits = families[0].within
    trials = [run.unit.path for plan in finished for run in plan.runs]
    record = Unit(planner.storage, f"search/regression-{fingerprint(trials, scores, limits.identity(), seed)}")
    if not record.done():
        found = regress(pooled(mixtures, scores))
        paths = [
            family.path.at(family.path.equal_arc(POINTS, tau_min=search.tau[0], tau_max=search.tau[1]))
            for family in families
            if family.contender
        ]
        weights = propose(found.predict, limits, np.vstack([mixtures, *paths]), seed)
        predicted = float(found.predict(weights[None])[0])
        finding = RegressionFinding(found.model, found.correlation, found.low, found.mixtures, predicted)
        record.finish({"weights": weights.tolist(), "finding": asdict(finding)})
    kept = record.manifest()
    candidate = Candidate(REGRESSION, "baseline", None, np.array(kept["weights"]), REGRESSION)
    return candidate, RegressionFinding(**kept["finding"])
