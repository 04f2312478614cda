"""Mixtures whose tasks are tied together: shares of groups between limits (docs/mathematics.md, section 16)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from scipy.optimize import linprog

from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf.energy import duality_gap, gradient
from taskpgm_ray.mrf.solvers.interior import Program, minimise
from taskpgm_ray.mrf.solvers.problem import Problem
from taskpgm_ray.numerics.psd import convex_form
from taskpgm_ray.numerics.types import FloatArray, IntArray

SLACK = 1e-11
"""How far a group's share may be outside its limits and pass as rounding."""


@dataclass(frozen=True, eq=False)
class Group:
    """Tasks whose weights together stay between two limits."""

    members: IntArray
    """Indices of tasks."""
    low: float = 0.0
    high: float = 1.0


def indicator(groups: Sequence[Group], n: int) -> FloatArray:
    """Rows [g, n]: 1 for the members of each group.

    Raises:
        InputError: Limits or members cannot be used.
    """
    rows = np.zeros((len(groups), n))
    for row, group in zip(rows, groups, strict=True):
        members = np.asarray(group.members, dtype=np.int64)
        if len(members) == 0 or members.min() < 0 or members.max() >= n:
            raise InputError(f"a group has the members {members.tolist()}, which are not all of the {n} tasks")
        if not 0 <= group.low <= group.high <= 1:
            raise InputError(f"a group's share must be between 0 <= low <= high <= 1, got {group.low} and {group.high}")
        row[members] = 1.0
    return rows


def is_feasible(lower: FloatArray, upper: FloatArray, groups: Sequence[Group]) -> bool:
    """Whether some mixture [n] keeps all limits."""
    return cheapest_grouped(np.zeros(len(lower)), lower, upper, groups) is not None


def cheapest_grouped(
    cost: FloatArray, lower: FloatArray, upper: FloatArray, groups: Sequence[Group]
) -> FloatArray | None:
    """A mixture [n] of least cost'p, a corner of those that keep all limits; ``None``: none does."""
    if (lower > upper).any():
        return None
    rows = indicator(groups, len(lower))
    found = linprog(
        cost,
        A_ub=np.vstack([-rows, rows]),
        b_ub=np.array([-group.low for group in groups] + [group.high for group in groups]),
        A_eq=np.ones((1, len(lower))),
        b_eq=[1.0],
        bounds=list(zip(lower.tolist(), upper.tolist(), strict=True)),
    )
    return np.asarray(found.x, dtype=np.float64) if found.status == 0 else None


def grouped_optimum(problem: Problem, tau: float, groups: Sequence[Group]) -> tuple[FloatArray, FloatArray]:
    """The best mixture under the problem's bounds and the groups' limits.

    Returns:
        (weights [n], prices [g]): energy that a unit of share would save, positive where a group is at its low end.

    Raises:
        InputError: No mixture keeps all limits.
    """
    n = problem.n
    rows = indicator(groups, n)
    if not is_feasible(problem.lower, problem.upper, groups):
        raise InputError("no mixture keeps the bounds of the tasks and the limits of the groups at the same time")
    form = convex_form(problem.S)
    assert form is not None, "S is PSD where it has to be: the problem was built from it"
    M, offset, _ = form
    linear = tau * problem.b + offset
    free = problem.upper - problem.lower > SLACK
    fixed = np.where(free, 0.0, problem.lower)
    if not free.any():
        return fixed, np.zeros(len(groups))
    low = np.array([group.low for group in groups]) - rows @ fixed
    high = np.array([group.high for group in groups]) - rows @ fixed
    equal = high - low <= SLACK
    equations = np.vstack([np.ones(int(free.sum())), rows[equal][:, free]])
    kept = _independent(equations)
    quadratic, cost = M[np.ix_(free, free)], linear[free] - (M @ fixed)[free]
    # Whatever the unit of S, the largest number is 1: the interior point's tolerances are for that.
    unit = max(float(np.abs(quadratic).max()), float(np.abs(cost).max())) or 1.0
    found = minimise(
        Program(
            M=quadratic / unit,
            c=cost / unit,
            A=equations[kept],
            b=np.concatenate([[1 - fixed.sum()], low[equal]])[kept],
            R=rows[~equal][:, free],
            low=low[~equal],
            high=high[~equal],
            lower=problem.lower[free],
            upper=problem.upper[free],
        )
    )
    p = fixed.copy()
    p[free] = found.x
    equal_prices = np.zeros(len(equations))
    equal_prices[kept] = found.equal_prices
    prices = np.zeros(len(groups))
    prices[~equal], prices[equal] = found.prices, equal_prices[1:]
    return p, prices * unit


def grouped_gap(problem: Problem, tau: float, p: FloatArray, groups: Sequence[Group], prices: FloatArray) -> float:
    """Upper bound of E(p) - min E over the mixtures that keep all limits, for any feasible p [n].

    Whatever the prices [g], the bound holds: by duality the groups' limits may be exchanged for a cost of their shares,
    and what is left is the fractional knapsack of section 2. With those of the optimum it is tight there.

    Raises:
        InputError: p does not keep the groups' limits.
    """
    rows = indicator(groups, problem.n)
    shares = rows @ p
    for share, group in zip(shares, groups, strict=True):
        if not group.low - SLACK <= share <= group.high + SLACK:
            raise InputError(f"a group's share is {share:.9g}, outside its limits {group.low:g} and {group.high:g}")
    low, high = (np.array([getattr(group, end) for group in groups]) for end in ("low", "high"))
    loose = np.maximum(prices, 0) @ np.maximum(shares - low, 0) + np.maximum(-prices, 0) @ np.maximum(high - shares, 0)
    g = gradient(problem.S, problem.b, tau, p) - rows.T @ prices
    return duality_gap(g, p, problem.lower, problem.upper) + float(loose)


def _independent(A: FloatArray) -> IntArray:
    """The rows of a solvable system without those that follow from the others, ascending."""
    _, r, order = scipy.linalg.qr(A.T, mode="economic", pivoting=True)
    size = np.abs(np.diag(r))
    count = int((size > 1e-10 * float(size.max(initial=0.0))).sum())
    return np.asarray(np.sort(order[:count]))
