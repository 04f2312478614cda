"""Merging the single-task adapters instead of training: how well it ranks mixtures, and which ones that rules out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.evaluation import ItemScore, summarise
from taskpgm_ray.finetune.job import Job
from taskpgm_ray.progress import Progress, collect
from taskpgm_ray.search.merge import foretold_best, merge_adapters, rank_correlation
from taskpgm_ray.search.plan import Planner, TrialPlan, measured_by
from taskpgm_ray.storage import Unit, fingerprint

if TYPE_CHECKING:
    from taskpgm_ray.session import Session

WARRANTED = 0.6
"""Lower end of the rank correlation from which a merge may stand in for training."""


@dataclass(frozen=True)
class Screen:
    """Scores mixtures by merging instead of training; each merge and each score is a unit, and made once."""

    jobs: Sequence[Job]
    """The single-task fine-tunes."""
    planner: Planner
    session: Session
    progress: Progress

    def agreement(self, trained: Sequence[TrialPlan]) -> dict[str, Any]:
        """How well merges rank these finished trials.

        Returns:
            ``correlation`` (Spearman, of merges' and trials' scores), ``low`` (lower end of its interval),
            ``mixtures`` (how many), ``warranted`` (whether ``low`` is at least `WARRANTED`) and ``skipped`` (none).
        """
        correlation, low = rank_correlation(self.merged(trained), self._trained(trained))
        return {
            "correlation": correlation,
            "low": low,
            "mixtures": len(trained),
            "warranted": low >= WARRANTED,
            "skipped": [],
        }

    def hopeless(self, trained: Sequence[TrialPlan], others: Sequence[TrialPlan]) -> list[str]:
        """Names of the other trials that even at their foretold best would stay below a trained balance."""
        balances = [plan for plan in trained if plan.candidate.kind == "balance"]
        if not balances or not others:
            return []
        best = self._trained(balances).max()
        foretold = foretold_best(self.merged(trained), self._trained(trained), self.merged(others))
        return [plan.name for plan, upper in zip(others, foretold, strict=True) if upper < best]

    def merged(self, plans: Sequence[TrialPlan]) -> NDArray[np.float64]:
        """Score on the search split of each plan's mixture, merged [m]."""
        # The search split only: the report split may not choose anything.
        self.planner.search.require("search")
        units = {plan.name: self._units(plan) for plan in plans}
        self._merge({plan.name: (plan, units[plan.name][0]) for plan in plans})
        self._score(units)
        return np.array([units[plan.name][1].manifest()["summary"][self._metric] for plan in plans])

    @property
    def _metric(self) -> str:
        return self.planner.config.search.metric

    def _trained(self, plans: Sequence[TrialPlan]) -> NDArray[np.float64]:
        return np.array([plan.score(self._metric) for plan in plans])

    def _units(self, plan: TrialPlan) -> tuple[Unit, Unit]:
        """(the merged adapter, its scores)."""
        planner = self.planner
        identity = fingerprint("merge", [job.unit.path for job in self.jobs], plan.candidate.weights.round(12).tolist())
        adapter = Unit(planner.storage, f"merges/{plan.name}-{identity}")
        scored = fingerprint("merge score", adapter.path, planner.search.path, *measured_by(planner.config))
        return adapter, Unit(planner.storage, f"screens/{plan.name}-{scored}")

    def _merge(self, merges: dict[str, tuple[TrialPlan, Unit]]) -> None:
        todo = {name: pair for name, pair in merges.items() if not pair[1].done()}
        with self.progress.stage("merges", len(merges), len(merges) - len(todo)) as stage:
            if not todo:
                return
            import ray

            self.session.connect()
            finetune = self.planner.config.finetune
            merge = ray.remote(merge_adapters).options(num_cpus=finetune.lanes.cpus)
            sources = [job.unit for job in self.jobs]
            references = {
                merge.remote(self.planner.model, sources, plan.candidate.weights, finetune.lora.r, adapter): name
                for name, (plan, adapter) in todo.items()
            }
            collect(references, lambda name, _: stage.finished(name), lambda: "adapters are merged", stage)

    def _score(self, units: dict[str, tuple[Unit, Unit]]) -> None:
        todo = {name: pair for name, pair in units.items() if not pair[1].done()}
        with self.progress.stage("screen", len(units), len(units) - len(todo)) as stage:
            if not todo:
                return

            def on_done(name: str, rows: list[ItemScore]) -> None:
                summary = summarise(rows)
                todo[name][1].finish({"summary": summary})
                stage.finished(f"{name}, merged: gold log-probability {summary['gold_logprob']:.3f}")

            self.session.connect()
            evaluate, seed = self.session.evaluator.evaluate, self.planner.config.seed
            references = {
                evaluate.remote(adapter, self.planner.search, seed, "search"): name
                for name, (adapter, _) in todo.items()
            }
            collect(references, on_done, lambda: "engines score the merges", stage)


def pilots(plans: Sequence[TrialPlan]) -> tuple[list[TrialPlan], list[TrialPlan]]:
    """(trials that are trained in any case, the others): all baselines, and every other balance of each method."""
    first: list[TrialPlan] = []
    others: list[TrialPlan] = []
    seen: dict[str, int] = {}
    for plan in plans:
        position = seen.get(plan.candidate.method, 0)
        seen[plan.candidate.method] = position + 1
        (first if plan.candidate.kind == "baseline" or position % 2 == 0 else others).append(plan)
    return first, others
