"""Scores of single items, and their average: over items, then tasks, then benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from taskpgm_ray.errors import EvaluationError

METRICS = ("gold_logprob", "accuracy")


@dataclass(frozen=True)
class ItemScore:
    """How one system did on one item."""

    benchmark: str
    """``mmlu`` or ``bbh``."""
    task: str
    """MMLU subject or BBH task."""
    item: str
    """The item's id: its content hash."""
    accuracy: float
    """0 or 1. MMLU, and BBH where the answers are a closed set: the right one is the most likely. Other BBH: greedy
    decoding gives the target and then ends, by a line break or an end token."""
    gold_logprob: float
    """Nats, a proper score, higher is better. MMLU and closed BBH: log of the right answer's probability renormalised
    over all k answers (chance: -ln k). Other BBH: log-probability of the target's tokens, summed and divided by their
    number."""
    seed: int = 0
    """Seed of the fine-tune that made the system, to tell its repetitions apart."""


def summarise(rows: Iterable[ItemScore]) -> dict[str, Any]:
    """Macro averages: each task counts equally in its benchmark, each benchmark equally in the total.

    Returns:
        ``{"accuracy", "gold_logprob", "items", "benchmarks": {name: {"accuracy", "gold_logprob", "items",
        "tasks": {name: {"accuracy", "gold_logprob", "items"}}}}}``. Several seeds of an item are averaged and the item
        is counted once.

    Raises:
        EvaluationError: There are no rows.
    """
    grouped: dict[str, dict[str, list[ItemScore]]] = {}
    for row in rows:
        grouped.setdefault(row.benchmark, {}).setdefault(row.task, []).append(row)
    if not grouped:
        raise EvaluationError("no item scores to summarise: nothing was evaluated")
    benchmarks = {}
    for benchmark, by_task in sorted(grouped.items()):
        tasks = {task: _of_task(scores) for task, scores in sorted(by_task.items())}
        benchmarks[benchmark] = {**_mean(list(tasks.values())), "tasks": tasks}
    return {**_mean(list(benchmarks.values())), "benchmarks": benchmarks}


def _of_task(scores: Sequence[ItemScore]) -> dict[str, Any]:
    means: dict[str, Any] = {metric: fmean(getattr(row, metric) for row in scores) for metric in METRICS}
    return {**means, "items": len({row.item for row in scores})}


def _mean(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    means: dict[str, Any] = {metric: fmean(part[metric] for part in parts) for metric in METRICS}
    return {**means, "items": sum(part["items"] for part in parts)}
