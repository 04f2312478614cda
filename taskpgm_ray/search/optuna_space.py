"""The continuous search space of Optuna: a family and a position along its path of mixtures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from taskpgm_ray.search.candidates import Candidate, balance
from taskpgm_ray.search.families import Family
from taskpgm_ray.search.trials import Planner, TrialPlan, measured_by
from taskpgm_ray.storage import Storage, fingerprint
from taskpgm_ray.workload import search_seeds

STEPS = 200
"""Positions along a path: finer than mixtures differ, coarse enough that a proposal may come twice."""


@dataclass(frozen=True)
class PathSpace:
    """Points are ``{"family": name, "position": 0 to 1}``, equal steps in position being equal changes of mixture."""

    families: tuple[Family, ...]
    planner: Planner
    storage: Storage
    """Where proposed points are recorded, so that an interrupted search knows what it tried."""

    def plan(self, point: dict[str, Any]) -> TrialPlan:
        """The trial of a point."""
        return self.planner.plan(self.candidate(point))

    def candidate(self, point: dict[str, Any]) -> Candidate:
        """The mixture at a point."""
        family = next(family for family in self.families if family.name == point["family"])
        low, high = self.planner.config.search.tau
        taus = family.path.equal_arc(STEPS + 1, tau_min=low, tau_max=high)
        return balance(family, float(taus[round(point["position"] * (len(taus) - 1))]), self.families)

    def propose(self, point: dict[str, Any]) -> TrialPlan:
        """The trial of a point that Optuna chose; the point is recorded before the trial begins."""
        record = {"family": point["family"], "position": float(point["position"])}
        self.storage.write_json(f"{fingerprint(record)}.json", record)
        return self.plan(point)

    def points(self) -> list[dict[str, Any]]:
        """Every recorded point, in an order that does not depend on when it was tried."""
        names = [name for name in self.storage.names() if name.endswith(".json")]
        return [self.storage.read_json(name) for name in names]


def points_folder(families: Sequence[Family], planner: Planner) -> str:
    """The study's folder of the points of one search.

    A search of other mixtures (affinity, utility, range of the balance), by other trials (budget, split) or for another
    score (metric, weights) has another.
    """
    mixtures = [family.identity() for family in families]
    search, evaluation = planner.config.search, planner.config.evaluation
    probe = balance(families[0], 1.0, families)
    trials = [planner.new_job(probe, seed).unit.path for seed in search_seeds(planner.config)]
    score = [planner.search_split.path, *measured_by(planner.config), search.metric, dict(evaluation.weights)]
    return f"search/points-{fingerprint(mixtures, list(search.tau), trials, score)}"
