"""The scoring stage: every adapter and the base model on every segment of the probe set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.errors import ScoringError, TaskPGMError
from taskpgm_ray.finetune.job import Job
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.progress import Progress, collect
from taskpgm_ray.scoring.batches import batches
from taskpgm_ray.scoring.choice import choose_scorer
from taskpgm_ray.scoring.score import BASE, ScoreWork, SegmentWork, score_work
from taskpgm_ray.scoring.segments import plan_segments
from taskpgm_ray.storage import Storage, Unit
from taskpgm_ray.tasks.prepare import Task

if TYPE_CHECKING:
    from taskpgm_ray.session import Session

WINDOW = 5_000
"""Batches that are handed to the pool at one time."""


@dataclass(frozen=True)
class ScoredSegment:
    """A segment, and where each model's distributions on it lie."""

    unit: Unit
    base: Unit
    adapters: dict[str, Unit]
    """Task name of the adapter -> its scores."""


def score_pool(
    jobs: Sequence[Job],
    tasks: Sequence[Task],
    config: StudyConfig,
    model: BaseModelRef,
    storage: Storage,
    session: Session,
    progress: Progress,
) -> list[ScoredSegment]:
    """Build the missing segments, and score what is missing on each.

    Raises:
        TaskPGMError: A segment or unit could not be scored.
    """
    plans = plan_segments(tasks, config.scoring, model, storage)
    session.scorer = choose_scorer(plans, jobs, config, model, storage, session, progress)
    unbuilt = [plan for plan in plans if not plan.unit.done()]
    if unbuilt:
        with progress.stage("support", len(plans), len(plans) - len(unbuilt)) as stage:
            references = {
                session.pool.build_segment(SegmentWork(plan, config.scoring)): plan.unit.path for plan in unbuilt
            }
            collect(
                references,
                lambda _, manifest: stage.finished(
                    f"{manifest['positions']} positions of {len(manifest['blocks'])} tasks, "
                    f"{manifest['support']} tokens each"
                ),
                lambda: "an engine fixes the support of each position",
                stage,
            )
    adapters = {job.name: job.unit for job in jobs}
    work = {
        (plan.unit.path, name): score_work(plan.unit, name, adapter, config.scoring, session.scorer, model, storage)
        for plan in plans
        for name, adapter in [(BASE, None), *adapters.items()]
    }
    _score_missing(list(work.values()), config, session, progress)
    return [
        ScoredSegment(
            plan.unit,
            work[plan.unit.path, BASE].unit,
            {name: work[plan.unit.path, name].unit for name in adapters},
        )
        for plan in plans
    ]


def discard(units: Sequence[str], storage: Storage) -> None:
    """Have these units done again: what is stored of them cannot be used."""
    for path in units:
        storage.delete(path)


def _score_missing(works: Sequence[ScoreWork], config: StudyConfig, session: Session, progress: Progress) -> None:
    """Score what is not scored yet; what fails by itself does not keep the rest from being scored.

    Raises:
        ScoringError: Some units could not be scored: which, and why.
    """
    todo = [work for work in works if not work.unit.done()]
    failed: list[str] = []
    with progress.stage("score", len(works), len(works) - len(todo)) as stage:
        if not todo:
            return
        engines = config.scoring.engines
        sizes = {work.segment.path: work.segment.manifest()["positions"] for work in todo}
        plan = batches(todo, lambda work: sizes[work.segment.path], engines.batch_positions, engines.max_loras)

        def on_done(number: str, outcomes: Sequence[dict[str, Any] | TaskPGMError]) -> None:
            for work, outcome in zip(plan[int(number)], outcomes, strict=True):
                if isinstance(outcome, TaskPGMError):
                    failed.append(str(outcome))
                    stage.finished(f"{work.name}: FAILED: {outcome}")
                else:
                    stage.finished(
                        f"{work.name}: {outcome['positions']} positions in {outcome['seconds']:.1f} s, "
                        f"coverage {outcome['coverage']:.1%}",
                        outcome["tokens"],
                    )

        # A window of batches: neither the pool nor the driver holds a call for each of a million units.
        waiting = list(enumerate(plan))[::-1]
        while waiting:
            window = [waiting.pop() for _ in range(min(WINDOW, len(waiting)))]
            references = {session.pool.score(batch): str(number) for number, batch in window}
            collect(references, on_done, lambda: "engines score", stage)
    if failed:
        raise ScoringError(f"{len(failed)} of {len(todo)} units could not be scored: {'; '.join(failed[:5])}")
