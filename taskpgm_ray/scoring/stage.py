"""The scoring stage: every adapter and the base model on every segment of the probe set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from taskpgm_ray.errors import ScoringError, TaskPGMError
from taskpgm_ray.finetune.job import Job
from taskpgm_ray.runtime.missing import missing
from taskpgm_ray.runtime.progress import collect
from taskpgm_ray.runtime.run import Run, news_of
from taskpgm_ray.scoring.auto_scorer import choose_scorer
from taskpgm_ray.scoring.score import BASE, ScoreWork, SegmentWork, score_work
from taskpgm_ray.scoring.segments import SegmentPlan, plan_segments
from taskpgm_ray.scoring.work_order import in_batches
from taskpgm_ray.storage import Storage, Unit
from taskpgm_ray.tasks.prepare import Task

WINDOW = 5_000
"""Batches handed to the pool at one time: neither it nor the driver holds a call for each of a million units."""


@dataclass(frozen=True)
class ScoredSegment:
    """A segment, and where each model's distributions on it lie."""

    unit: Unit
    base: Unit
    scores: dict[str, Unit]
    """Task name of the adapter -> its scores."""
    tasks: tuple[str, ...]
    """The tasks whose blocks here count. Of another one that the segment holds, the block is of other probes or of
    another support than the pool's, or the task has left the pool."""


def score_pool(jobs: Sequence[Job], tasks: Sequence[Task], run: Run, probes: int | None = None) -> list[ScoredSegment]:
    """Build the missing segments, and score what is missing on each.

    Args:
        jobs: The fine-tunes whose adapters are scored.
        tasks: The pool, whose probes they are asked.
        run: Storage, engines and progress.
        probes: Of each task at least so many, in whole rounds; by default all.

    Raises:
        TaskPGMError: A segment or unit could not be scored.
    """
    plans = plan_segments(tasks, run.config.scoring, run.model, run.storage, probes)
    scorer = choose_scorer(plans, jobs, run)
    _build_segments(plans, run)
    # A task may be called as the base model is.
    adapters: dict[str | None, Unit | None] = {None: None, **{job.name: job.unit for job in jobs}}
    works = {
        (plan.unit.path, name): score_work(
            plan.unit, name or BASE, adapter, run.config.scoring, scorer, run.model, run.storage
        )
        for plan in plans
        for name, adapter in adapters.items()
    }
    _score_missing(list(works.values()), run)
    return [
        ScoredSegment(
            plan.unit,
            works[plan.unit.path, None].unit,
            {name: works[plan.unit.path, name].unit for name in adapters if name is not None},
            tuple(task.name for task in plan.tasks),
        )
        for plan in plans
    ]


def discard(units: Sequence[str], storage: Storage) -> None:
    """Have these units done again: what is stored of them cannot be used."""
    for path in units:
        storage.delete(path)


def _build_segments(plans: Sequence[SegmentPlan], run: Run) -> None:
    if all(plan.unit.done() for plan in plans):
        return
    with missing(run, "support", plans) as (stage, todo):

        def on_done(_: SegmentPlan, manifest: dict[str, Any]) -> None:
            stage.finished(
                f"{manifest['positions']} positions of {len(manifest['blocks'])} tasks, "
                f"{manifest['support']} tokens each"
            )

        references = {
            run.pool.build_segment(
                SegmentWork(plan, run.config.scoring),
                run.config.model.max_length
                * run.config.scoring.positions_per_probe
                * sum(block.probes for block in plan.blocks),
            ): plan
            for plan in todo
        }
        collect(
            stage,
            references,
            on_done,
            lambda: "an engine fixes the support of each position",
            note=news_of(run, "pool"),
        )


def _score_missing(works: Sequence[ScoreWork], run: Run) -> None:
    """Score what is not scored yet; what fails by itself does not keep the rest from being scored.

    Raises:
        ScoringError: Some units could not be scored: which, and why.
    """
    engines = run.config.scoring.engines
    failed: list[str] = []
    with missing(run, "score", works) as (stage, todo):

        def on_done(batch: list[ScoreWork], outcomes: Sequence[dict[str, Any] | TaskPGMError]) -> None:
            for work, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, TaskPGMError):
                    failed.append(str(outcome))
                    stage.finished(f"{work.name}: FAILED: {outcome}")
                else:
                    stage.finished(
                        f"{work.name}: {outcome['positions']} positions in {outcome['seconds']:.1f} s, "
                        f"coverage {outcome['coverage']:.1%}",
                        outcome["tokens"],
                    )

        sizes = {path: Unit(run.storage, path).manifest()["positions"] for path in {w.segment.path for w in todo}}
        batches = in_batches(todo, lambda work: sizes[work.segment.path], engines.batch_positions, engines.max_loras)
        longest = run.config.model.max_length
        for start in range(0, len(batches), WINDOW):
            references = {
                run.pool.score(batch, longest * sum(sizes[work.segment.path] for work in batch)): batch
                for batch in batches[start : start + WINDOW]
            }
            collect(stage, references, on_done, lambda: "engines score", note=news_of(run, "pool"))
    if failed:
        raise ScoringError(f"{len(failed)} of {len(todo)} units could not be scored: {'; '.join(failed[:5])}")
