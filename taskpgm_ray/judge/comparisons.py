"""Systems compared item by item on the report split: differences with intervals, and scores by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from taskpgm_ray.evaluation import ItemScore, summarise
from taskpgm_ray.evaluation.scores import EVEN, METRICS, Weights, task_shares
from taskpgm_ray.evaluation.statistics import PairedDifference, holm, paired_difference, verdict
from taskpgm_ray.judge.rows import SeedScores, TaskScores

BASE = "base model"
"""The system that was not fine-tuned."""
ALL = "all"
"""The scope of a comparison over all benchmarks; the others are a benchmark each."""


@dataclass(frozen=True)
class Comparison:
    """One system against another on the report split, in one metric and one scope."""

    system: str
    baseline: str
    scope: str
    """``all`` benchmarks, or the name of one."""
    result: PairedDifference
    p_value: float
    """Adjusted for the number of baselines (Holm)."""
    verdict: str


def decisive(comparisons: Sequence[Comparison], metric: str) -> list[Comparison]:
    """Those by which a study decides: in the search's metric, over all benchmarks."""
    return [c for c in comparisons if c.result.metric == metric and c.scope == ALL]


def compare(
    system: str,
    rows: Mapping[str, Sequence[ItemScore]],
    baselines: Sequence[str],
    confidence: float,
    seed: int,
    weights: Weights = EVEN,
) -> list[Comparison]:
    """One system against each baseline: both metrics, over all benchmarks and (where there are several) in each.

    Of two systems with different numbers of seeds those are compared that both have: they are paired.
    """
    benchmarks = sorted({row.benchmark for row in rows[system]})
    found = []
    for scope in [ALL, *(benchmarks if len(benchmarks) > 1 else [])]:
        part = {name: [r for r in rows[name] if scope in (ALL, r.benchmark)] for name in (system, *baselines)}
        for metric in METRICS:
            results = [
                paired_difference(
                    *in_common(part[system], part[name]), confidence, seed, metric=metric, weights=weights
                )
                for name in baselines
            ]
            adjusted = _adjusted(results)
            found += [
                Comparison(system, name, scope, result, p, verdict(result, p))
                for name, result, p in zip(baselines, results, adjusted, strict=True)
            ]
    return found


def _adjusted(results: Sequence[PairedDifference]) -> list[float]:
    """p-values after Holm; one fine-tune gives no verdict, so that such a comparison is none of those made at once."""
    judged = iter(holm([result.p_value for result in results if result.seeds > 1]))
    return [next(judged) if result.seeds > 1 else result.p_value for result in results]


def in_common(a: Sequence[ItemScore], b: Sequence[ItemScore]) -> tuple[Sequence[ItemScore], Sequence[ItemScore]]:
    """The rows of two systems with the seeds that both have; all rows where they share none."""
    shared = {row.seed for row in a} & {row.seed for row in b}
    return ([r for r in a if r.seed in shared], [r for r in b if r.seed in shared]) if shared else (a, b)


def against_uniform(
    systems: Sequence[str],
    rows: Mapping[str, Sequence[ItemScore]],
    confidence: float,
    seed: int,
    weights: Weights = EVEN,
) -> list[Comparison]:
    """Each of these systems against uniform; nothing where uniform was not tried."""
    if "uniform" not in systems:
        return []
    singles = [compare(name, rows, ["uniform"], confidence, seed, weights) for name in systems if name != "uniform"]
    found = []
    # Each list has one comparison for every scope and metric, in the same order.
    for same in zip(*singles, strict=True):
        adjusted = _adjusted([one.result for one in same])
        found += [
            replace(one, p_value=p, verdict=verdict(one.result, p)) for one, p in zip(same, adjusted, strict=True)
        ]
    return found


def over_base(
    system: str,
    rows: Mapping[str, Sequence[ItemScore]],
    confidence: float,
    seed: int,
    weights: Weights = EVEN,
) -> list[Comparison]:
    """One system against the base model, which no seed changes: the same scores stand beside each fine-tune."""
    seeds = sorted({row.seed for row in rows[system]})
    same = [replace(row, seed=one) for one in seeds for row in rows[BASE]]
    return compare(system, {system: rows[system], BASE: same}, [BASE], confidence, seed, weights)


def by_seed(rows: Mapping[str, Sequence[ItemScore]], weights: Weights = EVEN) -> list[SeedScores]:
    """One row per system and seed: its means over all benchmarks."""
    found = []
    for name, scores in rows.items():
        for seed in sorted({row.seed for row in scores}):
            summary = summarise([row for row in scores if row.seed == seed], weights)
            found.append(SeedScores(name, seed, **{metric: summary[metric] for metric in METRICS}))
    return found


def by_task(rows: Mapping[str, Sequence[ItemScore]], weights: Weights = EVEN) -> list[TaskScores]:
    """One row per benchmark and task: number of items, and each system's mean over items and seeds."""
    summaries = {name: summarise(scores)["benchmarks"] for name, scores in rows.items()}
    first = next(iter(summaries.values()))
    shares = task_shares([(benchmark, task) for benchmark, part in first.items() for task in part["tasks"]], weights)
    return [
        TaskScores(
            benchmark,
            task,
            facts["items"],
            {
                name: {metric: summary[benchmark]["tasks"][task][metric] for metric in METRICS}
                for name, summary in summaries.items()
            },
            shares[benchmark, task],
            task_shares([(benchmark, one) for one in part["tasks"]], weights)[benchmark, task],
        )
        for benchmark, part in first.items()
        for task, facts in part["tasks"].items()
    ]
