"""The scoring stage: every adapter and the base model on every segment of the probe set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.errors import InertAdapterError
from taskpgm_ray.finetune.job import Job
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.progress import Progress, collect
from taskpgm_ray.scoring.score import BASE, ScoreWork, SegmentWork, read_scores, score_work
from taskpgm_ray.scoring.segments import plan_segments
from taskpgm_ray.storage import Storage, Unit
from taskpgm_ray.tasks.prepare import Task

if TYPE_CHECKING:
    from taskpgm_ray.session import Session

INERT = 1e-6
"""Largest difference in log-probability (nats) at which an adapter counts as predicting what the base predicts."""


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
    """Build the missing segments, score what is missing on each, and check that every adapter does something.

    Raises:
        InertAdapterError: An adapter predicts exactly what the base model predicts.
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
                _raise,
                lambda: "an engine fixes the support of each position",
                progress.console,
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


def check_adapters(segments: Sequence[ScoredSegment]) -> None:
    """Raise `InertAdapterError` when an adapter's distributions equal the base model's on every position."""
    largest: dict[str, float] = {}
    for segment in segments:
        base = read_scores(segment.base)
        for name, unit in segment.adapters.items():
            difference = float(np.abs(read_scores(unit) - base).max())
            largest[name] = max(largest.get(name, 0.0), difference)
    inert = [name for name, difference in largest.items() if difference <= INERT]
    if inert:
        raise InertAdapterError(
            f"the adapters of {', '.join(inert)} predict exactly what the base model predicts: either the engine does "
            "not apply them, or they learned nothing (learning rate, number of steps)"
        )


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
        collect(references, on_done, _raise, lambda: "engines score", progress.console)


def _raise(_: str, error: BaseException) -> None:
    raise error
