"""What the report split says beside the comparisons, a row each: scores by task, by seed and by budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from taskpgm_ray.errors import InputError


@dataclass(frozen=True)
class TaskScores:
    """One task of a benchmark, with the mean of every system over its items and seeds."""

    benchmark: str
    task: str
    items: int
    scores: Mapping[str, Mapping[str, float]]
    """System -> metric -> mean; the chosen mixture is the first system, the base model the last."""
    share: float
    """Of the task in the mean over all benchmarks, 0 to 1."""
    within: float
    """Of the task in the mean of its benchmark, 0 to 1."""


@dataclass(frozen=True)
class SeedScores:
    """One fine-tune of one system: its means over all benchmarks."""

    system: str
    seed: int
    gold_logprob: float
    """Nats."""
    accuracy: float
    """A share, 0 to 1."""

    def value(self, metric: str) -> float:
        """The mean in one metric.

        Raises:
            InputError: It is none of those that are kept by seed.
        """
        means = {"gold_logprob": self.gold_logprob, "accuracy": self.accuracy}
        if metric not in means:
            raise InputError(f"no metric {metric!r} by seed; there are: {', '.join(means)}")
        return means[metric]


@dataclass(frozen=True)
class BudgetScores:
    """A mixture of fewer tasks, or on a part of the training budget: its means over all benchmarks."""

    name: str
    tasks: int
    """Tasks with a positive weight."""
    share: float
    """Of the full training budget, 0 to 1."""
    gold_logprob: float
    """Nats."""
    accuracy: float
    """A share, 0 to 1."""
    difference: float | None = None
    """In gold log-probability to uniform mixing of all tasks at the full budget; ``None`` where that was not tried."""
    low: float | None = None
    """Lower end of the difference's interval."""
    high: float | None = None
    """Upper end of the difference's interval."""
