"""The fine-tuning stage: one adapter for each task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.errors import TrainingError
from taskpgm_ray.finetune.job import Job, Recipe, make_job
from taskpgm_ray.finetune.view import Pace, describe, fleet_table
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.progress import Progress, collect
from taskpgm_ray.storage import Storage
from taskpgm_ray.tasks.prepare import Task

if TYPE_CHECKING:
    from taskpgm_ray.session import Session

FAILURE = "failure.json"
"""In the unit of a job that failed for good: the kind of error and its message."""


def single_task_jobs(config: StudyConfig, tasks: Sequence[Task], model: BaseModelRef, storage: Storage) -> list[Job]:
    """One job a task: the mixture with one non-zero weight, all from the same initialisation."""
    recipe = Recipe.of(
        config.finetune,
        seed=config.seed,
        init_seed=config.seed,
        steps=config.finetune.steps,
        tokens=config.finetune.tokens,
    )
    return [make_job(task.name, "adapters", {task.name: 1.0}, tasks, recipe, model, storage) for task in tasks]


def finetune_pool(jobs: Sequence[Job], config: StudyConfig, session: Session, progress: Progress) -> list[Job]:
    """Train every adapter that is missing, in parallel on the lanes.

    A job that fails for good is recorded in its unit. With ``on_task_failure: skip`` a recorded job stays left out;
    with ``stop`` it is tried again.

    Returns:
        The jobs that have an adapter: all, unless ``finetune.on_task_failure`` is ``skip``.

    Raises:
        TaskPGMError: A job failed for good and ``on_task_failure`` is ``stop``, or fewer than two are left.
    """
    skip = config.finetune.on_task_failure == "skip"
    open_jobs = {job.name: job for job in jobs if not job.unit.done()}
    earlier = _recorded(open_jobs) if skip else {}
    failed = dict(earlier)
    todo = {name: job for name, job in open_jobs.items() if name not in failed}

    with progress.stage("finetune", len(jobs), len(jobs) - len(todo)) as stage:

        def on_done(name: str, manifest: dict[str, Any]) -> None:
            before, after = manifest["heldout_loss_before"], manifest["heldout_loss_after"]
            stage.finished(
                f"{name}: held-out loss {before:.3f} -> {after:.3f} nats/token, "
                f"{manifest['tokens']} tokens in {manifest['seconds']:.0f} s",
                manifest["tokens"],
            )

        def on_error(name: str, error: BaseException) -> None:
            todo[name].unit.files.write_json(FAILURE, {"error": type(error).__name__, "message": str(error)})
            if not skip:
                raise error
            failed[name] = str(error)
            stage.finished(f"{name}: FAILED, left out of the pool: {error}")

        for name, message in earlier.items():
            where = f"{open_jobs[name].unit.files.uri}/{FAILURE}"
            stage.note(f"{name} failed in an earlier run and stays left out ({message}); to try again, remove {where}")
        if todo:
            fleet, pace = session.fleet, Pace(len(todo))
            collect(
                {fleet.submit(job): name for name, job in todo.items()},
                on_done,
                lambda: describe(fleet.status()),
                stage,
                on_error,
                lambda: fleet_table(fleet.status(), pace, stage.done, len(failed) - len(earlier)),
            )
    kept = [job for job in jobs if job.name not in failed]
    if len(kept) < 2:
        raise TrainingError(f"only {len(kept)} of {len(jobs)} tasks could be trained: {failed}")
    return kept


def skipped(jobs: Sequence[Job], kept: Sequence[Job]) -> dict[str, str]:
    """Why each job that was left out has no adapter, by name."""
    left_out = {job.name: job for job in jobs if job not in kept}
    return _recorded(left_out)


def _recorded(jobs: dict[str, Job]) -> dict[str, str]:
    """The messages of the jobs whose failure is recorded."""
    return {
        name: job.unit.files.read_json(FAILURE)["message"]
        for name, job in jobs.items()
        if job.unit.files.exists(FAILURE)
    }
