"""The affinity job: stored distributions -> `PoolSums`, on Ray.

Each Ray task reads one part of a segment (a range of rows of every adapter's Parquet file) and adds it to the sums that
it was given. The sums go from task to task in as many chains as the cluster has CPUs and memory for, and the chains are
merged at the end. What a task holds is bounded by the config; what the object store holds is one set of sums [n, n] a
chain, never distributions; the driver gets a few matrices [n, n].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from taskpgm_ray.affinity.pool_sums import Part, PoolSums
from taskpgm_ray.config import AffinityConfig
from taskpgm_ray.errors import OutageError, ResourceError, StorageError
from taskpgm_ray.scoring.score import read_positions, read_scores
from taskpgm_ray.scoring.stage import ScoredSegment
from taskpgm_ray.storage import Unit, fingerprint

CELL_BYTES = 24
"""Memory of one log-probability while a part is read: its float32 in the file's table, in the column, and stacked,
and the smaller copies in higher precision."""
LEAST_POSITIONS = 16
"""A part of fewer positions would open every adapter's file for next to nothing."""


@dataclass(frozen=True)
class PartOf:
    """The probes of a segment that begin in these rows."""

    segment: ScoredSegment
    start: int
    stop: int


def probe_counts(segments: Sequence[ScoredSegment], tasks: Sequence[str]) -> list[int]:
    """Number of probes of each task, from the segments' manifests."""
    counts: Counter[str] = Counter()
    for segment in segments:
        manifest = segment.unit.manifest()
        held = dict(zip(manifest["tasks"], manifest["probes"], strict=True))
        counts.update({task: held[task] for task in segment.tasks})
    return [counts[task] for task in tasks]


def summed(segment: ScoredSegment, tasks: Sequence[str], units: Sequence[Unit]) -> list[Any]:
    """What sums over a segment depend on, for their fingerprint: scores, and which of the pool's blocks do not count.

    As a rule all of them do. Then it is the scores alone, so that sums of a time when blocks were not passed over are
    found again.
    """
    pool = set(tasks) - set(segment.tasks)
    passed = [task for task in segment.unit.manifest()["tasks"] if task in pool]
    return [*(unit.path for unit in units), *([{"passed over": passed}] if passed else [])]


def parts_of(segments: Sequence[ScoredSegment], n: int, config: AffinityConfig) -> list[PartOf]:
    """Cut the segments into parts that a task can hold in the configured memory.

    Raises:
        ResourceError: The sums alone do not fit.
    """
    parts = []
    for segment in segments:
        manifest = segment.unit.manifest()
        # A task holds the sums that it was given, and its own.
        room = int(config.memory_gib * 2**30) - 2 * PoolSums.nbytes(n)
        size = room // ((n + 1) * manifest["support"] * CELL_BYTES)
        if size < LEAST_POSITIONS:
            needed = 2 * PoolSums.nbytes(n) + LEAST_POSITIONS * (n + 1) * manifest["support"] * CELL_BYTES
            raise ResourceError(
                f"the affinities of {n} tasks need {needed / 2**30:.1f} GiB in each Ray task; affinity.memory_gib is "
                f"{config.memory_gib:g}"
            )
        parts += [PartOf(segment, start, start + size) for start in range(0, manifest["positions"], size)]
    return parts


def add_part(part: PartOf, sums: PoolSums) -> tuple[PoolSums, int]:
    """The sums with one part added, and its positions. Blocks that do not count are passed over."""
    found = read_part(part, sums.tasks)
    return (sums, 0) if found is None else (sums.copy().add(found), len(found.probe))


def read_part(part: PartOf, tasks: Sequence[str], adapters: Sequence[str] | None = None) -> Part | None:
    """The scores of one part; ``None`` when none of its probes is of the pool.

    Args:
        part: Which probes.
        tasks: The pool.
        adapters: Whose scores; by default each task's own.

    Raises:
        StorageError: A file is missing or damaged.
    """
    counted = set(part.segment.tasks)
    index = {name: i for i, name in enumerate(tasks) if name in counted}
    table = read_positions(part.segment.unit, ["task", "probe", "step"])
    first = np.flatnonzero(table["step"].to_numpy() == 0)
    bounds = np.append(first, len(table))
    # A probe belongs to the part in which it begins, so that every probe is whole.
    begins = first[(first >= part.start) & (first < part.stop)]
    if not len(begins):
        return None
    rows = slice(int(begins[0]), int(bounds[np.searchsorted(first, begins[-1]) + 1]))
    owner = np.array([index.get(name, -1) for name in table["task"][rows.start : rows.stop].to_pylist()])
    inside = owner >= 0
    if not inside.any():
        return None
    models = tasks if adapters is None else adapters
    scores = np.empty((len(models), int(inside.sum()), part.segment.unit.manifest()["support"]), dtype=np.float32)
    for i, name in enumerate(models):
        scores[i] = read_scores(part.segment.scores[name], rows)[inside]
    probes = np.array(table["probe"][rows.start : rows.stop].to_pylist())[inside]
    # Two tasks may share an example; their probes are two all the same.
    names = [f"{tasks[t]}/{probe}" for t, probe in zip(owner[inside], probes, strict=True)]
    return Part(read_scores(part.segment.base, rows)[inside], scores, names, owner[inside])


def pool_sums(
    segments: Sequence[ScoredSegment],
    tasks: Sequence[str],
    config: AffinityConfig,
    on_part: Callable[[int, int], None] = lambda done, total: None,
) -> Any:
    """Compute the sums of the whole pool on Ray.

    Args:
        segments: All segments of the probe set with the scores of all adapters.
        tasks: The pool.
        config: Memory of a Ray task.
        on_part: Called after each part with the number of finished ones and of all.

    Returns:
        Object reference of the `PoolSums`.

    Raises:
        StorageError: A file is missing or damaged.
        ResourceError: A part does not fit into the configured memory.
    """
    import ray

    parts = parts_of(segments, len(tasks), config)
    identity = fingerprint([summed(s, tasks, [s.base, *(s.scores[t] for t in tasks)]) for s in segments])
    cluster: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    empty = ray.put(PoolSums.empty(tasks, probe_counts(segments, tasks), identity))
    # Two results, so that the driver hears of an error without fetching the sums.
    step: Any = ray.remote(add_part).options(num_cpus=1, num_returns=2)
    room = int(cluster.get("memory", 0.0) / (config.memory_gib * 2**30))
    chains = max(1, min(len(parts), int(cluster.get("CPU", 1)), room))
    waiting = list(reversed(parts))
    running: dict[Any, Any] = {}
    ended: list[Any] = []

    def go_on(sums: Any) -> None:
        if waiting:
            sums, positions = step.remote(waiting.pop(), sums)
            running[positions] = sums
        else:
            ended.append(sums)

    for _ in range(chains):
        go_on(empty)
    while running:
        (ready,), _ = ray.wait(list(running), num_returns=1)
        ray.get(ready)
        go_on(running.pop(ready))
        on_part(len(parts) - len(waiting) - len(running), len(parts))
    merge: Any = ray.remote(PoolSums.merge).options(num_cpus=1)
    while len(ended) > 1:
        ended.append(merge.remote(ended.pop(0), ended.pop(0)))
    return ended[0]


def damaged(segment: ScoredSegment) -> dict[str, str]:
    """The score files of a segment that cannot be used: path of the unit -> what is wrong. Reads every file."""
    found = {}
    for unit in (segment.base, *segment.scores.values()):
        try:
            read_scores(unit)
        except OutageError:
            raise
        except StorageError as error:
            found[unit.path] = str(error)
    return found
