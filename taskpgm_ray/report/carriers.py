"""Which tasks of the benchmarks carry a difference: a mean over many may rest on one."""

from __future__ import annotations

from dataclasses import dataclass

from taskpgm_ray.report.data import ReportData
from taskpgm_ray.report.text import score

SHOWN = 3


@dataclass(frozen=True)
class Carrier:
    """What one task adds to the difference of two systems."""

    name: str
    """Benchmark and task."""
    part: float
    """Of the difference, in the metric's unit; those of all tasks add up to it."""


def carriers(data: ReportData, baseline: str = "uniform") -> list[Carrier]:
    """Every task's part in the difference of the chosen mixture to a baseline, largest first; none where unknown."""
    if not data.by_task or baseline not in data.by_task[0].scores:
        return []
    chosen = next(iter(data.by_task[0].scores))
    found = [
        Carrier(
            f"{row.benchmark}/{row.task}",
            row.share * (row.scores[chosen][data.metric] - row.scores[baseline][data.metric]),
        )
        for row in data.by_task
    ]
    return sorted(found, key=lambda one: -abs(one.part))


def weighing(data: ReportData) -> str:
    """By what weights the scores were averaged, in words; nothing where everything counts the same."""
    if not data.score_weights:
        return ""
    listed = ", ".join(f"{name} {weight:g}" for name, weight in data.score_weights.items())
    return f"Scores are weighted (evaluation.weights; 1 where nothing is named): {listed}."


def sentence(data: ReportData, baseline: str = "uniform") -> str:
    """The tasks that carry the difference, in words; nothing where there is none or it is unknown."""
    found = carriers(data, baseline)
    total = sum(one.part for one in found)
    if len(found) < 2 or not total:
        return ""
    largest = ", ".join(f"{one.name} {score(data.metric, one.part, signed=True)}" for one in found[:SHOWN])
    along = sorted((one.part / total for one in found), reverse=True)
    reached, half = 0.0, 0
    while reached < 0.5:
        reached, half = reached + along[half], half + 1
    return (
        f"The difference to {baseline} ({score(data.metric, total, signed=True)}) is a sum over {len(found)} tasks; "
        f"the largest parts are {largest}, and {half} of the tasks {'makes' if half == 1 else 'make'} half of it."
    )
