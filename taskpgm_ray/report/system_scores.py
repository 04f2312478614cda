"""Scores of every mixture and of the base model on the report split, by benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from taskpgm_ray.report.data import ReportData
from taskpgm_ray.report.text import interval, score

METRICS = ("gold_logprob", "accuracy")
Means = Mapping[str, float]
"""Metric -> mean."""


@dataclass(frozen=True)
class SystemScores:
    """One mixture, or the base model."""

    system: str
    benchmarks: Sequence[Means]
    """In the order of `benchmarks`."""
    all: Means


def benchmarks(data: ReportData) -> list[str]:
    """Those of the report split."""
    return list(dict.fromkeys(row.benchmark for row in data.by_task))


def system_scores(data: ReportData) -> list[SystemScores]:
    """A row per system, the chosen mixture first and the base model last; none without a report split."""
    if not data.by_task:
        return []
    found = []
    for system in data.by_task[0].scores:
        parts = [
            _mean([(row.within, row.scores[system]) for row in data.by_task if row.benchmark == benchmark])
            for benchmark in benchmarks(data)
        ]
        found.append(SystemScores(system, parts, _mean([(row.share, row.scores[system]) for row in data.by_task])))
    return found


def over_base(data: ReportData) -> str:
    """What fine-tuning on the mixture gains over the base model, in a sentence; nothing where it is not known."""
    found = next((c for c in data.over_base if c.scope == "all" and c.result.metric == data.metric), None)
    if found is None:
        return ""
    r = found.result
    unit = "" if r.metric == "accuracy" else " nats"
    ends = interval(r.metric, r.low, r.high)
    return (
        f"The base model without fine-tuning is {score(r.metric, abs(r.difference))}{unit} "
        f"{'worse' if r.difference > 0 else 'better'} than this mixture"
        + (f" (difference {score(r.metric, r.difference, signed=True)}, interval {ends})." if r.seeds > 1 else ".")
    )


def _mean(parts: Sequence[tuple[float, Means]]) -> Means:
    return {metric: sum(share * means[metric] for share, means in parts) for metric in METRICS}
