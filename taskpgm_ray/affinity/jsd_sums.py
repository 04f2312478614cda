"""Partial sums of divergences that merge bit-exactly, in any order and from any division into shards."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from taskpgm_ray.affinity import jsd_kernel
from taskpgm_ray.affinity.distributions import check_logprobs, with_tail
from taskpgm_ray.affinity.jsd import thread_count
from taskpgm_ray.affinity.standard_errors import jackknife
from taskpgm_ray.errors import InputError
from taskpgm_ray.numerics.types import FloatArray, IntArray

UNIT = 2.0**40
"""Whole numbers per nat: one term is rounded by at most 4.5e-13, and 2^23 terms of one nat fit."""


def bucket_of(example: object, buckets: int) -> int:
    """The bucket of an example id: a hash, so that it depends on nothing else."""
    digest = hashlib.blake2b(str(example).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % buckets


@dataclass
class JSDSums:
    """Sums of weight * JSD for every pair of models and every bucket of examples, in int64 fixed point.

    Every position adds round(2^40 * weight * JSD), so the sums do not depend on the order or the grouping of positions
    (between processors of different vector width the JSD of a position may differ in its last bit, and a sum by units).
    The buckets hold whole examples (chosen by the hash of the example's id) and are the units of the delete-a-group
    jackknife.
    """

    models: tuple[str, ...]
    """Names of the models, in the order of the rows."""
    identity: str = ""
    """What the divergences depend on besides the models: a fingerprint of the probe set, weights and supports."""
    buckets: int = 20
    sums: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64), repr=False)
    """[buckets, n, n], lower triangle, units of 2^-40 nats."""
    weight: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64), repr=False)
    """[buckets], units of 2^-40."""
    positions: int = 0
    """Number of positions added."""

    def __post_init__(self) -> None:
        """Fill in empty sums."""
        self.models = tuple(self.models)
        n = len(self.models)
        if n == 0 or len(set(self.models)) != n:
            raise InputError("models must be different names, at least one")
        if self.buckets < 2:
            raise InputError(f"at least 2 buckets are needed for a jackknife, got {self.buckets}")
        if self.sums.size == 0:
            self.sums = np.zeros((self.buckets, n, n), dtype=np.int64)
        if self.weight.size == 0:
            self.weight = np.zeros(self.buckets, dtype=np.int64)

    def add(
        self,
        logprobs: npt.ArrayLike,
        examples: Sequence[object],
        weights: npt.ArrayLike | None = None,
        *,
        threads: int | None = 1,
    ) -> JSDSums:
        """Add a block of probe positions; returns self.

        Args:
            logprobs: [n, p, K], nats, without the tail; models in the order of ``models``.
            examples: id of the example of each position [p].
            weights: weight of each position [p], in [0, 1]; 1 if None. Weights need not sum to 1, but those of one
                position must be the same wherever it is added.
            threads: rows computed at the same time; None: all cores.

        Raises:
            InputError: wrong shapes or weights, or entries that are not log-probabilities.
        """
        array = check_logprobs(logprobs, len(self.models))
        count = array.shape[1]
        if len(examples) != count:
            raise InputError(f"examples must have one id a position ({count}), got {len(examples)}")
        w = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
        if w.shape != (count,) or not ((w >= 0) & (w <= 1)).all():
            raise InputError(f"weights must be {count} numbers in [0, 1], one a position")
        known = {e: bucket_of(e, self.buckets) for e in set(examples)}
        bucket = np.array([known[e] for e in examples], dtype=np.int64)
        several = min(thread_count(threads), len(self.models))
        size = max(1, 16 * jsd_kernel.TILE // (array.shape[2] + 1))
        with ThreadPoolExecutor(several) as pool:
            for start in range(0, count, size):
                part = slice(start, start + size)
                halves = with_tail(array[:, part], start)
                halves *= 0.5
                np.maximum(halves, jsd_kernel.TINY, out=halves)
                rows = partial(jsd_kernel.add_positions, halves, w[part], bucket[part], UNIT, self.sums, step=several)
                list(pool.map(rows, range(several)))
        np.add.at(self.weight, bucket, np.rint(UNIT * w).astype(np.int64))
        self.positions += count
        return self

    def merge(self, other: JSDSums) -> JSDSums:
        """The sums of both, as a new object.

        Raises:
            InputError: the two were computed for other models, another probe set or another number of buckets.
        """
        for name in ("models", "identity", "buckets"):
            if getattr(self, name) != getattr(other, name):
                raise InputError(
                    f"these partial sums do not belong together: {name} is {getattr(self, name)!r} in one and "
                    f"{getattr(other, name)!r} in the other; all pairs must be compared on the same probes and supports"
                )
        return JSDSums(
            models=self.models,
            identity=self.identity,
            buckets=self.buckets,
            sums=self.sums + other.sums,
            weight=self.weight + other.weight,
            positions=self.positions + other.positions,
        )

    def matrix(self) -> FloatArray:
        """Weighted mean JSD [n, n], nats."""
        return self._mean(self.sums.sum(axis=0), int(self.weight.sum()))

    def leave_one_bucket_out(self) -> FloatArray:
        """The matrix without each non-empty bucket [G, n, n]: the replicates of the jackknife.

        Raises:
            InputError: fewer than two buckets have examples.
        """
        filled = np.flatnonzero(self.weight > 0)
        if len(filled) < 2:
            raise InputError(f"{len(filled)} bucket has examples, the jackknife needs two: use more probe examples")
        sums, weight = self.sums.sum(axis=0), int(self.weight.sum())
        return np.stack([self._mean(sums - self.sums[g], weight - int(self.weight[g])) for g in filled])

    def standard_errors(self) -> FloatArray:
        """Delete-a-group jackknife standard errors of ``matrix`` [n, n], nats."""
        return jackknife(self.leave_one_bucket_out())

    def _mean(self, sums: IntArray, weight: int) -> FloatArray:
        if weight <= 0:
            raise InputError("no position with positive weight has been added")
        lower = sums / float(weight)
        return np.asarray(lower + lower.T)
