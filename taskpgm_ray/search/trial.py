"""A trial: fine-tune one adapter on a candidate mixture, score it on the search split."""

from __future__ import annotations

import time
from typing import Any

from ray import tune

from taskpgm_ray.search.plan import TrialPlan, finish_trial


class MixtureTrial(tune.Trainable):
    """A thin trial: the training happens on the lanes, the scoring on the engines; this process only waits."""

    def setup(  # type: ignore[override]  # tune.with_parameters adds the arguments after the first
        self, config: dict[str, Any], plans: dict[str, TrialPlan], fleet: Any, evaluator: Any
    ) -> None:
        """Tune's constructor."""
        self.plans, self.fleet, self.evaluator = plans, fleet, evaluator
        self.plan = plans[config["trial"]]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial in the same process."""
        self.plan = self.plans[new_config["trial"]]
        return True

    def step(self) -> dict[str, Any]:
        """The whole trial; its unit is finished before the metrics are reported."""
        import ray

        started = time.perf_counter()
        trained = ray.get(self.fleet.submit(self.plan.job))
        rows = ray.get(self.evaluator.evaluate.remote(self.plan.job.unit, self.plan.split, self.plan.seed))
        finish_trial(self.plan, rows, trained, time.perf_counter() - started)
        summary = self.plan.unit.manifest()["summary"]
        return {name: summary[name] for name in ("accuracy", "gold_logprob", "items")} | {
            "name": self.plan.name,
            "trained_tokens": trained["tokens"],
            "done": True,
        }
