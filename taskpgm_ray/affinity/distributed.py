"""The affinity job: stored distributions -> divergences and PMI, one Ray task a segment, one small reduce.

The weights make every task count the same, every probe of a task the same, and every position of a probe the same,
for all pairs of adapters alike: with a common probe set and common weights the kernel is positive semidefinite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from taskpgm_ray.affinity import JSDSums
from taskpgm_ray.errors import InertAdapterError
from taskpgm_ray.scoring.score import read_positions, read_scores
from taskpgm_ray.scoring.stage import ScoredSegment

INERT = 1e-6
"""Largest difference in log-probability (nats) at which an adapter counts as predicting what the base predicts."""


@dataclass(frozen=True)
class Sums:
    """What one segment contributes; sums over segments are what the whole probe set gives."""

    divergence: JSDSums
    """Fixed-point sums of JSD, per group of probes: equal bit for bit whatever the order of segments."""
    gold: NDArray[np.float64]
    """[1 + n, probes] per-token mean log-probability of the right answer: the base model first."""
    owner: NDArray[np.int64]
    """[probes] index of each probe's task."""
    coverage: NDArray[np.float64]
    """[1 + n, n] sums over probes of the mean mass on the support, by the probe's task: the base model first."""
    probes: NDArray[np.float64]
    """[n] number of probes of each task."""
    change: NDArray[np.float64]
    """[n] largest difference of any log-probability from the base model's, nats."""


def segment_sums(segment: ScoredSegment, tasks: Sequence[str]) -> Sums:
    """The contribution of one segment. Blocks of tasks that are no longer in the pool are passed over."""
    index = {name: i for i, name in enumerate(tasks)}
    table = read_positions(segment.unit, ["task", "probe"])
    inside = np.array([task in index for task in table["task"].to_pylist()])
    task = np.array([index.get(name, -1) for name in table["task"].to_pylist()])[inside]
    names, probe = np.unique(np.array(table["probe"].to_pylist())[inside], return_inverse=True)
    base = read_scores(segment.base)[inside]
    scores = np.stack([read_scores(segment.adapters[name])[inside] for name in tasks])

    owner = np.zeros(len(names), dtype=np.int64)
    owner[probe] = task
    per_probe = np.bincount(probe, minlength=len(names)).astype(np.float64)
    per_task = np.bincount(owner, minlength=len(tasks)).astype(np.float64)
    weights = 1.0 / (per_probe[probe] * per_task[task])

    divergence = JSDSums(tuple(tasks)).add(scores, names[probe].tolist(), weights)
    everyone = np.concatenate([base[None], scores]).astype(np.float64)
    # The gold token is the first of every support.
    gold = np.stack([np.bincount(probe, row, len(names)) for row in everyone[:, :, 0]]) / per_probe
    mass = np.exp(everyone).sum(axis=2) / per_probe[probe]
    coverage = np.stack([np.bincount(task, row, len(tasks)) for row in mass]).astype(np.float64)
    change = np.abs(scores - base).max(axis=(1, 2)).astype(np.float64)
    return Sums(divergence, gold, owner, coverage, per_task, change)


def affinity_sums(segments: Sequence[ScoredSegment], tasks: Sequence[str]) -> Sums:
    """The contributions of all segments, computed in parallel and added up in the segments' order."""
    import ray

    remote = ray.remote(segment_sums).options(num_cpus=0.5)
    parts: list[Sums] = ray.get([remote.remote(segment, list(tasks)) for segment in segments])
    return Sums(
        divergence=reduce(JSDSums.merge, (part.divergence for part in parts)),
        gold=np.concatenate([part.gold for part in parts], axis=1),
        owner=np.concatenate([part.owner for part in parts]),
        coverage=np.sum([part.coverage for part in parts], axis=0),
        probes=np.sum([part.probes for part in parts], axis=0),
        change=np.max([part.change for part in parts], axis=0),
    )


def check_adapters(sums: Sums, tasks: Sequence[str]) -> None:
    """Raise `InertAdapterError` when an adapter predicts what the base model predicts, at every position."""
    inert = [name for name, change in zip(tasks, sums.change, strict=True) if change <= INERT]
    if inert:
        raise InertAdapterError(
            f"the adapters of {', '.join(inert)} predict exactly what the base model predicts: either the engine does "
            "not apply them, or they learned nothing (learning rate, number of steps)"
        )


def matrix_table(tasks: Sequence[str], **matrices: NDArray[np.float64]) -> pa.Table:
    """Square matrices over the tasks as one Parquet table: a row per pair."""
    n = len(tasks)
    columns: dict[str, Any] = {
        "row": np.repeat(np.array(tasks, dtype=object), n).tolist(),
        "column": list(tasks) * n,
    }
    return pa.table(columns | {name: matrix.ravel() for name, matrix in matrices.items()})
