"""Scores of single items, and their average: over items, then tasks, then benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from statistics import fmean
from typing import Any

from taskpgm_ray.errors import EvaluationError

METRICS = ("gold_logprob", "accuracy")
Weights = Mapping[str, float]
"""Weight of a ``benchmark`` among benchmarks, or of a ``benchmark/task`` among the tasks of its benchmark; those that
are not named have 1."""
EVEN: Weights = {}


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


def summarise(rows: Iterable[ItemScore], weights: Weights = EVEN) -> dict[str, Any]:
    """Macro averages: each task counts equally in its benchmark, each benchmark equally in the total, or by weight.

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
    tasks = {
        benchmark: {task: _of_task(scores) for task, scores in sorted(by_task.items())}
        for benchmark, by_task in sorted(grouped.items())
    }
    return _averaged(tasks, weights)


def reweighted(summary: Mapping[str, Any], weights: Weights) -> dict[str, Any]:
    """A summary with other weights, from its means by task: what is stored is even, and no score is asked anew."""
    return _averaged({name: part["tasks"] for name, part in summary["benchmarks"].items()}, weights)


def task_shares(tasks: Iterable[tuple[str, str]], weights: Weights = EVEN) -> dict[tuple[str, str], float]:
    """Share of each (benchmark, task) in the total; they sum to 1.

    Of a single benchmark its own weight does not count: what is asked of it alone has an answer at any weight.

    Raises:
        EvaluationError: There is no task, or the weights of all of them are 0.
    """
    by_benchmark: dict[str, dict[str, float]] = {}
    for benchmark, task in tasks:
        by_benchmark.setdefault(benchmark, {})[task] = weights.get(f"{benchmark}/{task}", 1.0)
    if not by_benchmark:
        raise EvaluationError("no item scores to compare: nothing was evaluated")
    whole = {name: weights.get(name, 1.0) if len(by_benchmark) > 1 else 1.0 for name in by_benchmark}
    for name, inside in (("the benchmarks", whole), *by_benchmark.items()):
        if not sum(inside.values()) > 0:
            raise EvaluationError(
                f"evaluation.weights leaves nothing of {name}: {', '.join(inside)} have weight 0; give one of them a "
                "weight, or leave the benchmark out"
            )
    return {
        (benchmark, task): whole[benchmark] / sum(whole.values()) * weight / sum(inside.values())
        for benchmark, inside in by_benchmark.items()
        for task, weight in inside.items()
    }


def check_weights(weights: Weights, tasks: Iterable[tuple[str, str]]) -> None:
    """Every weight belongs to a benchmark or a task that is evaluated.

    Raises:
        EvaluationError: One does not, or the weights of all are 0.
    """
    known = [(benchmark, task) for benchmark, task in tasks]
    names = sorted({benchmark for benchmark, _ in known} | {f"{benchmark}/{task}" for benchmark, task in known})
    for name in weights:
        if name not in names:
            near = get_close_matches(name, names, n=3) or [one for one in names if "/" not in one]
            raise EvaluationError(
                f"evaluation.weights names {name!r}, which is not evaluated; did you mean {' or '.join(near)}?"
            )
    task_shares(known, weights)


def _averaged(tasks: Mapping[str, Mapping[str, Any]], weights: Weights) -> dict[str, Any]:
    """The summary of these means by benchmark and task."""
    benchmarks = {}
    for benchmark, inside in tasks.items():
        shares = task_shares([(benchmark, task) for task in inside], weights)
        benchmarks[benchmark] = {
            **_mean(list(inside.values()), [shares[benchmark, task] for task in inside]),
            "tasks": dict(inside),
        }
    total = task_shares([(benchmark, task) for benchmark, inside in tasks.items() for task in inside], weights)
    parts = [(part, total[benchmark, task]) for benchmark, inside in tasks.items() for task, part in inside.items()]
    return {**_mean([part for part, _ in parts], [share for _, share in parts]), "benchmarks": benchmarks}


def _of_task(scores: Sequence[ItemScore]) -> dict[str, Any]:
    means: dict[str, Any] = {metric: fmean(getattr(row, metric) for row in scores) for metric in METRICS}
    return {**means, "items": len({row.item for row in scores})}


def _mean(parts: Sequence[Mapping[str, Any]], shares: Sequence[float]) -> dict[str, Any]:
    means: dict[str, Any] = {metric: fmean([part[metric] for part in parts], shares) for metric in METRICS}
    return {**means, "items": sum(part["items"] for part in parts)}
