"""The affinity stage: divergences, PMI and the affinity matrix S of the whole pool, stored as one unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from taskpgm_ray.affinity import JSDSums, distributed, kernel, median_gamma
from taskpgm_ray.affinity.coarse import LEAST_COVERAGE
from taskpgm_ray.affinity.pmi import profile_affinity
from taskpgm_ray.config import AffinityConfig
from taskpgm_ray.errors import DamagedScoresError, InertAdapterError, StorageError
from taskpgm_ray.progress import Progress
from taskpgm_ray.storage import Storage, Unit, fingerprint

if TYPE_CHECKING:
    from taskpgm_ray.affinity.pool_sums import PoolSums
    from taskpgm_ray.scoring.stage import ScoredSegment
    from taskpgm_ray.session import Session

MATRICES = "matrices.parquet"
COVERAGE = "coverage.parquet"
GROUPS = "groups.parquet"
VERSION = 2

INERT = 1e-6
"""Largest difference in log-probability (nats) at which an adapter counts as predicting what the base predicts."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Affinity:
    """How alike the tasks' adapters behave; n tasks in the order of ``tasks``."""

    tasks: tuple[str, ...]
    divergence: Matrix
    """[n, n] mean Jensen-Shannon divergence on support and tail, nats: a lower bound of that of the full vocabulary."""
    divergence_upper: Matrix
    """[n, n] the upper bound, nats."""
    divergence_se: Matrix
    """[n, n] standard error of ``divergence``."""
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
        DamagedScoresError: Scores are missing or damaged; ``units`` names them.
        ResourceError: The job does not fit into the configured memory.
    """
    identity = fingerprint(
        "affinity",
        VERSION,
        list(tasks),
        [[s.base.path, *(s.adapters[t].path for t in tasks)] for s in segments],
        [config.kind, config.gamma],
    )
    unit = affinity_unit(storage, identity)
    with progress.stage("affinity", 1, int(unit.done())) as stage:
        if not unit.done():
            import ray

            session.connect()
            try:
                sums = distributed.pool_sums(
                    segments,
                    tasks,
                    config,
                    lambda done, total: stage.note(f"{done} of {total} parts of the probe set compared"),
                )
                facts = ray.get(ray.remote(store).options(num_cpus=1).remote(unit, sums, config))
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, StorageError):
                    raise _damage(segments, error.cause) from error
                raise error.cause from error
            stage.finished(f"JSD and PMI of {len(tasks)} adapters on {facts['probes']} probes")
    affinity = _read(unit, tuple(tasks), identity)
    if low := coverage_warning(affinity):
        progress.console.print(f"  [yellow]{low}[/]", soft_wrap=True, highlight=False)
    return affinity


def affinity_unit(storage: Storage, identity: str) -> Unit:
    """Where an affinity lies, by its fingerprint."""
    return Unit(storage, f"affinity/{identity}")


def store(unit: Unit, sums: PoolSums, config: AffinityConfig) -> dict[str, object]:
    """Turn the sums of the pool into its matrices and write them; returns the unit's manifest.

    Raises:
        InertAdapterError: An adapter predicts exactly what the base model predicts.
    """
    tasks = sums.tasks
    inert = [name for name, change in zip(tasks, sums.change, strict=True) if change <= INERT]
    if inert:
        raise InertAdapterError(
            f"the adapters of {', '.join(inert)} predict exactly what the base model predicts: either the engine does "
            "not apply them, or they learned nothing (learning rate, number of steps)"
        )
    divergence = sums.divergence.matrix()
    gamma = (config.gamma or median_gamma(divergence)) if config.kind == "jsd" else None
    S = profile_affinity(sums.profiles()) if gamma is None else kernel(divergence, gamma)
    n = len(tasks)
    square = {
        "divergence": divergence,
        "divergence_upper": sums.upper_divergence(),
        "divergence_se": sums.divergence.standard_errors(),
        "pmi": sums.mean("pmi"),
        "lift": sums.mean("lift"),
        "affinity": S,
    }
    pairs = _pairs(tasks, *(grid.ravel() for grid in np.indices((n, n))))
    unit.files.write_table(MATRICES, pa.table(pairs | {name: matrix.ravel() for name, matrix in square.items()}))
    lower = np.tril_indices(n, -1)
    groups = {f"group_{g}": group[lower] for g, group in enumerate(sums.divergence.sums)}
    unit.files.write_table(GROUPS, pa.table(_pairs(tasks, *lower) | groups))
    coverage = sums.mean("coverage")
    unit.files.write_table(COVERAGE, pa.table({name: coverage[:, i] for i, name in enumerate(tasks)}))
    manifest: dict[str, object] = {
        "schema": f"affinity/{VERSION}",
        "tasks": list(tasks),
        "kind": config.kind,
        "gamma": gamma,
        "probes": sum(sums.probes),
        "positions": sums.divergence.positions,
        "group_weights": sums.divergence.weight.tolist(),
    }
    unit.finish(manifest)
    return manifest


def divergence_groups(unit: Unit) -> JSDSums:
    """The sums of divergences per group of probes: what a bootstrap or jackknife over probes draws from."""
    manifest = unit.manifest()
    tasks, weight = manifest["tasks"], np.array(manifest["group_weights"], dtype=np.int64)
    table = unit.files.read_table(GROUPS)
    sums = np.zeros((len(weight), len(tasks), len(tasks)), dtype=np.int64)
    lower = np.tril_indices(len(tasks), -1)
    for g in range(len(weight)):
        sums[g][lower] = table[f"group_{g}"].to_numpy()
    return JSDSums(tuple(tasks), "", len(weight), sums, weight, manifest["positions"])


def coverage_warning(affinity: Affinity) -> str:
    """A sentence when a mean coverage is below `LEAST_COVERAGE`, else nothing."""
    low = affinity.coverage < LEAST_COVERAGE
    if not low.any():
        return ""
    row, column = np.unravel_index(int(affinity.coverage.argmin()), affinity.coverage.shape)
    worst = "the base model" if row == 0 else f"the adapter of {affinity.tasks[int(row) - 1]}"
    return (
        f"coverage is below {LEAST_COVERAGE:.0%} for {int(low.sum())} of {low.size} pairs of model and task, least "
        f"{affinity.coverage.min():.1%} ({worst} on {affinity.tasks[int(column)]}); the report gives bounds of each "
        "divergence"
    )


def _damage(segments: Sequence[ScoredSegment], error: StorageError) -> StorageError:
    """Name every damaged unit; the error itself when the scores are whole."""
    import ray

    find = ray.remote(distributed.damaged).options(num_cpus=1)
    found: dict[str, str] = {}
    for part in ray.get([find.remote(segment) for segment in segments]):
        found |= part
    return DamagedScoresError("; ".join(found.values()), tuple(found)) if found else error


def _pairs(tasks: Sequence[str], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> dict[str, pa.Array]:
    """Columns ``row`` and ``column`` with the names of the tasks."""
    return {
        name: pa.DictionaryArray.from_arrays(pa.array(index.astype(np.int32)), pa.array(list(tasks)))
        for name, index in (("row", rows), ("column", columns))
    }


def _read(unit: Unit, tasks: tuple[str, ...], identity: str) -> Affinity:
    manifest, n = unit.manifest(), len(tasks)
    table = unit.files.read_table(MATRICES)
    coverage = unit.files.read_table(COVERAGE)

    def square(name: str) -> Matrix:
        return np.asarray(table[name].to_numpy().reshape(n, n))

    return Affinity(
        tasks=tasks,
        divergence=square("divergence"),
        divergence_upper=square("divergence_upper"),
        divergence_se=square("divergence_se"),
        pmi=square("pmi"),
        S=square("affinity"),
        gamma=manifest["gamma"],
        coverage=np.stack([coverage[name].to_numpy() for name in tasks], axis=1),
        kind=manifest["kind"],
        fingerprint=identity,
    )
