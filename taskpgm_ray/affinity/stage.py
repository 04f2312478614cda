"""The affinity stage: one pairwise pass over all scores of the pool, stored as sums in one unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeVar, get_args

from taskpgm_ray.affinity import distributed
from taskpgm_ray.affinity.affinities import Affinities, Kind
from taskpgm_ray.affinity.distributed import summed
from taskpgm_ray.affinity.halfway import Halfway
from taskpgm_ray.affinity.noise import measure_noise
from taskpgm_ray.affinity.stored import VERSION, read, store
from taskpgm_ray.errors import DamagedScoresError, InertAdapterError, StorageError
from taskpgm_ray.runtime.missing import missing
from taskpgm_ray.runtime.progress import Stage
from taskpgm_ray.runtime.run import Run
from taskpgm_ray.scoring.stage import ScoredSegment, discard
from taskpgm_ray.storage import Storage, Unit, fingerprint

NO_SECONDS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class _Pairwise:
    """One pairwise pass, and the unit of its sums."""

    segments: Sequence[ScoredSegment]
    tasks: Sequence[str]
    identity: str
    unit: Unit


def compute_affinities(
    segments: Sequence[ScoredSegment], tasks: Sequence[str], run: Run, seconds: Mapping[str, str] = NO_SECONDS
) -> Affinities:
    """The affinities of the pool from the stored distributions; computed once per set of scores.

    Args:
        segments: All segments with the scores of all adapters.
        tasks: The pool.
        run: Storage, cluster and progress.
        seconds: Task -> name of its second adapter, by which the noise floor is measured; with none it is not.

    Raises:
        InertAdapterError: An adapter predicts exactly what the base model predicts.
        DamagedScoresError: Scores are missing or damaged; ``units`` names them.
        ResourceError: The job does not fit into the configured memory.
    """
    return completed(compare(segments, tasks, run), segments, run, seconds)


def compare(segments: Sequence[ScoredSegment], tasks: Sequence[str], run: Run) -> Affinities:
    """The affinities without their noise floor; see `compute_affinities`."""
    pool = _pairwise(segments, tasks, run)
    with missing(run, "affinity", [pool]) as (stage, todo):
        for one in todo:
            _sum_up(one, run, stage)
    return _read(pool)


def completed(
    affinities: Affinities, segments: Sequence[ScoredSegment], run: Run, seconds: Mapping[str, str] = NO_SECONDS
) -> Affinities:
    """The same with the noise floor, where second adapters tell it; says where coverage is low."""
    if seconds:
        try:
            affinities = replace(affinities, noise=measure_noise(segments, affinities.tasks, seconds, run))
        except StorageError as error:
            raise _damage(segments, error) from error
    if low := affinities.coverage_warning():
        run.progress.console.print(f"  [yellow]{low}[/]", soft_wrap=True, highlight=False)
    return affinities


T = TypeVar("T")


def with_sound_scores(compute: Callable[[], T], run: Run) -> T:
    """What this gives; scores that turn out to be damaged are removed, and it is asked once more.

    Raises:
        DamagedScoresError: They are damaged again.
    """
    try:
        return compute()
    except DamagedScoresError as error:
        run.progress.console.print(
            f"damaged scores are made again: {error}", style="yellow", markup=False, highlight=False, soft_wrap=True
        )
        discard(error.units, run.storage)
        return compute()


def compare_halves(segments: Sequence[ScoredSegment], halves: Mapping[str, str], run: Run) -> Halfway | None:
    """Some tasks' affinities among themselves at half of their budget and at its end, on their own probes.

    Args:
        segments: All segments, with the scores of these tasks' adapters at both points.
        halves: Task -> name of its adapter at half of the budget.
        run: Storage, cluster and progress.

    Returns:
        ``None``, and a line that says so, where an adapter predicts as yet what the base model predicts.
    """
    tasks = list(halves)
    early = [replace(s, scores={task: s.scores[name] for task, name in halves.items()}) for s in segments]
    both = [_pairwise(some, tasks, run) for some in (early, segments)]
    try:
        with missing(run, "halfway", both) as (stage, todo):
            for one in todo:
                _sum_up(one, run, stage)
    except InertAdapterError as error:
        run.progress.console.print(f"  at half of the budget: {error}", soft_wrap=True, highlight=False, markup=False)
        return None
    half, full = ({kind: _read(one).distances(kind) for kind in get_args(Kind)} for one in both)
    return Halfway(tuple(tasks), half, full)


def _pairwise(segments: Sequence[ScoredSegment], tasks: Sequence[str], run: Run) -> _Pairwise:
    scores = [summed(s, tasks, [s.base, *(s.scores[t] for t in tasks)]) for s in segments]
    identity = fingerprint("affinity", VERSION, list(tasks), scores)
    return _Pairwise(segments, tasks, identity, affinity_unit(run.storage, identity))


def _read(work: _Pairwise) -> Affinities:
    return read(work.unit, work.identity)


def _sum_up(work: _Pairwise, run: Run, stage: Stage) -> None:
    import ray

    try:
        sums = distributed.pool_sums(
            work.segments,
            work.tasks,
            run.config.affinity,
            lambda done, total: stage.note(f"{done} of {total} parts of the probe set compared"),
        )
        facts = ray.get(ray.remote(store).options(num_cpus=1).remote(work.unit, sums))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, StorageError):
            raise _damage(work.segments, error.cause) from error
        raise error.cause from error
    stage.finished(f"JSD and PMI of {len(work.tasks)} adapters on {facts['probes']} probes")


def affinity_unit(storage: Storage, identity: str) -> Unit:
    """Where affinities lie, by their fingerprint."""
    return Unit(storage, f"affinity/{identity}")


def _damage(segments: Sequence[ScoredSegment], error: StorageError) -> StorageError:
    """Name every damaged unit; the error itself when the scores are whole."""
    import ray

    find = ray.remote(distributed.damaged).options(num_cpus=1)
    found: dict[str, str] = {}
    for part in ray.get([find.remote(segment) for segment in segments]):
        found |= part
    return DamagedScoresError("; ".join(found.values()), tuple(found)) if found else error
