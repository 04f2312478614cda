"""What a trial is before and after it runs: its plan, its unit, and the item scores in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from taskpgm_ray.evaluation import ItemScore, Split, summarise
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
