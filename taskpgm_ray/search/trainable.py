"""A trial: fine-tune adapters on a candidate mixture, score them on the search split."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import fmean
from typing import Any

from ray import tune

from taskpgm_ray.evaluation.scores import METRICS
from taskpgm_ray.search.trials import TrialPlan, TrialRun, finish_run


class MixtureTrial(tune.Trainable):
    """A thin trial: the training happens on the lanes, the scoring on the engines; this process only waits."""

    def setup(  # type: ignore[override]  # tune.with_parameters adds the arguments after the first
        self, config: dict[str, Any], plan_of: Callable[[dict[str, Any]], TrialPlan], fleet: Any, evaluator: Any
    ) -> None:
        """Tune's constructor; ``plan_of`` turns the parameters that Tune chose into a plan."""
        self.plan_of, self.fleet, self.evaluator = plan_of, fleet, evaluator
        self.plan, self.rung = plan_of(config), 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial in the same process."""
        self.plan, self.rung = self.plan_of(new_config), 0
        return True

    def step(self) -> dict[str, Any]:
        """One rung: all seeds at its budget. Their units are finished before the metrics are reported."""
        runs, budget = self.plan.rungs[self.rung], self.plan.budgets[self.rung]
        self.rung += 1
        run_all(self.plan, runs, self.fleet, self.evaluator)
        summaries = [self.plan.summary(run) for run in runs]
        return {name: fmean(summary[name] for summary in summaries) for name in METRICS} | {
            "name": self.plan.name,
            "budget": budget,
            "items": summaries[0]["items"],
            "trained_tokens": sum(run.unit.manifest()["trained_tokens"] for run in runs),
            "rungs_left": len(self.plan.rungs) - self.rung,
            "done": self.rung == len(self.plan.rungs),
        }


def run_all(plan: TrialPlan, runs: tuple[TrialRun, ...], fleet: Any, evaluator: Any) -> None:
    """Train and score the runs that are not finished, each as soon as its adapter is there."""
    import ray

    started = time.perf_counter()
    training = {
        ray.put(run.job.unit.manifest()) if run.job.unit.done() else fleet.submit(run.job): run
        for run in runs
        if not run.unit.done()
    }
    while training:
        (reference,), _ = ray.wait(list(training), num_returns=1)
        run = training.pop(reference)
        trained = ray.get(reference)
        rows = ray.get(evaluator.evaluate(run.job.unit, plan.split, run.seed, "search"))
        finish_run(plan, run, rows, trained, time.perf_counter() - started)
