"""How many probes are enough: `scoring.probes: adaptive` at several precisions, against all probes.

Simulated pools as in `bandwidth`: 0.16 nats between data sets, 0.02 between two adapters of one. Each probe weighs the
dimensions in its own way, and the probes of one task have some of it in common; the standard deviation of a pair's
divergence is then 0.4 of it between the means of tasks and 0.3 within a task, as on real pools. Ours is the total
variation between the mixture at tau = 0.5 and that of all probes; the peer is what another seed of every fine-tune does
to the latter.
Means of `POOLS` pools. A last row a pool holds the standard error against the error that is made [nats]: what the
probes of a task have in common counts as chance in the one, as probes are grouped whatever their task, and not in the
other.

With ``TASKPGM_BENCH_STUDY`` naming the folder of a study, the same of its stored scores: its probes in `ORDERS` random
orders. Second adapters are needed, and nothing is scored.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from jobs.benchmarks._common import row
from taskpgm_ray.affinity.bandwidth import noise_kernel
from taskpgm_ray.affinity.distributed import PartOf, read_part
from taskpgm_ray.affinity.jsd import jsd_matrix
from taskpgm_ray.affinity.precision import LEAST_PROBES, precision
from taskpgm_ray.affinity.standard_errors import jackknife
from taskpgm_ray.config import ScoringConfig
from taskpgm_ray.mrf import solve
from taskpgm_ray.scoring.score import BASE
from taskpgm_ray.scoring.stage import ScoredSegment
from taskpgm_ray.storage import Storage, Unit

DIMENSIONS, POOLS, ORDERS, GROUPS = 60, 20, 50, 20
BETWEEN, FLOOR = 0.16, 0.02
"""Nats."""
KEPT, START, LOOKED_AT, TAU = 64, 4, 16, 0.5
PRECISIONS = (0.3, 0.2, 0.15, 0.1, 0.05)
OF_TASKS, OF_PROBES = 0.25, 2.2
"""Shapes of the gamma distributions of weights."""
SHAPES = {
    "14 data sets": [1] * 14,
    "10 data sets, one four times, one twice": [4, 2, *[1] * 8],
    "24 data sets, four of them five times": [5, 5, 5, 5, *[1] * 20],
}


@dataclass(frozen=True)
class Measured:
    """What n adapters and second ones of some tasks give on each probe."""

    values: np.ndarray
    """[tasks, probes, q]"""
    divergences: Callable[[np.ndarray], np.ndarray]
    """Means of values [..., q] -> divergences [..., n + m, n + m], nats; second adapters last."""
    seconds: list[int]
    """[m] the tasks that have one."""
    group: np.ndarray
    """[tasks, probes] of the jackknife."""
    expected: np.ndarray | None = None
    """[q] the mean of ever more probes of these tasks, where it is known."""

    def look(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Divergences by the first ``count`` probes of each task, and their standard errors."""
        chosen, group = self.values[:, :count], self.group[:, :count]
        sums = np.stack([chosen[group == g].sum(axis=0) for g in range(GROUPS)])
        weight = np.bincount(group.ravel(), minlength=GROUPS)
        filled = weight > 0
        without = (sums.sum(axis=0) - sums[filled]) / (weight.sum() - weight[filled])[:, None]
        return self.divergences(sums.sum(axis=0) / weight.sum()), jackknife(self.divergences(without))

    def until(self, wanted: float) -> tuple[int, np.ndarray]:
        """Probes of each task until this precision, and the divergences by them."""
        tasks, kept, _ = self.values.shape
        for count in ScoringConfig(probes="adaptive", probes_start=START).rounds(kept):
            D, error = self.look(count)
            reached = precision(D[:tasks, :tasks], error[:tasks, :tasks])
            if count == kept or (tasks * count >= LEAST_PROBES and reached.ratio <= wanted):
                return count, D
        raise AssertionError("the last round has all probes")

    def mixture(self, D: np.ndarray) -> np.ndarray:
        """The weights at `TAU` by the noise rule."""
        n = len(self.values)
        return solve(noise_kernel(D[:n, :n], D[range(n, len(D)), self.seconds]).S, TAU).weights


def run():
    """A row per pool and precision."""
    rng = np.random.default_rng(0)
    rows = []
    for what, shape in SHAPES.items():
        pools = [simulated(rng, shape) for _ in range(POOLS)]
        rows += rows_of(what, [one for one, _ in pools], [_apart(*both) for both in pools])
        made, said = np.mean([errors(one) for one, _ in pools], axis=0)
        rows.append(row(f"{what}: error of a divergence by {LOOKED_AT} probes a task", made, said, "standard error"))
    if folder := os.environ.get("TASKPGM_BENCH_STUDY"):
        stored = of_study(Storage(folder))
        orders = [shuffled(stored, rng) for _ in range(ORDERS)]
        rows += rows_of(f"study {folder.rstrip('/').rpartition('/')[2]}", orders, [])
    return rows


def rows_of(what: str, pools: list[Measured], luck: list[float]) -> list[dict[str, object]]:
    """Means over the pools for every precision."""
    n, kept, _ = pools[0].values.shape
    pairs, whole = np.triu_indices(n, 1), [pool.look(kept)[0] for pool in pools]
    rows = []
    for wanted in PRECISIONS:
        found = []
        for pool, D in zip(pools, whole, strict=True):
            count, fewer = pool.until(wanted)
            apart = np.abs(pool.mixture(fewer) - pool.mixture(D)).sum() / 2
            found.append((count, spearmanr(fewer[pairs], D[pairs]).statistic, apart))
        used, correlation, apart = np.mean(found, axis=0)
        text = f"{what}, {wanted:g}: {used:.1f} of {kept} probes a task, rank correlation {correlation:.4f}"
        rows.append(row(text, float(apart), float(np.mean(luck)) if luck else None, "another seed" if luck else None))
    return rows


def errors(pool: Measured) -> tuple[float, float]:
    """(error made, its standard error) by `LOOKED_AT` probes of each task, root mean squares over pairs, nats."""
    n, D, said = len(pool.values), *pool.look(LOOKED_AT)
    assert pool.expected is not None
    pairs = np.triu_indices(n, 1)
    made = D - pool.divergences(pool.expected)
    return float(np.sqrt(np.mean(made[pairs] ** 2))), float(np.sqrt(np.mean(said[pairs] ** 2)))


def simulated(rng: np.random.Generator, shape: list[int]) -> tuple[Measured, Measured]:
    """A pool, and the same with another seed of every fine-tune."""
    places = np.repeat(rng.normal(size=(len(shape), DIMENSIONS)) * np.sqrt(BETWEEN / 2 / DIMENSIONS), shape, axis=0)
    n = len(places)
    of_tasks = rng.gamma(OF_TASKS, 1 / OF_TASKS, (n, 1, DIMENSIONS))
    weights = of_tasks * rng.gamma(OF_PROBES, 1 / OF_PROBES, (n, KEPT, DIMENSIONS))
    group, seconds = rng.integers(0, GROUPS, (n, KEPT)), [0, n // 3, 2 * n // 3, n - 1]
    spread = np.sqrt(FLOOR * np.exp(0.3 * rng.normal(size=n)) / 2 / DIMENSIONS)[:, None]
    made = []
    for _ in range(2):
        first, second = (places + spread * rng.normal(size=places.shape) for _ in range(2))
        adapters = np.concatenate([first, second[seconds]])
        made.append(Measured(weights, _weighted(adapters), seconds, group, of_tasks.mean(axis=(0, 1))))
    return made[0], made[1]


def _weighted(adapters: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    def divergences(weights: np.ndarray) -> np.ndarray:
        scaled = adapters * np.sqrt(weights)[..., None, :]
        squares = (scaled**2).sum(axis=-1)
        inner = scaled @ np.swapaxes(scaled, -1, -2)
        return np.maximum(squares[..., :, None] + squares[..., None, :] - 2 * inner, 0.0)

    return divergences


def _apart(one: Measured, other: Measured) -> float:
    mixtures = [pool.mixture(pool.look(KEPT)[0]) for pool in (one, other)]
    return float(np.abs(mixtures[0] - mixtures[1]).sum() / 2)


def of_study(study: Storage) -> Measured:
    """The stored scores of a study's largest segment; a task has as many probes there as the one with the fewest."""
    segments = [Unit(study, f"segments/{d}/{s}") for d in study.names("segments") for s in study.names(f"segments/{d}")]
    unit = max(segments, key=lambda one: len(one.manifest()["tasks"]))
    tasks, folder = unit.manifest()["tasks"], f"scores/{unit.path.rpartition('/')[2]}"
    scores = {name.rpartition("-")[0]: Unit(study, f"{folder}/{name}") for name in study.names(folder)}
    segment = ScoredSegment(unit, scores.pop(BASE), scores, tuple(tasks))
    seconds = [i for i, task in enumerate(tasks) if f"{task}@second" in scores]
    adapters = [*tasks, *(f"{tasks[i]}@second" for i in seconds)]
    part = read_part(PartOf(segment, 0, unit.manifest()["positions"]), tasks, adapters)
    assert part is not None
    found: list[list[np.ndarray]] = [[] for _ in tasks]
    for probe in dict.fromkeys(part.probe):
        rows = [i for i, name in enumerate(part.probe) if name == probe]
        found[part.task[rows[0]]].append(jsd_matrix(part.adapters[:, rows], threads=1).ravel())
    kept = min(map(len, found))
    values = np.array([probes[:kept] for probes in found])
    size = len(adapters)
    group = np.random.default_rng(0).integers(0, GROUPS, values.shape[:2])
    return Measured(values, lambda means: means.reshape(*means.shape[:-1], size, size), seconds, group)


def shuffled(stored: Measured, rng: np.random.Generator) -> Measured:
    """Its probes in another order and in other groups."""
    values = np.array([rng.permutation(probes) for probes in stored.values])
    return Measured(values, stored.divergences, stored.seconds, rng.integers(0, GROUPS, stored.group.shape))
