"""The search stage and the report split: plan the trials, run what is missing, compare the winner with baselines."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.evaluation import (
    EvaluationSets,
    PairedDifference,
    Split,
    holm,
    paired_difference,
    summarise,
    verdict,
)
from taskpgm_ray.finetune.job import Recipe, make_job
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.progress import Progress, collect
from taskpgm_ray.search.candidates import Candidate
from taskpgm_ray.search.plan import TrialPlan, read_items, write_items
from taskpgm_ray.storage import Storage, Unit, fingerprint
from taskpgm_ray.tasks.prepare import Task

if TYPE_CHECKING:
    from taskpgm_ray.session import Session

METRICS = ("gold_logprob", "accuracy")


@dataclass(frozen=True)
class Comparison:
    """The winner against one baseline on the report split, in one metric."""

    baseline: str
    result: PairedDifference
    verdict: str


def plan_trials(
    made: Sequence[Candidate],
    tasks: Sequence[Task],
    search: Split,
    config: StudyConfig,
    model: BaseModelRef,
    storage: Storage,
) -> list[TrialPlan]:
    """Every candidate with every seed; the unit of a trial depends on its adapter and on the search split."""
    steps, tokens = config.search.steps, config.search.tokens
    if steps is None and tokens is None:
        steps, tokens = config.finetune.steps, config.finetune.tokens
    plans = []
    for seed in range(config.seed, config.seed + config.search.seeds):
        recipe = Recipe.of(config.finetune, seed=seed, init_seed=config.seed, steps=steps, tokens=tokens)
        for candidate in made:
            mixture = dict(zip((task.name for task in tasks), candidate.weights.tolist(), strict=True))
            name = f"{candidate.name}-seed{seed}"
            job = make_job(name, "mixtures", mixture, tasks, recipe, model, storage)
            identity = fingerprint("trial", job.unit.path, search.path, config.evaluation, config.scoring.scorer)
            plans.append(TrialPlan(candidate, seed, job, search, Unit(storage, f"trials/{name}-{identity}")))
    return plans


def search(
    plans: Sequence[TrialPlan], config: StudyConfig, storage: Storage, session: Session, progress: Progress
) -> None:
    """Run the trials that are not finished, on Ray Tune."""
    done = sum(plan.unit.done() for plan in plans)
    with progress.stage("search", len(plans), done) as stage:
        if done < len(plans):
            from taskpgm_ray.search.tuner import run_search

            session.connect()
            run_search(plans, config.search, session.fleet, session.evaluator, storage, stage)


def winner(plans: Sequence[TrialPlan], metric: str) -> Candidate:
    """The balance whose trials are best on the search split, on the mean over seeds; the baselines compete elsewhere.

    On equal scores the balance nearest to uniform wins: the mixture that claims least.
    """
    scores: dict[str, list[float]] = {}
    by_name = {plan.candidate.name: plan.candidate for plan in plans}
    for plan in plans:
        scores.setdefault(plan.candidate.name, []).append(plan.unit.manifest()["summary"][metric])
    balances = [c for c in by_name.values() if c.kind == "balance"]
    return max(balances, key=lambda c: (float(np.mean(scores[c.name])), -abs((c.tau or 0.0) - 1.0)))


def compare(
    chosen: Candidate,
    plans: Sequence[TrialPlan],
    sets: EvaluationSets,
    config: StudyConfig,
    storage: Storage,
    session: Session,
    progress: Progress,
) -> list[Comparison]:
    """Score the winner and the baselines on the report split, and compare them item by item."""
    finalists = [p for p in plans if p.candidate.kind == "baseline" or p.candidate.name == chosen.name]
    rest = (sets.report.path, config.evaluation, config.scoring.scorer)
    units = {
        plan.name: Unit(storage, f"reported/{plan.name}-{fingerprint('reported', plan.job.unit.path, *rest)}")
        for plan in finalists
    }
    _score_finalists(finalists, units, sets.report, session, progress)
    rows: dict[str, list[Any]] = {}
    for plan in finalists:
        rows.setdefault(plan.candidate.name, []).extend(read_items(units[plan.name]))
    comparisons = []
    for metric in METRICS:
        baselines = [name for name in rows if name != chosen.name]
        results = [
            paired_difference(rows[chosen.name], rows[name], config.evaluation.confidence, config.seed, metric=metric)
            for name in baselines
        ]
        adjusted = holm([result.p_value for result in results])
        comparisons += [
            Comparison(name, result, verdict(result, p))
            for name, result, p in zip(baselines, results, adjusted, strict=True)
        ]
    return comparisons


def _score_finalists(
    finalists: Sequence[TrialPlan], units: dict[str, Unit], report: Split, session: Session, progress: Progress
) -> None:
    todo = {plan.name: plan for plan in finalists if not units[plan.name].done()}
    with progress.stage("report split", len(finalists), len(finalists) - len(todo)) as stage:
        if not todo:
            return
        started = time.perf_counter()

        def on_done(name: str, rows: list[Any]) -> None:
            write_items(units[name], rows)
            summary = summarise(rows)
            units[name].finish({"summary": summary, "seconds": round(time.perf_counter() - started, 3)})
            stage.finished(
                f"{name}: {summary['items']} items, accuracy {summary['accuracy']:.3f}, "
                f"gold log-probability {summary['gold_logprob']:.3f}"
            )

        session.connect()
        references = {
            session.evaluator.evaluate.remote(plan.job.unit, report, plan.seed): name for name, plan in todo.items()
        }
        collect(references, on_done, lambda: "engines score the report split", stage)
