"""Do what is missing: of some works those whose units are not finished, shown as one stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from taskpgm_ray.runtime.progress import Stage
from taskpgm_ray.runtime.run import Run
from taskpgm_ray.storage import Unit, finished


class Work(Protocol):
    """One piece of work, done once its unit has a manifest."""

    @property
    def unit(self) -> Unit:
        """Where its result lies."""


W = TypeVar("W", bound=Work)


def unfinished(works: Sequence[W]) -> list[W]:
    """Those whose unit has no manifest yet."""
    done = finished([work.unit for work in works])
    return [work for work, ready in zip(works, done, strict=True) if not ready]


@contextmanager
def missing(run: Run, name: str, works: Sequence[W]) -> Iterator[tuple[Stage, list[W]]]:
    """Around the work of one stage: (its progress, the works to do). With nothing to do, Ray is not started.

    >>> with missing(run, "finalists", jobs) as (stage, todo):            # doctest: +SKIP
    ...     collect(stage, {run.fleet.submit(job): job for job in todo}, on_done, status)

    Args:
        run: Connected to Ray when there is something to do.
        name: Of the stage.
        works: All of them, finished or not; works that share a unit are done once.
    """
    units = {work.unit.path: work for work in works}
    todo = unfinished(list(units.values()))
    with run.progress.stage(name, len(units), len(units) - len(todo)) as stage:
        if todo:
            run.connect()
        yield stage, todo
