"""The unit of the affinity stage: sums over the probes, written once and read back (docs/storage.md)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from taskpgm_ray.affinity.affinities import Affinities
from taskpgm_ray.affinity.jsd_sums import JSDSums
from taskpgm_ray.affinity.pool_sums import PoolSums
from taskpgm_ray.errors import InertAdapterError
from taskpgm_ray.storage import Unit

MATRICES = "matrices.parquet"
COVERAGE = "coverage.parquet"
GROUPS = "groups.parquet"
VERSION = 5

INERT = 1e-6
"""Largest difference in log-probability (nats) at which an adapter counts as predicting what the base predicts."""


def store(unit: Unit, sums: PoolSums) -> dict[str, object]:
    """Write the sums of the pool; returns the unit's manifest.

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
    n = len(tasks)
    square = {
        "divergence": sums.divergence.matrix(),
        "divergence_upper": sums.upper_divergence(),
        "divergence_se": sums.divergence.standard_errors(),
        "pmi": sums.mean("pmi"),
        "gram": sums.profiles(),
        "lift": sums.mean("lift"),
        "answers": sums.mean("answers"),
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
        "probes": sum(sums.probes),
        "positions": sums.divergence.positions,
        "group_weights": sums.divergence.weight.tolist(),
    }
    unit.finish(manifest)
    return manifest


def read(unit: Unit, fingerprint: str) -> Affinities:
    """What `store` wrote."""
    manifest = unit.manifest()
    tasks = tuple(manifest["tasks"])
    table, coverage, n = unit.files.read_table(MATRICES), unit.files.read_table(COVERAGE), len(tasks)

    def square(name: str) -> NDArray[np.float64]:
        return np.asarray(table[name].to_numpy().reshape(n, n))

    return Affinities(
        tasks=tasks,
        divergence=square("divergence"),
        divergence_upper=square("divergence_upper"),
        divergence_se=square("divergence_se"),
        pmi=square("pmi"),
        gram=square("gram"),
        lift=square("lift"),
        answers=square("answers"),
        coverage=np.stack([coverage[name].to_numpy() for name in tasks], axis=1),
        fingerprint=fingerprint,
        probes=manifest["probes"],
    )


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


def _pairs(tasks: Sequence[str], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> dict[str, pa.Array]:
    """Columns ``row`` and ``column`` with the names of the tasks."""
    return {
        name: pa.DictionaryArray.from_arrays(pa.array(index.astype(np.int32)), pa.array(list(tasks)))
        for name, index in (("row", rows), ("column", columns))
    }
