"""What each task contributes to a mixture, in numbers and in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from taskpgm_ray.insight.certainty import Certainty
from taskpgm_ray.mrf import Influence, clusters, drop_task, influence, sensitivity_factors
from taskpgm_ray.mrf.mixture import Mixture
from taskpgm_ray.mrf.solvers.problem import Problem
from taskpgm_ray.mrf.task_influence import problem_of
from taskpgm_ray.numerics.types import FloatArray, IntArray
from taskpgm_ray.search.gain import Gain

PARTNERS = 3
MOST_DROPPED = 60
"""Tasks, the heaviest, of which it is worked out who would get their share and which affinities it hangs on."""
MOST_CLUSTERS = 12
STEP = 0.01
"""Of an affinity, for how much a weight hangs on it."""


@dataclass(frozen=True)
class TaskInsight:
    """One task of a mixture. Energies in units of lambda."""

    name: str
    weight: float
    low: float | None
    """Interval of the weight; ``None`` where the certainty is not known."""
    high: float | None
    inclusion: float | None
    """How probable it is that the task has weight, were the probes drawn anew."""
    representativeness: float
    """Its share of the utility part of the energy; with the next it adds up to the energy."""
    redundancy: float
    """Its share of the redundancy part."""
    novelty: float | None
    """Squared distance from what the other tasks of the mixture span, in units of S; ``None``: no others are free."""
    drop_cost: float | None
    """How far the least energy rises without it; ``None``: the constraints forbid it."""
    break_even: float | None
    """How far its utility has to rise until it enters; 0 of what has weight. ``None``: no rise is enough, as its limit
    is 0 or utility does not count (tau = 0)."""
    enters: float | None
    """The smallest balance at which it has weight; ``None``: never, or not known, as the number of tasks is limited."""
    leaves: float | None
    """The largest one; ``None``: never leaves, or never enters."""
    covered_by: tuple[tuple[str, float, float], ...]
    """(task, affinity, weight) of those of the mixture that are most like it."""
    gainers: tuple[tuple[str, float], ...]
    """(task, weight more) of those that its share would go to if it were dropped; of the heaviest tasks only."""
    hangs_on: tuple[tuple[str, str, float], ...]
    """(task, task, change): the affinities that move its weight most, and by how much where one is 0.01 higher; of the
    heaviest tasks only."""
    helps_others: float | None
    """Mean lift of its adapter on the other tasks' probes, in nats."""
    search_lift: float | None
    """What its adapter alone gains on the search split, in the search's metric; ``None``: not measured."""
    search_lift_error: float | None
    """Standard error of that, over items."""
    cluster: int
    sentence: str


@dataclass(frozen=True)
class ClusterInsight:
    """Tasks that behave alike, and their share together, which is better known than its split."""

    tasks: tuple[str, ...]
    weight: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Insight:
    """All of it; written to ``insight.json``."""

    tau: float
    groups: int
    """Groups of probes that the intervals rest on; 0: there are none."""
    fine_tunes: int
    """Second fine-tunes that they rest on; 0: they are over the probes alone."""
    tasks: tuple[TaskInsight, ...]
    clusters: tuple[ClusterInsight, ...]
    undecided: int
    """Pairs of tasks whose weights cannot be told apart."""
    uniform: bool
    """Whether the data do not distinguish the mixture from uniform."""
    certainty: str
    """What the data say of the mixture as a whole."""

    def as_json(self) -> dict[str, Any]:
        """Plain values, without infinities, which JSON does not have."""
        return asdict(self)


def explain(
    names: Sequence[str],
    S: FloatArray,
    mixture: Mixture,
    known: Certainty | None,
    lift: FloatArray | None = None,
    search_lift: Gain | None = None,
) -> Insight:
    """What a mixture says of each task.

    Args:
        names: Of the n tasks.
        S: [n, n] that the mixture was solved with.
        mixture: A result of ``solve``.
        known: How sure its weights are.
        lift: [n, n], of each adapter (row) on each task's probes, in nats.
        search_lift: Of each adapter on the search split.
    """
    n, p = len(names), mixture.weights
    grouped = clusters(S, p, count=min(n, max(1, min(MOST_CLUSTERS, round(float(np.sqrt(2 * n)))))))
    view = _View(names, S, mixture, influence(S, mixture), known, lift, search_lift, grouped.label)
    rows = tuple(view.task(i) for i in range(n))
    together = []
    for k in range(len(grouped.mass)):
        members = np.flatnonzero(grouped.label == k)
        low, high = known.share(members, p) if known else (None, None)
        together.append(ClusterInsight(tuple(names[i] for i in members), float(grouped.mass[k]), low, high))
    undecided = 0 if known is None else int((~known.apart)[np.triu_indices(n, 1)].sum())
    return Insight(
        tau=mixture.tau,
        groups=known.groups if known else 0,
        fine_tunes=known.fine_tunes if known else 0,
        tasks=rows,
        clusters=tuple(together),
        undecided=undecided,
        uniform=known is not None and known.uniform,
        certainty=_whole(known, n, undecided),
    )


def _whole(known: Certainty | None, n: int, undecided: int) -> str:
    if known is None:
        return ""
    groups = f"{known.groups} groups of probes"
    if known.fine_tunes:
        anew, basis = (
            "anew and the tasks fine-tuned with other seeds",
            f"{groups}, {known.fine_tunes} second fine-tunes",
        )
    else:
        anew, basis = "anew", f"{groups}; the adapters are taken as they are"
    if known.uniform:
        return (
            "The data do not distinguish this mixture from uniform: every weight's interval "
            f"({basis}; adjusted for all tasks together) holds the uniform share."
        )
    pairs = n * (n - 1) // 2
    return (
        f"Were the probes drawn {anew}, the weights would differ as their intervals say ({basis}). "
        f"Of {pairs:,} pairs of weights {undecided:,} cannot be told apart."
    )


@dataclass(frozen=True, eq=False)
class _View:
    """What the rows are made from."""

    names: Sequence[str]
    S: FloatArray
    mixture: Mixture
    found: Influence
    known: Certainty | None
    lift: FloatArray | None
    search_lift: Gain | None
    cluster: IntArray

    @cached_property
    def sensitivity(self) -> tuple[FloatArray, FloatArray]:
        """The derivatives of all weights by all affinities, as factors."""
        return sensitivity_factors(self.S, self.mixture)

    @cached_property
    def heavy(self) -> set[int]:
        """The tasks of which the costly columns are worked out."""
        p = self.mixture.weights
        return {int(i) for i in np.argsort(-p, kind="stable")[:MOST_DROPPED] if p[i] > 0}

    def task(self, i: int) -> TaskInsight:
        """One row."""
        found, known = self.found, self.known
        row = TaskInsight(
            name=self.names[i],
            weight=float(self.mixture.weights[i]),
            low=None if known is None else float(known.low[i]),
            high=None if known is None else float(known.high[i]),
            inclusion=None if known is None or known.inclusion is None else float(known.inclusion[i]),
            representativeness=float(found.representativeness[i]) + 0.0,  # no negative zeros
            redundancy=float(found.redundancy[i]),
            novelty=_finite(found.novelty[i]),
            drop_cost=_finite(found.drop_cost[i]),
            break_even=_finite(found.break_even[i]),
            enters=_finite(found.entry_tau[i]),
            leaves=_finite(found.exit_tau[i]),
            covered_by=self.covered_by(i),
            gainers=self.gainers(i),
            hangs_on=self.hangs_on(i),
            helps_others=self.helps_others(i),
            search_lift=None if self.search_lift is None else float(self.search_lift.values[i]),
            search_lift_error=None if self.search_lift is None else float(self.search_lift.errors[i]),
            cluster=int(self.cluster[i]),
            sentence="",
        )
        if row.weight == 0 and self.mixture.upper[i] <= 0:
            most = self.mixture.most
            why = "its limit is 0" if most is None else f"it was not among the best {most} tasks"
            return replace(row, sentence=f"{row.name} gets nothing because {why}.")
        return replace(row, sentence=sentence(row, self.mixture.tau, self.reason(row, i) if row.weight == 0 else ""))

    @cached_property
    def problem(self) -> Problem:
        """What the mixture solves."""
        return problem_of(self.S, self.mixture)

    def reason(self, row: TaskInsight, i: int) -> str:
        """Why a task has no weight.

        At the optimum (S p)_i - tau b_i is that of the tasks with weight, or more: either the task is more like the
        mixture than these are on average, or its utility is below theirs.
        """
        if self.problem.S[i] @ self.mixture.weights > self.mixture.redundancy:
            likes = [f"{name} (affinity {affinity:.2f})" for name, affinity, _ in row.covered_by[:2]]
            return f"{_and(likes)} already {'cover' if len(likes) > 1 else 'covers'} it"
        why = "few tasks are like it" if self.mixture.utility is None else "it is of little use"
        own, theirs = (len(self.S) * b for b in (self.problem.b[i], self.mixture.representativeness))
        return f"{why} (utility {own:.3g}, the mixture's {theirs:.3g})"

    def covered_by(self, i: int) -> tuple[tuple[str, float, float], ...]:
        p = self.mixture.weights
        cover = self.S[i] * p
        cover[i] = -np.inf
        nearest = [int(j) for j in np.argsort(-cover, kind="stable")[:PARTNERS] if p[j] > 0 and j != i]
        return tuple((self.names[j], float(self.S[i, j]), float(p[j])) for j in nearest)

    def gainers(self, i: int) -> tuple[tuple[str, float], ...]:
        if i not in self.heavy or not np.isfinite(self.found.drop_cost[i]):
            return ()
        change = drop_task(self.S, self.mixture, i).weights - self.mixture.weights
        order = np.argsort(-change, kind="stable")[:PARTNERS]
        return tuple((self.names[j], float(change[j])) for j in order if change[j] > 1e-6)

    def hangs_on(self, i: int) -> tuple[tuple[str, str, float], ...]:
        if i not in self.heavy:
            return ()
        Q, pull = self.sensitivity
        change = np.triu(np.outer(Q[i], pull) + np.outer(pull, Q[i]), 1)
        first, second = np.unravel_index(np.argsort(-np.abs(change), axis=None, kind="stable")[:PARTNERS], change.shape)
        return tuple(
            (self.names[a], self.names[b], STEP * float(change[a, b]))
            for a, b in zip(first, second, strict=True)
            if abs(change[a, b]) > 1e-9
        )

    def helps_others(self, i: int) -> float | None:
        if self.lift is None or len(self.names) < 2:
            return None
        return float((self.lift[i].sum() - self.lift[i, i]) / (len(self.names) - 1))


def sentence(row: TaskInsight, tau: float, reason: str) -> str:
    """What a person wants to know of a task; ``reason``: why it has no weight, where it has none."""
    if row.weight > 0:
        said = f"{row.name} gets {_percent(row.weight)}"
        if row.low is not None and row.high is not None:
            said += f" ({_percent(row.low)} to {_percent(row.high)})"
        if row.drop_cost is None:
            return f"{said}; the constraints do not let it go."
        said += f"; without it the least energy would be {row.drop_cost:.3g} higher"
        if row.gainers:
            said += f", and its share would go to {_and([name for name, _ in row.gainers[:2]])}"
        return f"{said}."
    said = f"{row.name} gets nothing because {reason}"
    ways = []
    if row.break_even is not None and tau > 0:
        ways.append(f"if its utility rose by {row.break_even:.3g}")
    if row.enters is not None:
        ways.append(f"at balances tau from {row.enters:.3g}" + (f" to {row.leaves:.3g}" if row.leaves else ""))
    return f"{said}; it would enter {' or '.join(ways)}." if ways else f"{said}, at any balance."


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _and(words: list[str]) -> str:
    return " and ".join(words)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
