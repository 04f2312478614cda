"""The noise floor of a pool: what the adapters of some tasks are apart from a second adapter of the same task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from taskpgm_ray.affinity.bandwidth import NoiseFloor
from taskpgm_ray.affinity.distributed import PartOf, parts_of, probe_counts, read_part
from taskpgm_ray.affinity.jsd import jsd_matrix
from taskpgm_ray.numerics.types import FloatArray
from taskpgm_ray.runtime.missing import missing
from taskpgm_ray.runtime.progress import collect
from taskpgm_ray.runtime.run import Run
from taskpgm_ray.scoring.stage import ScoredSegment
from taskpgm_ray.storage import Unit, fingerprint

VERSION = 1


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
    scores = [[s.scores[name].path for pair in pairs for name in pair] for s in segments]
    identity = fingerprint("noise", VERSION, list(tasks), [s.unit.path for s in segments], scores)
    floor = _Floor(Unit(run.storage, f"noise/{identity}"))
    with missing(run, "noise", [floor]) as (stage, todo):
        if todo:
            import ray

            counts = probe_counts(segments, tasks)
            parts = parts_of(segments, 2 * len(pairs), run.config.affinity)
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
            divergence, distance = total.tolist()
            floor.unit.finish({"tasks": [task for task, _ in pairs], "divergence": divergence, "distance": distance})
            stage.finished(f"two adapters of one task differ by {np.mean(divergence):.4f} nats (JSD)")
    found = floor.unit.manifest()
    return NoiseFloor(tuple(found["tasks"]), tuple(found["divergence"]), tuple(found["distance"]))


def part_sums(
    part: PartOf, tasks: Sequence[str], counts: Sequence[int], pairs: Sequence[tuple[str, str]]
) -> FloatArray:
    """Of each pair of adapters, over the probes of one part: sums of divergence and of squared distance [2, m].

    Weights are those of `PoolSums`: every task counts the same, every probe of a task, every position of a probe.
    """
    sums = np.zeros((2, len(pairs)))
    found = read_part(part, tasks, [name for pair in pairs for name in pair])
    if found is None:
        return sums
    _, probe = np.unique(np.asarray(found.probe), return_inverse=True)
    length = np.bincount(probe).astype(np.float64)
    per_task = min(counts) / np.asarray(counts, dtype=np.float64)
    weights = per_task[found.task] / length[probe]
    owner = np.zeros(len(length), dtype=np.int64)
    owner[probe] = found.task
    for k in range(len(pairs)):
        two = found.adapters[2 * k : 2 * k + 2]
        sums[0, k] = jsd_matrix(two, weights, threads=1)[0, 1] * weights.sum()
        gap = np.bincount(probe, two[0, :, 0].astype(np.float64) - two[1, :, 0].astype(np.float64)) / length
        sums[1, k] = float(per_task[owner] @ gap**2)
    return sums
