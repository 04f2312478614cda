"""Does the merge of the single-task adapters rank mixtures as training does? Measured on the trials of a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from taskpgm_ray.evaluation import ItemScore, summarise
from taskpgm_ray.finetune.job import Job
from taskpgm_ray.progress import Progress, collect
from taskpgm_ray.search.merge import merge_adapters, rank_correlation
from taskpgm_ray.search.plan import Planner, TrialPlan, measured_by
from taskpgm_ray.storage import Unit, fingerprint

if TYPE_CHECKING:
    from taskpgm_ray.session import Session

WARRANTED = 0.6
"""Lower end of the rank correlation from which a merge may stand in for training."""


def measure_screen(
    plans: Sequence[TrialPlan], jobs: Sequence[Job], planner: Planner, session: Session, progress: Progress
) -> dict[str, Any]:
    """Merge the adapters in the proportions of every finished trial, and score the merges on the search split.

    Returns:
        ``correlation`` (Spearman, of merges' and trials' scores), ``low`` (lower end of its interval), ``mixtures``
        (how many) and ``warranted`` (whether ``low`` is at least `WARRANTED`).
    """
    planner.search.require("search")
    units = {plan.name: _units(plan, jobs, planner) for plan in plans}
    _merge({name: pair[0] for name, pair in units.items()}, plans, jobs, planner, session, progress)
    _score(units, planner, session, progress)
    metric = planner.config.search.metric
    merged = [units[plan.name][1].manifest()["summary"][metric] for plan in plans]
    correlation, low = rank_correlation(merged, [plan.score(metric) for plan in plans])
    return {"correlation": correlation, "low": low, "mixtures": len(plans), "warranted": low >= WARRANTED}


def _units(plan: TrialPlan, jobs: Sequence[Job], planner: Planner) -> tuple[Unit, Unit]:
    """(the merged adapter, its scores)."""
    identity = fingerprint("merge", [job.unit.path for job in jobs], plan.candidate.weights.round(12).tolist())
    adapter = Unit(planner.storage, f"merges/{plan.name}-{identity}")
    scored = fingerprint("merge score", adapter.path, planner.search.path, *measured_by(planner.config))
    return adapter, Unit(planner.storage, f"screens/{plan.name}-{scored}")


def _merge(
    adapters: dict[str, Unit],
    plans: Sequence[TrialPlan],
    jobs: Sequence[Job],
    planner: Planner,
    session: Session,
    progress: Progress,
) -> None:
    todo = [plan for plan in plans if not adapters[plan.name].done()]
    with progress.stage("merges", len(plans), len(plans) - len(todo)) as stage:
        if todo:
            import ray

            session.connect()
            finetune = planner.config.finetune
            merge = ray.remote(merge_adapters).options(num_cpus=finetune.lanes.cpus)
            sources = [job.unit for job in jobs]
            references = {
                merge.remote(
                    planner.model, sources, plan.candidate.weights, finetune.lora.r, adapters[plan.name]
                ): plan.name
                for plan in todo
            }
            collect(references, lambda name, _: stage.finished(name), lambda: "adapters are merged", stage)


def _score(units: dict[str, tuple[Unit, Unit]], planner: Planner, session: Session, progress: Progress) -> None:
    todo = {name: pair for name, pair in units.items() if not pair[1].done()}
    with progress.stage("screen", len(units), len(units) - len(todo)) as stage:
        if not todo:
            return

        def on_done(name: str, rows: list[ItemScore]) -> None:
            summary = summarise(rows)
            todo[name][1].finish({"summary": summary})
            stage.finished(f"{name}, merged: gold log-probability {summary['gold_logprob']:.3f}")

        session.connect()
        references = {
            session.evaluator.evaluate.remote(adapter, planner.search, planner.config.seed, "search"): name
            for name, (adapter, _) in todo.items()
        }
        collect(references, on_done, lambda: "engines score the merges", stage)
