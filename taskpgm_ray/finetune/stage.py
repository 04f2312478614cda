"""The fine-tuning stage: one adapter for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from taskpgm_ray.errors import DamagedFileError, DataError, TrainingError
from taskpgm_ray.finetune.fleet_view import Pace, describe, fleet_table
from taskpgm_ray.finetune.job import Job, Recipe, make_job
from taskpgm_ray.runtime.missing import missing, unfinished
from taskpgm_ray.runtime.progress import collect
from taskpgm_ray.runtime.run import Run, news_of
from taskpgm_ray.storage import fingerprint, finished
from taskpgm_ray.tasks.prepare import Task
from taskpgm_ray.workload import halfway_tasks, noise_tasks

THE_TASKS_FAULT = (DataError, TrainingError, DamagedFileError)
"""Errors that are recorded and may leave a task out; others (storage, cluster, model) say nothing of the task."""
HALF = 0.5
NONE_YET: Mapping[str, int] = MappingProxyType({})
FAILURE = "failure.json"
"""In the unit of a job that failed for good: the kind of error and its message."""


def single_task_jobs(tasks: Sequence[Task], run: Run) -> list[Job]:
    """One job a task: the mixture with one non-zero weight, all from the same initialisation."""
    config = run.config
    recipe = Recipe.of(
        config.finetune,
        seed=config.seed,
        init_seed=config.seed,
        steps=config.finetune.steps,
        tokens=config.finetune.tokens,
    )
    jobs = [make_job(task.name, "adapters", {task.name: 1.0}, tasks, recipe, run.model, run.storage) for task in tasks]
    kept = _drawn(tasks, "halfway", halfway_tasks(config, len(tasks)), config.seed)
    return [replace(job, parts=(job.part(HALF),)) if job.name in kept else job for job in jobs]


def half_jobs(jobs: Sequence[Job]) -> list[Job]:
    """Those of these fine-tunes whose adapter at half of their way is there, as they were then."""
    halves = [replace(job.cut(HALF * job.until), name=half_name(job.name)) for job in jobs if job.parts]
    done = finished([job.unit for job in halves])
    return [job for job, ready in zip(halves, done, strict=True) if ready]


def second_jobs(jobs: Sequence[Job], run: Run) -> list[Job]:
    """A second fine-tune, with another order of examples, of the tasks by which the noise floor is measured.

    It goes as far as the task's first one.
    """
    config = run.config
    chosen = _drawn([job.tasks[0] for job in jobs], "noise", noise_tasks(config, len(jobs)), config.seed)
    found = []
    for job in jobs:
        if job.name in chosen:
            recipe = replace(job.recipe, seed=config.seed + 1)
            again = make_job(job.name, "adapters", {job.name: 1.0}, job.tasks, recipe, run.model, run.storage)
            found.append(replace(again.cut(job.until), name=second_name(job.name)))
    return found


def second_name(task: str) -> str:
    """Name of a task's second adapter; no task can have it."""
    return f"{task}@second"


def half_name(task: str) -> str:
    """Name of a task's adapter at half of its budget; no task can have it."""
    return f"{task}@half"


def _drawn(tasks: Sequence[Task], purpose: str, count: int, seed: int) -> set[str]:
    """Names of so many tasks. Which ones follows from their contents, so that another task changes as few as it can."""
    order = sorted(tasks, key=lambda task: fingerprint(purpose, seed, task.facts.train_content))
    return {task.name for task in order[:count]}


def finetune_pool(jobs: Sequence[Job], run: Run, trained: Mapping[str, int] = NONE_YET) -> list[Job]:
    """Train every adapter that is missing, in parallel on the lanes.

    A job that fails for good is recorded in its unit. With ``on_task_failure: skip`` a recorded job stays left out;
    with ``stop`` it is tried again.

    Args:
        jobs: The fine-tunes, finished or not.
        run: Lanes and progress.
        trained: Tokens of earlier stages by the job's name, of fine-tunes that go on from there.

    Returns:
        The jobs that have an adapter: all, unless ``finetune.on_task_failure`` is ``skip``.

    Raises:
        TaskPGMError: A job failed for good and ``on_task_failure`` is ``stop``, or fewer than two are left.
    """
    skip = run.config.finetune.on_task_failure == "skip"
    earlier = _recorded(unfinished(jobs)) if skip else {}
    failed = dict(earlier)
    with missing(run, "finetune", [job for job in jobs if job.name not in earlier]) as (stage, todo):

        def on_done(job: Job, manifest: dict[str, Any]) -> None:
            before, after = manifest["heldout_loss_before"], manifest["heldout_loss_after"]
            stage.finished(
                f"{job.name}: held-out loss {before:.3f} -> {after:.3f} nats/token, "
                f"{manifest['tokens']} tokens in {manifest['seconds']:.0f} s",
                manifest["tokens"] - trained.get(job.name, 0),
            )

        def on_error(job: Job, error: BaseException) -> None:
            if not isinstance(error, THE_TASKS_FAULT):
                raise error
            job.home.files.write_json(FAILURE, {"error": type(error).__name__, "message": str(error)})
            if not skip:
                raise error
            failed[job.name] = str(error)
            stage.finished(f"{job.name}: FAILED, left out of the pool: {error}")

        for job in jobs:
            if job.name in earlier:
                where = f"{job.home.files.uri}/{FAILURE}"
                stage.note(
                    f"{job.name} failed in an earlier run and stays left out ({earlier[job.name]}); to try again, "
                    f"remove {where}"
                )
        pace = Pace(len(todo))
        collect(
            stage,
            {run.fleet.submit(job): job for job in todo},
            on_done,
            lambda: describe(run.fleet.status()),
            on_error,
            lambda: fleet_table(run.fleet.status(), pace, stage.done, len(failed) - len(earlier)),
            note=news_of(run, "fleet"),
        )
    kept = [job for job in jobs if job.name not in failed]
    # Second fine-tunes are of tasks that have a first one.
    left, tasks = ({job.tasks[0].name for job in some} for some in (kept, jobs))
    if len(left) < 2:
        raise TrainingError(f"only {len(left)} of {len(tasks)} tasks could be trained: {failed}")
    return kept


def skipped(jobs: Sequence[Job], kept: Sequence[Job]) -> dict[str, str]:
    """Why each job that was left out has no adapter, by name."""
    left = {job.name for job in jobs} - {job.name for job in kept}
    return _recorded([job for job in jobs if job.name in left])


def _recorded(jobs: Sequence[Job]) -> dict[str, str]:
    """The messages of the jobs whose failure is recorded, by name."""
    return {job.name: job.home.files.read_json(FAILURE)["message"] for job in jobs if job.home.files.exists(FAILURE)}
