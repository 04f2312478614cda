"""The fine-tuning stage: one adapter for each task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.errors import TrainingError
from taskpgm_ray.finetune.job import Job, Recipe, make_job
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.progress import Progress, collect
from taskpgm_ray.storage import Storage
from taskpgm_ray.tasks.prepare import Task

if TYPE_CHECKING:
    from taskpgm_ray.session import Session


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

    Returns:
        The jobs that have an adapter: all, unless ``finetune.on_task_failure`` is ``skip``.

    Raises:
        TaskPGMError: A job failed for good and ``on_task_failure`` is ``stop``, or fewer than two are left.
    """
    todo = {job.name: job for job in jobs if not job.unit.done()}
    failed: dict[str, str] = {}

    with progress.stage("finetune", len(jobs), len(jobs) - len(todo)) as stage:

        def on_done(name: str, manifest: dict) -> None:
            before, after = manifest["heldout_loss_before"], manifest["heldout_loss_after"]
            stage.finished(
                f"{name}: held-out loss {before:.3f} -> {after:.3f} nats/token, "
                f"{manifest['tokens']} tokens in {manifest['seconds']:.0f} s",
                manifest["tokens"],
            )

        def on_error(name: str, error: BaseException) -> None:
            if config.finetune.on_task_failure == "stop":
                raise error
            failed[name] = str(error)
            stage.finished(f"{name}: FAILED, left out of the pool: {error}")

        if todo:
            references = {session.fleet.submit(job): name for name, job in todo.items()}
            collect(references, on_done, lambda: describe(session.fleet.status()), stage, on_error)
    kept = [job for job in jobs if job.name not in failed]
    if len(kept) < 2:
        raise TrainingError(f"only {len(kept)} of {len(jobs)} tasks could be trained: {failed}")
    return kept


def describe(status: dict) -> str:
    """One line: what runs, and what waits."""
    running = ", ".join(
        f"{name} step {row['step']} loss {row['loss']:.2f}" if row else f"{name} starting"
        for name, row in status["running"].items()
    )
    return f"{running or 'a lane is starting'} ({status['waiting']} waiting)"
