"""A trial: fine-tune one adapter on a candidate mixture, score it on the search split."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ray import tune

from taskpgm_ray.evaluation.run import ItemScore, summarise
from taskpgm_ray.evaluation.splits import Split
from taskpgm_ray.finetune.job import Job
from taskpgm_ray.search.candidates import Candidate
from taskpgm_ray.storage import Unit

SCORES = "items.json"


@dataclass(frozen=True)
class TrialPlan:
    """Everything about one trial that is known before it runs."""

    candidate: Candidate
    seed: int
    job: Job
    split: Split
    unit: Unit

    @property
    def name(self) -> str:
        """Unique among the trials of a search."""
        return f"{self.candidate.name}-seed{self.seed}"


class MixtureTrial(tune.Trainable):
    """A thin trial: the training happens on the lanes, the scoring on the engines; this process only waits."""

    def setup(self, config: dict[str, Any], plans: dict[str, TrialPlan], fleet: Any, evaluator: Any) -> None:
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
        rows = ray.get(self.evaluator.evaluate.remote(self.plan.job.unit, self.plan.split))
        finish_trial(self.plan, rows, trained, time.perf_counter() - started)
        return {**self.plan.unit.manifest()["summary"], "done": True}


def finish_trial(plan: TrialPlan, rows: Sequence[ItemScore], trained: dict[str, Any], seconds: float) -> None:
    """Store a trial's item scores and its summary."""
    write_items(plan.unit, rows)
    plan.unit.finish(
        {
            "name": plan.name,
            "kind": plan.candidate.kind,
            "tau": plan.candidate.tau,
            "seed": plan.seed,
            "weights": plan.candidate.weights.tolist(),
            "summary": summarise(rows),
            "trained_tokens": trained["tokens"],
            "seconds": round(seconds, 3),
        }
    )


def write_items(unit: Unit, rows: Sequence[ItemScore]) -> None:
    """Store item scores in a unit."""
    unit.files.write_json(SCORES, [asdict(row) for row in rows])


def read_items(unit: Unit) -> list[ItemScore]:
    """The item scores of a finished trial or report evaluation."""
    return [ItemScore(**row) for row in unit.files.read_json(SCORES)]
