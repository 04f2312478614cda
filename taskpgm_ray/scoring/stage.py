"""The scoring stage: every adapter and the base model on every segment of the probe set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.finetune.job import Job
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.progress import Progress, collect
from taskpgm_ray.scoring.score import BASE, ScoreWork, SegmentWork, score_work
from taskpgm_ray.scoring.segments import plan_segments
from taskpgm_ray.storage import Storage, Unit
from taskpgm_ray.tasks.prepare import Task

if TYPE_CHECKING:
    from taskpgm_ray.session import Session


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
        (plan.unit.path, name): score_work(plan.unit, name, adapter, config.scoring, model, storage)
        for plan in plans
        for name, adapter in [(BASE, None), *adapters.items()]
    }
    _score_missing(work, session, progress)
    return [
        ScoredSegment(
            plan.unit,
            work[plan.unit.path, BASE].unit,
            {name: work[plan.unit.path, name].unit for name in adapters},
        )
        for plan in plans
    ]


def _score_missing(work: dict[tuple[str, str], ScoreWork], session: Session, progress: Progress) -> None:
    todo = {key: item for key, item in work.items() if not item.unit.done()}
    with progress.stage("score", len(work), len(work) - len(todo)) as stage:
        if not todo:
            return

        def on_done(name: str, manifest: dict[str, Any]) -> None:
            stage.finished(
                f"{name}: {manifest['positions']} positions in {manifest['seconds']:.1f} s, "
                f"coverage {manifest['coverage']:.1%}",
                manifest["tokens"],
            )

        references = {session.pool.score(item): name for (_, name), item in todo.items()}
        collect(references, on_done, lambda: "engines score", stage)
