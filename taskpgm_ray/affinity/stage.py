"""The affinity stage: divergences, PMI and the affinity matrix S of the whole pool, stored as one small unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from taskpgm_ray.affinity import distributed
from taskpgm_ray.config import AffinityConfig
from taskpgm_ray.progress import Progress
from taskpgm_ray.storage import Storage, Unit, fingerprint

if TYPE_CHECKING:
    from taskpgm_ray.scoring.stage import ScoredSegment
    from taskpgm_ray.session import Session

MATRICES = "matrices.parquet"
COVERAGE = "coverage.parquet"
VERSION = 1

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Affinity:
    """How alike the tasks' adapters behave; n tasks in the order of ``tasks``."""

    tasks: tuple[str, ...]
    divergence: Matrix
    """[n, n] mean Jensen-Shannon divergence, nats."""
    divergence_se: Matrix
    """[n, n] its standard error."""
    pmi: Matrix
    """[n, n] pointwise mutual information, nats: row model, column task's probes."""
    S: Matrix
    """[n, n] affinity, symmetric and positive semidefinite."""
    gamma: float | None
    """Bandwidth of the kernel per nat; ``None`` for the PMI affinity."""
    coverage: Matrix
    """[1 + n, n] mean mass on the support: the base model first, then the adapters; by the probes' task."""
    kind: str
    fingerprint: str


def compute_affinity(
    segments: Sequence[ScoredSegment],
    tasks: Sequence[str],
    config: AffinityConfig,
    storage: Storage,
    session: Session,
    progress: Progress,
) -> Affinity:
    """The affinity of the pool from the stored distributions; computed once per set of scores.

    Raises:
        InertAdapterError: An adapter predicts exactly what the base model predicts.
    """
    identity = fingerprint(
        "affinity",
        VERSION,
        list(tasks),
        [[s.base.path, *(s.adapters[t].path for t in tasks)] for s in segments],
        config,
    )
    unit = Unit(storage, f"affinity/{identity}")
    with progress.stage("affinity", 1, int(unit.done())) as stage:
        if not unit.done():
            session.connect()
            sums = distributed.affinity_sums(segments, tasks)
            distributed.check_adapters(sums, tasks)
            _store(unit, sums, tasks, config)
            stage.finished(f"JSD and PMI of {len(tasks)} adapters on {sums.gold.shape[1]} probes")
    return _read(unit, tuple(tasks), identity)


def _store(unit: Unit, sums: distributed.Sums, tasks: Sequence[str], config: AffinityConfig) -> None:
    from taskpgm_ray.affinity import kernel, median_gamma, pmi_matrix, pmi_profile

    divergence = sums.divergence.matrix()
    gold, base = sums.gold[1:], sums.gold[0]
    if config.kind == "jsd":
        gamma = config.gamma or median_gamma(divergence)
        affinity = kernel(divergence, gamma)
    else:
        gamma, affinity = None, pmi_profile(gold, sums.owner)
    unit.files.write_table(
        MATRICES,
        distributed.matrix_table(
            tasks,
            divergence=divergence,
            divergence_se=sums.divergence.standard_errors(),
            pmi=pmi_matrix(gold, sums.owner),
            lift=pmi_matrix(gold, sums.owner, base),
            affinity=affinity,
        ),
    )
    coverage = sums.coverage / sums.probes
    unit.files.write_table(COVERAGE, pa.table({name: coverage[:, i] for i, name in enumerate(tasks)}))
    unit.finish({"tasks": list(tasks), "kind": config.kind, "gamma": gamma, "probes": int(sums.probes.sum())})


def _read(unit: Unit, tasks: tuple[str, ...], identity: str) -> Affinity:
    manifest, n = unit.manifest(), len(tasks)
    table = unit.files.read_table(MATRICES)
    square = {name: table[name].to_numpy().reshape(n, n) for name in ("divergence", "divergence_se", "pmi", "affinity")}
    coverage = unit.files.read_table(COVERAGE)
    return Affinity(
        tasks=tasks,
        divergence=square["divergence"],
        divergence_se=square["divergence_se"],
        pmi=square["pmi"],
        S=square["affinity"],
        gamma=manifest["gamma"],
        coverage=np.stack([coverage[name].to_numpy() for name in tasks], axis=1),
        kind=manifest["kind"],
        fingerprint=identity,
    )
