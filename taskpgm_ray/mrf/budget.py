"""``select``: the best mixture of at most k tasks (docs/mathematics.md, section 8)."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf import checks
from taskpgm_ray.mrf._threads import single_threaded_blas
from taskpgm_ray.mrf._types import Bound, FloatArray, IntArray
from taskpgm_ray.mrf.energy import duality_gap
from taskpgm_ray.mrf.optimum import optimum
from taskpgm_ray.mrf.problem import Problem, build
from taskpgm_ray.mrf.psd import smallest_eigenvalue
from taskpgm_ray.mrf.subset import SubsetState, evaluate

RESTARTS = 8
"""Further greedy runs, from the next best single tasks, when swaps are asked for."""

IMPROVEMENT = 1e-13
"""A swap must lower the energy by more than this, times the energy scale."""


@dataclass(frozen=True)
class Selection:
    """At most k tasks and their mixture. Energies are in units of lambda; F(A) = -(smallest energy on the tasks A)."""

    tasks: IntArray
    """Tasks with positive weight, ascending; at most k."""
    weights: FloatArray
    """[n], zero outside ``tasks``."""
    energy: float
    """Energy of the mixture."""
    gap: float
    """energy - (a certified lower bound of the unrestricted minimum): how much the budget can cost at most."""
    unrestricted_energy: float
    """Energy of the best mixture without the budget."""
    singleton_energy: float
    """Energy of the best single task: the reference of the guarantee."""
    greedy_energy: float
    """Energy after plain greedy selection, before the other starts and the swaps."""
    gamma_bound: float
    """Lower bound of the submodularity ratio: lambda_min(S on 1-perp) / max_ij (S_ii + S_jj - 2 S_ij), at most 1."""
    guarantee: float
    """Proven: F(tasks) - F(best single) >= guarantee * (F(best k tasks) - F(best single)); 1 - (1 - gamma/k)^(k-1)."""
    tau: float
    swaps: int
    """Exchanges of one task for another that lowered the energy."""
    exact_solves: int
    """Re-solved subsets; the other gains were exact from their closed form or excluded by their bound."""
    order: tuple[int, ...] = field(default=(), repr=False)
    """Tasks in the order in which greedy chose them."""

    @property
    def support(self) -> IntArray:
        """The same as ``tasks``."""
        return self.tasks


def select(
    S: npt.ArrayLike,
    k: int,
    tau: float,
    *,
    utility: npt.ArrayLike | None = None,
    target: npt.ArrayLike | None = None,
    upper: Bound = None,
    noise: float | None = None,
    swaps: bool = True,
) -> Selection:
    """The mixture of at most k tasks: lazy greedy with exact gains, a second start, and a polish by single swaps.

    The utility stays that of all n tasks. Greedy adds the task with the largest gain of F; gains are bounded by
    mu_j^2 / (2 kappa_j), which is exact when no chosen task leaves, so few subsets are solved again. The k heaviest
    tasks of the unrestricted mixture and greedy runs from other first tasks are further starts. From each, single swaps
    follow until none helps; the best is returned.

    Args:
        S: affinities [n, n], as in ``solve``.
        k: largest number of tasks, 1 to n.
        tau: balance, as in ``solve``.
        utility: as in ``solve``.
        target: as in ``solve``.
        upper: largest weights; k of them must be able to reach 1.
        noise: as in ``solve``.
        swaps: False leaves the polish out.

    Raises:
        InputError: k, a shape, a value or the bounds cannot be used.
        IndefiniteAffinityError: S is not PSD where it has to be.
    """
    value = checks.balance(tau)
    with single_threaded_blas():
        problem = build(S, utility, target, None, upper, noise)
        n = problem.n
        if isinstance(k, bool) or int(k) != k or not 1 <= k <= n:
            raise InputError(f"k must be a whole number from 1 to {n} (the number of tasks), got {k!r}")
        k = int(k)
        reachable = float(np.sort(problem.upper)[-k:].sum())
        if reachable < 1 - checks.FEASIBILITY:
            raise InputError(f"no {k} tasks can fill the mixture: their upper bounds sum to {reachable:.6g} < 1")
        return _select(problem, k, value, swaps)


def _select(problem: Problem, k: int, tau: float, swaps: bool) -> Selection:
    full = problem.expand(optimum(problem, tau).mass)
    full_energy = _energy(problem, tau, full)
    full_gap = problem.gap(full, tau)
    counter = [0]
    singles = _single_energies(problem, tau)
    reference = float(singles.min())
    order, greedy = _greedy(problem, k, tau, counter)
    best = greedy
    starts = [greedy]
    for start in _other_starts(full, k, problem):
        counter[0] += 1
        starts.append(evaluate(problem, tau, start))
    if swaps and not problem.bounded:
        for first in np.argsort(singles, kind="stable")[1 : 1 + RESTARTS]:
            starts.append(_greedy(problem, k, tau, counter, [int(first)])[1])
    done = 0
    for state in starts:
        polished, count = _polish(problem, k, tau, state, counter) if swaps else (state, 0)
        if polished.energy < best.energy:
            best, done = polished, count
    p = best.weights
    g = problem.S @ p - tau * problem.b
    diagonal = np.diag(problem.S)
    reach = float((diagonal[:, None] + diagonal[None, :] - 2 * problem.S).max())
    gamma = float(np.clip(smallest_eigenvalue(problem.S) / reach, 0.0, 1.0)) if reach > 0 else 1.0
    own_bound = duality_gap(g, p, problem.lower, problem.upper)
    return Selection(
        tasks=np.flatnonzero(p > 0),
        weights=p,
        energy=best.energy,
        gap=min(max(0.0, best.energy - full_energy) + full_gap, own_bound),
        unrestricted_energy=full_energy,
        singleton_energy=reference,
        greedy_energy=greedy.energy,
        gamma_bound=gamma,
        guarantee=0.0 if problem.bounded else float(1 - (1 - gamma / k) ** (k - 1)),
        tau=tau,
        swaps=done,
        exact_solves=counter[0],
        order=tuple(order),
    )


def _single_energies(problem: Problem, tau: float) -> FloatArray:
    return np.asarray(np.diag(problem.S) / 2 - tau * problem.b)


def _energy(problem: Problem, tau: float, p: FloatArray) -> float:
    return float(p @ (problem.S @ p) / 2 - tau * (problem.b @ p))


def _greedy(
    problem: Problem, k: int, tau: float, counter: list[int], chosen: list[int] | None = None
) -> tuple[list[int], SubsetState]:
    """Add the task of largest exact gain, k times; a task whose weight fell to zero gives its place back."""
    chosen = _first_tasks(problem, k, tau) if chosen is None else chosen
    state = evaluate(problem, tau, chosen)
    order = list(chosen)
    for _ in range(k - len(chosen)):
        bound, exact = state.gains()
        candidates = np.argsort(-bound, kind="stable")
        best_gain, best_state, best_task = 0.0, None, -1
        for j in candidates:
            if bound[j] <= max(best_gain, 0.0) + 0.0:
                break
            if exact[j]:
                gain, trial = float(bound[j]), None
            else:
                counter[0] += 1
                trial = evaluate(problem, tau, [*state.members, int(j)])
                gain = state.energy - trial.energy
            if gain > best_gain:
                best_gain, best_state, best_task = gain, trial, int(j)
        if best_task < 0:
            break
        state = best_state or evaluate(problem, tau, [*state.members, best_task])
        order.append(best_task)
    return order, state


def _first_tasks(problem: Problem, k: int, tau: float) -> list[int]:
    """The best single task; with upper bounds, as many of the best as are needed to fill the mixture."""
    ranked = np.argsort(_single_energies(problem, tau), kind="stable")
    if not problem.bounded:
        return [int(ranked[0])]
    largest = np.argsort(-problem.upper, kind="stable")
    chosen: list[int] = []
    for j in ranked:
        # Keep only tasks with which k - |chosen| further ones can still fill the mixture.
        rest = [i for i in largest if i not in chosen and i != j][: k - len(chosen) - 1]
        if problem.upper[[*chosen, j, *rest]].sum() >= 1 - checks.FEASIBILITY:
            chosen.append(int(j))
        if problem.upper[chosen].sum() >= 1 - checks.FEASIBILITY or len(chosen) == k:
            break
    return chosen


def _other_starts(full: FloatArray, k: int, problem: Problem) -> list[list[int]]:
    """The k heaviest tasks of the unrestricted mixture, where they can fill a mixture."""
    heaviest = np.argsort(-full, kind="stable")[:k]
    if problem.upper[heaviest].sum() < 1 - checks.FEASIBILITY:
        return []
    return [[int(i) for i in heaviest]]


def _polish(problem: Problem, k: int, tau: float, state: SubsetState, counter: list[int]) -> tuple[SubsetState, int]:
    """Exchange one task for another while that lowers the energy; first fill places that became free."""
    done = 0
    threshold = IMPROVEMENT * problem.scale(tau)
    while True:
        better = _fill(problem, k, tau, state, threshold, counter) or _swap(problem, k, tau, state, threshold, counter)
        if better is None:
            return state, done
        state = better
        done += 1


def _fill(
    problem: Problem, k: int, tau: float, state: SubsetState, threshold: float, counter: list[int]
) -> SubsetState | None:
    if len(state.members) >= k:
        return None
    bound, _ = state.gains()
    for j in np.argsort(-bound, kind="stable"):
        if bound[j] <= threshold:
            return None
        counter[0] += 1
        trial = evaluate(problem, tau, [*state.members, int(j)])
        if trial.energy < state.energy - threshold:
            return trial
    return None


def _swap(
    problem: Problem, k: int, tau: float, state: SubsetState, threshold: float, counter: list[int]
) -> SubsetState | None:
    """The first improving exchange found, trying the cheapest removals and the largest bounds first."""
    if k == 1:
        return None
    removals = []
    for i in state.members:
        rest = [m for m in state.members if m != i]
        if problem.upper[rest].sum() < 1 - checks.FEASIBILITY:
            continue
        counter[0] += 1
        removals.append((evaluate(problem, tau, rest), i))
    removals.sort(key=lambda pair: pair[0].energy)
    for reduced, removed in removals:
        bound, _ = reduced.gains()
        needed = reduced.energy - state.energy + threshold
        for j in np.argsort(-bound, kind="stable"):
            if bound[j] <= needed:
                break
            if j == removed:
                continue
            counter[0] += 1
            trial = evaluate(problem, tau, [*reduced.members, int(j)])
            if trial.energy < state.energy - threshold:
                return trial
    return None


__all__ = ["Selection", "select"]
