"""Scores of mixtures without training: the single-task adapters are merged, and the merge is asked the search split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.evaluation import ItemScore, summarise
from taskpgm_ray.evaluation.scores import reweighted
from taskpgm_ray.finetune.job import Job
from taskpgm_ray.runtime.cluster import thread_environment, threads_of
from taskpgm_ray.runtime.missing import missing
from taskpgm_ray.runtime.progress import Stage, collect
from taskpgm_ray.runtime.run import Run, news_of
from taskpgm_ray.search.merge import Merge, merge_adapters
from taskpgm_ray.search.ranks import rank_correlation
from taskpgm_ray.search.trials import Planner, TrialPlan, measured_by
from taskpgm_ray.storage import MANIFEST, Unit, fingerprint

TOGETHER = 8
"""Mixtures that one Ray task merges: what it reads and orthogonalises serves all of them, and it holds as many."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """One that is scored by merging."""

    name: str
    """Unique among those that are scored together."""
    weights: NDArray[np.float64]
    """[n] on the simplex."""


@dataclass(frozen=True)
class Agreement:
    """How alike merging and training rank mixtures."""

    correlation: float
    """Spearman's, of the scores of merges and of trials."""
    low: float
    """Lower end of its interval."""
    mixtures: int
    """Mixtures that both were scored for."""


@dataclass(frozen=True)
class _Scored:
    """One mixture: where its merge lies until it is scored, and where its scores do."""

    mixture: Mixture
    adapter: Unit
    unit: Unit


@dataclass(frozen=True)
class Merges:
    """Scores mixtures by merging; every score is a unit, and made once."""

    jobs: Sequence[Job]
    """The single-task fine-tunes."""
    planner: Planner
    run: Run

    def scores(self, mixtures: Sequence[Mixture]) -> NDArray[np.float64]:
        """Score on the search split of each mixture, merged [m]; what is not there yet is merged and scored.

        A merge is removed once it is scored: hundreds of them would be as large as all that a study trains, and
        another split's scores cost a merge of seconds.
        """
        # The search split only: the report split may not choose anything.
        self.planner.search_split.require("search")
        found = [self._scored(mixture) for mixture in mixtures]
        with missing(self.run, "merges", found) as (stage, todo):
            self._make(stage, todo)
        weights, metric = self.planner.config.evaluation.weights, self.planner.config.search.metric
        return np.array([reweighted(one.unit.manifest()["summary"], weights)[metric] for one in found])

    def agreement(self, trained: Sequence[TrialPlan]) -> Agreement:
        """How well merges rank these finished trials."""
        mixtures, scores = both(trained, self.planner.config.search.metric)
        return Agreement(*rank_correlation(self.scores(mixtures), scores), len(mixtures))

    def identity(self, mixtures: Sequence[Mixture]) -> list[str]:
        """What the scores of these mixtures depend on, and the weights of tasks and benchmarks do not change."""
        return [self._scored(mixture).unit.path for mixture in mixtures]

    def _scored(self, mixture: Mixture) -> _Scored:
        storage = self.planner.storage
        sources = [job.unit.path for job in self.jobs]
        # Earlier merges were PEFT's: equal to rounding, but with an alpha of their own that the engines refuse.
        identity = fingerprint("merge of factors", sources, mixture.weights.round(12).tolist())
        adapter = Unit(storage, f"merges/{mixture.name}-{identity}")
        measured = measured_by(self.planner.config)
        scores = fingerprint("merge score", adapter.path, self.planner.search_split.path, *measured)
        return _Scored(mixture, adapter, Unit(storage, f"screens/{mixture.name}-{scores}"))

    def _make(self, stage: Stage, todo: Sequence[_Scored]) -> None:
        """Merge and score a batch at a time; the next one is merged while engines score this one."""
        batches = [todo[start : start + TOGETHER] for start in range(0, len(todo), TOGETHER)]
        merging = self._merged(batches[0]) if batches else None
        for batch, following in zip_longest(batches, batches[1:]):
            collect(stage, {merging: batch}, lambda *_: None, lambda: "adapters are merged")
            merging = self._merged(following) if following else None
            self._score(stage, batch)

    def _merged(self, batch: Sequence[_Scored]) -> Any:
        """An object reference that is ready once these merges are there."""
        import ray

        finetune = self.planner.config.finetune
        # No share of the CPUs: who asked for a lane's would wait until engines that fill a small machine end, and those
        # would have to start anew for every batch. It works for seconds.
        options = {
            "num_cpus": 0,
            "runtime_env": {"env_vars": thread_environment(threads_of(finetune.lanes.cpus, finetune.lanes.threads))},
        }
        merges = [Merge(one.mixture.weights, one.adapter) for one in batch]
        sources = [job.unit for job in self.jobs]
        return ray.remote(merge_adapters).options(**options).remote(sources, merges, finetune.lora)

    def _score(self, stage: Stage, batch: Sequence[_Scored]) -> None:
        def on_done(one: _Scored, rows: list[ItemScore]) -> None:
            # First what says that it is finished: of one that is removed by half nobody shall think that it is there.
            one.adapter.storage.delete_file(f"{one.adapter.path}/{MANIFEST}")
            one.adapter.storage.delete(one.adapter.path)
            summary = summarise(rows)
            one.unit.finish({"summary": summary, "weights": one.mixture.weights.tolist()})
            stage.finished(f"{one.mixture.name}, merged: gold log-probability {summary['gold_logprob']:.3f}")

        split, seed = self.planner.search_split, self.planner.config.seed
        references = {self.run.evaluator.evaluate(one.adapter, split, seed, "search"): one for one in batch}
        collect(stage, references, on_done, lambda: "engines score the merges", note=news_of(self.run, "pool"))


def both(trained: Sequence[TrialPlan], metric: str) -> tuple[list[Mixture], list[float]]:
    """The mixtures of finished trials and their scores: of a trial whose seeds have mixtures of their own, each."""
    mixtures, scores = [], []
    for plan in trained:
        points = plan.points(metric)
        for run, (weights, of_seeds) in zip(plan.runs, points, strict=False):
            name = plan.name if len(points) == 1 else f"{plan.name}-seed{run.seed}"
            mixtures.append(Mixture(name, weights))
            scores.append(fmean(of_seeds))
    return mixtures, scores
