"""The affinity stage: one pairwise pass over all scores of the pool, stored as sums in one unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from taskpgm_ray.affinity import distributed
from taskpgm_ray.affinity.affinities import Affinities
from taskpgm_ray.affinity.distributed import summed
from taskpgm_ray.affinity.noise import measure_noise
from taskpgm_ray.affinity.stored import VERSION, read, store
from taskpgm_ray.errors import DamagedScoresError, StorageError
from taskpgm_ray.runtime.missing import missing
from taskpgm_ray.runtime.run import Run
from taskpgm_ray.scoring.stage import ScoredSegment
from taskpgm_ray.storage import Storage, Unit, fingerprint

NO_SECONDS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class _Pairwise:
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
    scores = [summed(s, tasks, [s.base, *(s.scores[t] for t in tasks)]) for s in segments]
    identity = fingerprint("affinity", VERSION, list(tasks), scores)
    unit = affinity_unit(run.storage, identity)
    with missing(run, "affinity", [_Pairwise(unit)]) as (stage, todo):
        if todo:
            import ray

            try:
                sums = distributed.pool_sums(
                    segments,
                    tasks,
                    run.config.affinity,
                    lambda done, total: stage.note(f"{done} of {total} parts of the probe set compared"),
                )
                facts = ray.get(ray.remote(store).options(num_cpus=1).remote(unit, sums))
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, StorageError):
                    raise _damage(segments, error.cause) from error
                raise error.cause from error
            stage.finished(f"JSD and PMI of {len(tasks)} adapters on {facts['probes']} probes")
    return read(unit, identity)


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
