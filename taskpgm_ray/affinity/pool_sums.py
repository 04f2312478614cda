"""Everything that the affinity of a pool needs, as sums over probes that merge bit-exactly in any order.

Whole probes are added, part by part, wherever their scores are read; no sum grows with the number of probes. Every
part is rounded to whole numbers of 2^-40, so neither the number of workers nor the order of parts shows in a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.affinity.jsd import bracket
from taskpgm_ray.affinity.jsd_sums import UNIT, JSDSums
from taskpgm_ray.affinity.mutual_information import lift, pmi, profile_gram
from taskpgm_ray.errors import InputError
from taskpgm_ray.numerics.constants import LN2
from taskpgm_ray.numerics.types import FloatArray, IntArray

POSITIONS = 8
"""Positions whose divergences are computed at one time: n x 8 x 65 cells stay in the cache up to n of about 1,000."""
SUMMED = ("widening", "pmi", "lift", "answers", "gram", "coverage")
"""The matrices of `PoolSums` in units of 2^-40."""
LEAST_ANSWER = float(np.log(1e-12))
"""Log-probability of a whole answer at least, as in the paper: one that no model gives would decide everything."""


@dataclass(frozen=True)
class Part:
    """The scores of all models on some whole probes."""

    base: NDArray[np.float32]
    """[p, K] log-probabilities of the base model on the support, nats; the right answer is the first of the support."""
    adapters: NDArray[np.float32]
    """[n, p, K] the same for the adapters."""
    probe: Sequence[str]
    """[p] id of each position's probe; ids are unique over tasks."""
    task: IntArray
    """[p] index of each position's task."""


@dataclass
class PoolSums:
    """Sums over probes for n tasks, one adapter each. Rows are models, columns are tasks where the two differ.

    The weights of the divergence make every task count the same, every probe of a task the same, and every position of
    a probe the same, for all pairs of adapters alike: only then is exp(-gamma JSD) positive semidefinite.
    """

    tasks: tuple[str, ...]
    probes: tuple[int, ...]
    """Number of probes of each task in the whole probe set."""
    divergence: JSDSums
    """Sums of JSD per group of probes."""
    widening: IntArray
    """[n, n] by how much the divergence of the full distributions may exceed the sum above."""
    pmi: IntArray
    """[n, n] pointwise mutual information relative to the mean of all models."""
    lift: IntArray
    """[n, n] log-likelihood ratio to the base model, per token."""
    answers: IntArray
    """[n, n] the same of whole answers."""
    gram: IntArray
    """[n, n] inner products of the models' centred PMI profiles."""
    coverage: IntArray
    """[1 + n, n] mean mass on the support: the base model first."""
    change: FloatArray
    """[n] largest difference of any log-probability from the base model's, nats."""

    @classmethod
    def empty(cls, tasks: Sequence[str], probes: Sequence[int], identity: str = "") -> PoolSums:
        """Sums over no probe yet.

        Args:
            tasks: Names of the tasks.
            probes: Number of probes of each task in the whole probe set.
            identity: What is summed, a fingerprint of the probe set and of all scores: others are not merged with it.
        """
        n = len(tasks)
        if len(probes) != n or min(probes, default=0) < 1:
            raise InputError(f"probes must hold a positive number for each of the {n} tasks")
        sums = {name: np.zeros((1 + n if name == "coverage" else n, n), dtype=np.int64) for name in SUMMED}
        return cls(tuple(tasks), tuple(probes), JSDSums(tuple(tasks), identity), change=np.zeros(n), **sums)

    @staticmethod
    def nbytes(n: int) -> int:
        """Bytes of the sums of n tasks."""
        return 8 * n * n * (JSDSums(("one",)).buckets + len(SUMMED))

    def copy(self) -> PoolSums:
        """A copy that `add` may change."""
        d = self.divergence
        divergence = JSDSums(d.models, d.identity, d.buckets, d.sums.copy(), d.weight.copy(), d.positions)
        sums = {name: getattr(self, name).copy() for name in SUMMED}
        return PoolSums(self.tasks, self.probes, divergence, change=self.change.copy(), **sums)

    def add(self, part: Part) -> PoolSums:
        """Add some whole probes; returns self.

        Raises:
            InputError: Entries that are not log-probabilities.
        """
        n = len(self.tasks)
        names, probe = np.unique(np.asarray(part.probe), return_inverse=True)
        length = np.bincount(probe).astype(np.float64)
        owner = np.zeros(len(names), dtype=np.int64)
        owner[probe] = part.task
        # The largest weight of a position is 1, so that rounding to 2^-40 stays far below any difference that counts.
        per_task = min(self.probes) / np.array(self.probes, dtype=np.float64)
        weights = per_task[part.task] / length[probe]

        mass, gold = np.empty((1 + n, len(probe))), np.empty((1 + n, len(probe)))
        for start in range(0, len(probe), POSITIONS):
            block = slice(start, start + POSITIONS)
            self.divergence.add(part.adapters[:, block], list(part.probe[block]), weights[block])
            for rows, scores in ((slice(0, 1), part.base[None, block]), (slice(1, None), part.adapters[:, block])):
                mass[rows, block] = np.exp(scores, dtype=np.float64).sum(axis=2)
                gold[rows, block] = scores[:, :, 0]
            difference = np.abs(part.adapters[:, block] - part.base[None, block]).max(axis=(1, 2))
            np.maximum(self.change, difference, out=self.change)
        self.widening += _rounded(_widening(mass[1:], weights))

        likelihood = _by_group(gold, probe, len(names)) / length
        self.pmi += _rounded(_by_group(pmi(likelihood[1:]), owner, n))
        self.lift += _rounded(_by_group(lift(likelihood[1:], likelihood[0]), owner, n))
        whole = np.maximum(likelihood * length, LEAST_ANSWER)
        self.answers += _rounded(_by_group(lift(whole[1:], whole[0]), owner, n))
        self.gram += _rounded(profile_gram(likelihood[1:], per_task[owner]))
        self.coverage += _rounded(_by_group(mass / length[probe], part.task, n))
        return self

    def merge(self, other: PoolSums) -> PoolSums:
        """The sums of both, as a new object.

        Raises:
            InputError: The two belong to other tasks, or to another probe set.
        """
        if (self.tasks, self.probes) != (other.tasks, other.probes):
            raise InputError("these partial sums belong to different pools of tasks")
        divergence = self.divergence.merge(other.divergence)
        sums = {name: getattr(self, name) + getattr(other, name) for name in SUMMED}
        change = np.maximum(self.change, other.change)
        return PoolSums(self.tasks, self.probes, divergence, change=change, **sums)

    def upper_divergence(self) -> FloatArray:
        """Upper bound of the mean divergence of the full distributions [n, n], nats."""
        total = float(self.divergence.weight.sum())
        upper = self.divergence.matrix() + self.widening / total
        np.fill_diagonal(upper, 0.0)
        return np.asarray(np.minimum(upper, LN2))

    def mean(self, name: str) -> FloatArray:
        """Mean over the probes of each column's task of ``pmi``, ``lift``, ``answers`` (nats) or ``coverage``."""
        return np.asarray(getattr(self, name) / UNIT / np.array(self.probes, dtype=np.float64))

    def profiles(self) -> FloatArray:
        """Inner products of the centred PMI profiles [n, n], as means in which every task counts the same."""
        return np.asarray(self.gram / UNIT / (min(self.probes) * len(self.tasks)))


def _widening(mass: FloatArray, weights: FloatArray) -> FloatArray:
    """What the bracket adds to the divergence, summed over positions: it depends on the mass of the tails alone."""
    # A support of one cell has the same tails; its bracket is as wide, at a fraction of the work.
    cell = np.log(np.clip(mass, 1e-300, 1.0))[:, :, None]
    lower, upper = bracket(cell, weights, threads=1)
    return (upper - lower) * float(weights.sum())


def _by_group(values: FloatArray, group: IntArray, groups: int) -> FloatArray:
    """Sums over the columns of each group: [rows, columns] -> [rows, groups]."""
    return np.stack([np.bincount(group, row, groups) for row in values])


def _rounded(values: FloatArray) -> IntArray:
    return np.asarray(np.rint(UNIT * values).astype(np.int64))
