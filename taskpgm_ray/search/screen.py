"""Merging the single-task adapters instead of training: how well it ranks mixtures, and which ones that rules out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.evaluation import ItemScore, summarise
from taskpgm_ray.evaluation.scores import reweighted
from taskpgm_ray.finetune.job import Job
from taskpgm_ray.runtime.missing import missing
from taskpgm_ray.runtime.progress import collect
from taskpgm_ray.runtime.run import Run, news_of
from taskpgm_ray.search.merge import merge_adapters, predicted_best
from taskpgm_ray.search.ranks import rank_correlation
from taskpgm_ray.search.trials import Planner, TrialPlan, measured_by
from taskpgm_ray.storage import Unit, fingerprint

WARRANTED = 0.6
"""Lower end of the rank correlation from which a merge may stand in for training."""


@dataclass(frozen=True)
class ScreenFinding:
    """How well merges rank the trials, and what follows from it."""

    correlation: float
    """Spearman's, of the scores of merges and of trials."""
    low: float
    """Lower end of its interval."""
    mixtures: int
    """Mixtures that both were scored for."""
    warranted: bool
    """Whether ``low`` is at least `WARRANTED`."""
    skipped: tuple[str, ...] = ()
    """Trials that were not trained, because even at their best they would have stayed behind."""


@dataclass(frozen=True)
class _Merge:
    """A mixture by merging: where the adapter lies, or where its scores do."""

    plan: TrialPlan
    adapter: Unit
    unit: Unit


@dataclass(frozen=True)
class Screen:
    """Scores mixtures by merging instead of training; each merge and each score is a unit, and made once."""

    jobs: Sequence[Job]
    """The single-task fine-tunes."""
    planner: Planner
    run: Run

    def agreement(self, trained: Sequence[TrialPlan]) -> ScreenFinding:
        """How well merges rank these finished trials."""
        correlation, low = rank_correlation(self.merged(trained), self._trained(trained))
        return ScreenFinding(correlation, low, len(trained), low >= WARRANTED)

    def hopeless(self, trained: Sequence[TrialPlan], others: Sequence[TrialPlan]) -> tuple[str, ...]:
        """Names of the other trials that even at their predicted best would stay below a trained balance."""
        balances = [plan for plan in trained if plan.candidate.kind == "balance"]
        if not balances or not others:
            return ()
        best = self._trained(balances).max()
        predicted = predicted_best(self.merged(trained), self._trained(trained), self.merged(others))
        return tuple(plan.name for plan, upper in zip(others, predicted, strict=True) if upper < best)

    def merged(self, plans: Sequence[TrialPlan]) -> NDArray[np.float64]:
        """Score on the search split of each plan's mixture, merged [m]."""
        # The search split only: the report split may not choose anything.
        self.planner.search_split.require("search")
        adapters = {plan.name: self._adapter(plan) for plan in plans}
        self._merge([_Merge(plan, adapters[plan.name], adapters[plan.name]) for plan in plans])
        scores = [_Merge(plan, adapters[plan.name], self._scores(plan, adapters[plan.name])) for plan in plans]
        self._score(scores)
        weights = self.planner.config.evaluation.weights
        return np.array([reweighted(one.unit.manifest()["summary"], weights)[self._metric] for one in scores])

    @property
    def _metric(self) -> str:
        return self.planner.config.search.metric

    def _trained(self, plans: Sequence[TrialPlan]) -> NDArray[np.float64]:
        return np.array([plan.score(self._metric) for plan in plans])

    def _adapter(self, plan: TrialPlan) -> Unit:
        sources = [job.unit.path for job in self.jobs]
        identity = fingerprint("merge", sources, plan.candidate.weights.round(12).tolist())
        return Unit(self.planner.storage, f"merges/{plan.name}-{identity}")

    def _scores(self, plan: TrialPlan, adapter: Unit) -> Unit:
        measured = measured_by(self.planner.config)
        identity = fingerprint("merge score", adapter.path, self.planner.search_split.path, *measured)
        return Unit(self.planner.storage, f"screens/{plan.name}-{identity}")

    def _merge(self, merges: Sequence[_Merge]) -> None:
        with missing(self.run, "merges", merges) as (stage, todo):
            if not todo:
                return
            import ray

            finetune = self.planner.config.finetune
            merge = ray.remote(merge_adapters).options(num_cpus=finetune.lanes.cpus)
            sources = [job.unit for job in self.jobs]
            references = {
                merge.remote(self.planner.model, sources, one.plan.candidate.weights, finetune.lora.r, one.unit): one
                for one in todo
            }
            collect(stage, references, lambda one, _: stage.finished(one.plan.name), lambda: "adapters are merged")

    def _score(self, scores: Sequence[_Merge]) -> None:
        with missing(self.run, "screen", scores) as (stage, todo):

            def on_done(one: _Merge, rows: list[ItemScore]) -> None:
                summary = summarise(rows)
                one.unit.finish({"summary": summary})
                stage.finished(f"{one.plan.name}, merged: gold log-probability {summary['gold_logprob']:.3f}")

            split, seed = self.planner.search_split, self.planner.config.seed
            references = {self.run.evaluator.evaluate(one.adapter, split, seed, "search"): one for one in todo}
            collect(stage, references, on_done, lambda: "engines score the merges", note=news_of(self.run, "pool"))


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
