"""The report split: every method's best mixture on items that the search never saw, compared item by item."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.evaluation import (
    ItemScore,
    PairedDifference,
    Split,
    holm,
    paired_difference,
    summarise,
    verdict,
)
from taskpgm_ray.finetune.job import Job
from taskpgm_ray.finetune.stage import describe
from taskpgm_ray.mrf import select, solve
from taskpgm_ray.progress import Progress, collect
from taskpgm_ray.search.candidates import Candidate
from taskpgm_ray.search.families import Family
from taskpgm_ray.search.plan import Planner, measured_by, read_items, write_items
from taskpgm_ray.storage import Unit, fingerprint

if TYPE_CHECKING:
    from taskpgm_ray.session import Session

METRICS = ("gold_logprob", "accuracy")
BASE = "base model"
"""The system that was not fine-tuned, which is shown beside the others and compared with none."""
ALL = "all"
"""The scope of a comparison over all benchmarks; the others are a benchmark each."""


@dataclass(frozen=True)
class Finalist:
    """A mixture that the report split judges, on a part of the full budget."""

    name: str
    candidate: Candidate
    share: float = 1.0


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


@dataclass(frozen=True)
class Judgement:
    """What the report split says."""

    chosen: str
    """The winner's name."""
    comparisons: list[Comparison]
    """The winner against every baseline."""
    against_uniform: list[Comparison]
    """Every method but uniform against uniform; p-values adjusted for the number of methods."""
    tasks: list[dict[str, Any]]
    """Scores of every system and of the base model on every task, see `by_task`."""
    budgets: list[dict[str, Any]]
    """The questions about budgets: name, number of tasks, share of the budget, means, difference to uniform."""


def judge_all(
    chosen: Candidate,
    family: Family,
    methods: Mapping[str, Candidate],
    planner: Planner,
    report: Split,
    session: Session,
    progress: Progress,
) -> Judgement:
    """The winner and every other method's best on the report split, and what was asked about budgets.

    Args:
        chosen: The winner of the search.
        family: The family it comes from.
        methods: Method -> its best candidate on the search split; the winner's own method is passed over.
        planner: Makes the fine-tunes.
        report: The report split.
        session: Lanes and engines.
        progress: Shows what is going on.
    """
    others = [one for method, one in methods.items() if method != chosen.method]
    finalists = [Finalist(one.name, one) for one in (chosen, *others)]
    extra = budget_finalists(chosen, family, planner)
    rows = judge([*finalists, *extra], planner, report, session, progress)
    config = planner.config
    names = [one.name for one in others if one.kind == "baseline"]
    return Judgement(
        chosen.name,
        compare(chosen.name, rows, names, config.evaluation.confidence, config.seed) if names else [],
        against_uniform([one.name for one in finalists], rows, config.evaluation.confidence, config.seed),
        by_task({name: rows[name] for name in (*(one.name for one in finalists), BASE)}),
        [_budget_row(one, rows, config.evaluation.confidence, config.seed) for one in extra],
    )


def _budget_row(one: Finalist, rows: Mapping[str, Sequence[ItemScore]], confidence: float, seed: int) -> dict[str, Any]:
    summary = summarise(rows[one.name])
    row = {
        "name": one.name,
        "tasks": int((one.candidate.weights > 0).sum()),
        "share": one.share,
        **{metric: summary[metric] for metric in METRICS},
    }
    if "uniform" in rows:
        result = paired_difference(rows[one.name], rows["uniform"], confidence, seed)
        row |= {"difference": result.difference, "low": result.low, "high": result.high}
    return row


def judge(
    finalists: Sequence[Finalist], planner: Planner, report: Split, session: Session, progress: Progress
) -> dict[str, list[ItemScore]]:
    """Fine-tune what is missing and score it on the report split; rows of all seeds by the finalist's name.

    The base model's rows, under `BASE`, are there as well.
    """
    runs = _runs(finalists, planner, report)
    _train([run.job for run in runs if run.job is not None], session, progress)
    _score(runs, report, session, progress)
    rows: dict[str, list[ItemScore]] = {}
    for run in runs:
        rows.setdefault(run.system, []).extend(read_items(run.unit))
    return rows


def compare(
    system: str,
    rows: Mapping[str, Sequence[ItemScore]],
    baselines: Sequence[str],
    confidence: float,
    seed: int,
) -> list[Comparison]:
    """One system against each baseline: both metrics, over all benchmarks and (where there are several) in each."""
    benchmarks = sorted({row.benchmark for row in rows[system]})
    found = []
    for scope in [ALL, *(benchmarks if len(benchmarks) > 1 else [])]:
        part = {name: [r for r in rows[name] if scope in (ALL, r.benchmark)] for name in (system, *baselines)}
        for metric in METRICS:
            results = [
                paired_difference(part[system], part[name], confidence, seed, metric=metric) for name in baselines
            ]
            adjusted = holm([result.p_value for result in results])
            found += [
                Comparison(system, name, scope, result, p, verdict(result, p))
                for name, result, p in zip(baselines, results, adjusted, strict=True)
            ]
    return found


def against_uniform(
    systems: Sequence[str], rows: Mapping[str, Sequence[ItemScore]], confidence: float, seed: int
) -> list[Comparison]:
    """Each of these systems against uniform; nothing where uniform was not tried."""
    if "uniform" not in systems:
        return []
    singles = [compare(name, rows, ["uniform"], confidence, seed) for name in systems if name != "uniform"]
    found = []
    # Each list has one comparison for every scope and metric, in the same order.
    for same in zip(*singles, strict=True):
        adjusted = holm([one.result.p_value for one in same])
        found += [
            replace(one, p_value=p, verdict=verdict(one.result, p)) for one, p in zip(same, adjusted, strict=True)
        ]
    return found


def by_task(rows: Mapping[str, Sequence[ItemScore]]) -> list[dict[str, Any]]:
    """One row per benchmark and task: number of items, and each system's mean over items and seeds."""
    summaries = {name: summarise(scores)["benchmarks"] for name, scores in rows.items()}
    first = next(iter(summaries.values()))
    return [
        {
            "benchmark": benchmark,
            "task": task,
            "items": facts["items"],
            "scores": {
                name: {metric: summary[benchmark]["tasks"][task][metric] for metric in METRICS}
                for name, summary in summaries.items()
            },
        }
        for benchmark, part in first.items()
        for task, facts in part["tasks"].items()
    ]


def budget_finalists(chosen: Candidate, family: Family, planner: Planner) -> list[Finalist]:
    """What the questions about budgets need: mixtures of k tasks, and parts of the training budget.

    For each number of tasks: the greedy selection at the winner's balance, the winner's k heaviest tasks and k random
    ones, each with the mixture that is best on those tasks.
    """
    config, n = planner.config.search, len(chosen.weights)
    tau = 0.0 if chosen.tau is None else chosen.tau
    found = []
    for k in sorted(k for k in config.task_counts if k < n):
        greedy = select(family.S, k, tau, utility=family.utility)
        heaviest = np.argsort(-chosen.weights, kind="stable")[:k]
        drawn = np.random.default_rng(planner.config.seed).choice(n, size=k, replace=False)
        for name, weights in (
            ("greedy", np.asarray(greedy.weights)),
            ("heaviest", _best_on(heaviest, family, tau)),
            ("random", _best_on(drawn, family, tau)),
        ):
            label = f"{name}-{k}-tasks"
            found.append(Finalist(label, Candidate(label, "baseline", None, weights, label)))
    uniform = Candidate("uniform", "baseline", None, np.full(n, 1 / n), "uniform")
    for share in sorted(config.budget_fractions):
        found += [Finalist(f"{one.name}@{share:.0%}", one, share) for one in (chosen, uniform)]
    return found


def _best_on(tasks: NDArray[np.intp], family: Family, tau: float) -> NDArray[np.float64]:
    """The mixture [n] that minimises the whole pool's energy among those of these tasks."""
    S = family.S
    b = S.mean(axis=1) if family.utility is None else family.utility / len(S)
    weights = np.zeros(len(S))
    weights[tasks] = solve(S[np.ix_(tasks, tasks)], tau, utility=b[tasks] * len(tasks)).weights
    return weights


@dataclass(frozen=True)
class _Reported:
    """One fine-tune (or the base model) on the report split."""

    system: str
    job: Job | None
    unit: Unit
    seed: int

    @property
    def name(self) -> str:
        return self.job.name if self.job else self.system


def _runs(finalists: Sequence[Finalist], planner: Planner, report: Split) -> list[_Reported]:
    """Every finalist with every seed, and the base model once."""
    config = planner.config
    count = max(config.evaluation.report_seeds, config.search.seeds)
    runs = []
    for finalist in finalists:
        for seed in range(config.seed, config.seed + count):
            job = planner.job(finalist.candidate, seed, finalist.share)
            identity = fingerprint("reported", job.unit.path, report.path, *measured_by(config))
            runs.append(_Reported(finalist.name, job, Unit(planner.storage, f"reported/{job.name}-{identity}"), seed))
    identity = fingerprint("reported base", planner.model.fingerprint, report.path, *measured_by(config))
    return [*runs, _Reported(BASE, None, Unit(planner.storage, f"reported/base-{identity}"), config.seed)]


def _train(jobs: Sequence[Job], session: Session, progress: Progress) -> None:
    todo = [job for job in jobs if not job.unit.done()]
    if not todo:
        return
    with progress.stage("finalists", len(jobs), len(jobs) - len(todo)) as stage:
        session.connect()

        def on_done(name: str, manifest: dict[str, Any]) -> None:
            stage.finished(f"{name}: {manifest['tokens']} tokens in {manifest['seconds']:.0f} s", manifest["tokens"])

        references = {session.fleet.submit(job): job.name for job in todo}
        collect(references, on_done, lambda: describe(session.fleet.status()), stage)


def _score(runs: Sequence[_Reported], report: Split, session: Session, progress: Progress) -> None:
    # Two finalists may be one fine-tune.
    todo = {run.unit.path: run for run in runs if not run.unit.done()}
    with progress.stage("report split", len(runs), len(runs) - len(todo)) as stage:
        if not todo:
            return
        started = time.perf_counter()

        def on_done(path: str, rows: list[ItemScore]) -> None:
            run = todo[path]
            write_items(run.unit, rows)
            facts = summarise(rows)
            run.unit.finish({"summary": facts, "seconds": round(time.perf_counter() - started, 3)})
            stage.finished(
                f"{run.name}: {facts['items']} items, accuracy {facts['accuracy']:.3f}, "
                f"gold log-probability {facts['gold_logprob']:.3f}"
            )

        session.connect()
        references = {
            session.evaluator.evaluate.remote(run.job and run.job.unit, report, run.seed, "report"): path
            for path, run in todo.items()
        }
        collect(references, on_done, lambda: "engines score the report split", stage)
