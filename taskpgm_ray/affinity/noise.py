"""The noise floor of a pool: what the adapters of some tasks are apart from a second adapter of the same task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from taskpgm_ray.affinity.bandwidth import NoiseFloor
from taskpgm_ray.affinity.distributed import PartOf, parts_of, probe_counts, read_part, summed
from taskpgm_ray.affinity.jsd import jsd_rows
from taskpgm_ray.numerics.types import FloatArray
from taskpgm_ray.runtime.missing import missing
from taskpgm_ray.runtime.progress import collect
from taskpgm_ray.runtime.run import Run
from taskpgm_ray.scoring.stage import ScoredSegment
from taskpgm_ray.storage import Unit, fingerprint

VERSION = 2


@dataclass(frozen=True)
class _Floor:
    unit: Unit


def measure_noise(
    segments: Sequence[ScoredSegment], tasks: Sequence[str], seconds: Mapping[str, str], run: Run
) -> NoiseFloor:
    """The noise floor from the stored distributions; computed once per set of scores.

    Args:
        segments: All segments with the scores of all adapters, the second ones included.
        tasks: The pool, by whose probes divergences are weighted as they are between its tasks.
        seconds: Task -> name of its second adapter.
        run: Storage, cluster and progress.

    Raises:
        StorageError: Scores are missing or damaged.
        ResourceError: A part does not fit into the configured memory.
    """
    pairs = list(seconds.items())
    scores = [summed(s, tasks, [s.scores[name] for pair in pairs for name in pair]) for s in segments]
    identity = fingerprint("noise", VERSION, list(tasks), [s.unit.path for s in segments], scores)
    floor = _Floor(Unit(run.storage, f"noise/{identity}"))
    with missing(run, "noise", [floor]) as (stage, todo):
        if todo:
            import ray

            counts = probe_counts(segments, tasks)
            parts = parts_of(segments, len(tasks) + len(pairs), run.config.affinity)
            measure: Any = ray.remote(part_sums).options(num_cpus=1)
            sums: dict[int, FloatArray] = {}
            collect(
                stage,
                {measure.remote(part, list(tasks), counts, pairs): index for index, part in enumerate(parts)},
                sums.__setitem__,
                lambda: f"{len(sums)} of {len(parts)} parts of the probe set compared",
            )
            # In the parts' order, so that the sum does not depend on which of them came first.
            total = np.sum([sums[index] for index in range(len(parts))], axis=0) / (min(counts) * len(tasks))
            divergences, distance = total[:, :-1], total[:, -1]
            floor.unit.finish(
                {
                    "tasks": [task for task, _ in pairs],
                    "divergences": divergences.tolist(),
                    "distance": distance.tolist(),
                }
            )
            own = _read(floor.unit, tasks).divergence
            stage.finished(f"two adapters of one task differ by {np.mean(own):.4f} nats (JSD)")
    return _read(floor.unit, tasks)


def _read(unit: Unit, tasks: Sequence[str]) -> NoiseFloor:
    found = unit.manifest()
    rows = np.array(found["divergences"])
    own = rows[range(len(rows)), [tasks.index(task) for task in found["tasks"]]]
    return NoiseFloor(tuple(found["tasks"]), tuple(own.tolist()), tuple(found["distance"]), rows)


def part_sums(
    part: PartOf, tasks: Sequence[str], counts: Sequence[int], pairs: Sequence[tuple[str, str]]
) -> FloatArray:
    """Of each second adapter, over the probes of one part, [m, n + 1]: the sums of its divergence from each task's
    adapter, and last that of the squared distance of its profile from its own task's.

    Weights are those of `PoolSums`: every task counts the same, every probe of a task, every position of a probe.
    """
    n, m = len(tasks), len(pairs)
    sums = np.zeros((m, n + 1))
    found = read_part(part, tasks, [*tasks, *(second for _, second in pairs)])
    if found is None:
        return sums
    _, probe = np.unique(np.asarray(found.probe), return_inverse=True)
    length = np.bincount(probe).astype(np.float64)
    per_task = min(counts) / np.asarray(counts, dtype=np.float64)
    weights = per_task[found.task] / length[probe]
    owner = np.zeros(len(length), dtype=np.int64)
    owner[probe] = found.task
    first, second = found.adapters[:n], found.adapters[n:]
    sums[:, :n] = jsd_rows(found.adapters, slice(n, None), weights, threads=1)[:, :n] * weights.sum()
    for k, (task, _) in enumerate(pairs):
        mine = first[tasks.index(task), :, 0]
        gap = np.bincount(probe, mine.astype(np.float64) - second[k, :, 0].astype(np.float64)) / length
        sums[k, n] = float(per_task[owner] @ gap**2)
    return sums
