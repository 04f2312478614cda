"""What each task contributes, and how the mixture would change without it (docs/mathematics.md, section 11)."""

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import scipy.linalg

from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf.checks import FEASIBILITY
from taskpgm_ray.mrf.energy import energy
from taskpgm_ray.mrf.mixture import Mixture, free_tasks, solve
from taskpgm_ray.mrf.mixture_path import trace_path
from taskpgm_ray.mrf.solvers.optimum import find_optimum
from taskpgm_ray.mrf.solvers.problem import Problem, build
from taskpgm_ray.numerics.checks import affinity_matrix
from taskpgm_ray.numerics.psd import centred, nearest_conditionally_psd
from taskpgm_ray.numerics.threads import single_threaded_blas
from taskpgm_ray.numerics.types import FloatArray, IntArray


@dataclass(frozen=True)
class Influence:
    """One number a task [n] in every field. Energies in units of lambda, derivatives at fixed S."""

    weight: FloatArray
    """The weights of the mixture."""
    representativeness: FloatArray
    """-tau b_i p_i: the task's share of the utility part of the energy (<= 0 for positive utility)."""
    redundancy: FloatArray
    """p_i (Sp)_i / 2: its share of the redundancy part. The two columns add up to the energy."""
    diversity_weight: FloatArray
    """w_i of the free tasks: the weight at tau = 0 with these tasks free; sums to 1 less the fixed weights."""
    tilt: FloatArray
    """weight - diversity_weight: what the utility adds; sums to 0."""
    dweight_dtau: FloatArray
    """Derivative of the weight by tau (0 outside the free tasks); sums to 0."""
    reduced_cost: FloatArray
    """Energy per unit of weight forced on the task: >= 0 at the lower bound, <= 0 at the upper one."""
    break_even: FloatArray
    """How much the task's utility u must rise to enter: reduced_cost * n / tau; 0 for tasks in the mixture, infinity
    where the upper bound is 0."""
    novelty: FloatArray
    """Squared distance (units of S) from the affine hull of the other free tasks; infinity where there are none."""
    drop_cost: FloatArray
    """Exact rise of the minimal energy when the task is dropped (``drop_task``); infinity: bounds forbid it."""
    saliency: FloatArray
    """p_i^2 / (2 Q_ii), the quick estimate of drop_cost: the energy of the step that removes the task and keeps the
    others free. Exact while no sign changes; an upper bound where only a task outside would enter, a lower bound where
    only weights would turn negative."""
    entry_tau: FloatArray
    """Smallest tau at which the task has weight; NaN: never (or the path was not asked for, or is another one, as the
    number of tasks is limited)."""
    exit_tau: FloatArray
    """Largest tau at which it has weight; infinity: it never leaves."""

    def rows(self, names: list[str] | None = None) -> list[dict[str, float | str]]:
        """One dictionary a task, by falling weight, for a table."""
        n = len(self.weight)
        labels = [str(i) for i in range(n)] if names is None else names
        if len(labels) != n:
            raise InputError(f"names must be {n} task names, got {len(labels)}")
        order = np.argsort(-self.weight, kind="stable")
        return [{"task": labels[i], **{f.name: float(getattr(self, f.name)[i]) for f in fields(self)}} for i in order]


def influence(S: npt.ArrayLike, mixture: Mixture, *, with_path: bool = True) -> Influence:
    """What each task contributes, its derivatives, and what the mixture loses without it.

    Args:
        S: the affinities that the mixture was solved with.
        mixture: a result of ``solve``.
        with_path: trace the path for entry and exit balances (seconds above 1000 tasks); False leaves them NaN.

    Raises:
        InputError: S and the mixture do not belong together, or its groups of tasks are tied together.
    """
    problem = problem_of(S, mixture)
    p, tau, n = mixture.weights, mixture.tau, problem.n
    with single_threaded_blas():
        free = free_tasks(p, problem.lower, problem.upper)
        Q, w = bordered_inverse(problem.S, free)
        Sp = problem.S @ p
        dtau, diversity = np.zeros(n), p.copy()
        dtau[free] = Q @ problem.b[free]
        diversity[free] = p[free] - tau * dtau[free]
        reduced = mixture.multipliers
        saliency = np.zeros(n)
        pivots = np.diag(Q)
        saliency[free] = np.divide(p[free] ** 2, 2 * pivots, out=np.full(len(free), np.inf), where=pivots > 0)
        entry = exit_ = np.full(n, np.nan)
        if with_path and mixture.most is None:
            whole = trace_path(problem, 0.0, None)
            entry, exit_ = whole.entry, whole.exit
        return Influence(
            weight=p,
            representativeness=-tau * problem.b * p,
            redundancy=p * Sp / 2,
            diversity_weight=diversity,
            tilt=p - diversity,
            dweight_dtau=dtau,
            reduced_cost=reduced,
            break_even=_break_even(mixture),
            novelty=_novelty(problem.S, free, Q, w),
            drop_cost=np.array([_drop_cost(problem, mixture, i) for i in range(n)]),
            saliency=saliency,
            entry_tau=entry,
            exit_tau=exit_,
        )


def problem_of(S: npt.ArrayLike, mixture: Mixture) -> Problem:
    """The validated problem of a mixture; InputError when S is not the matrix it was solved with, or with groups."""
    without_groups(mixture)
    matrix = affinity_matrix(S)
    if len(matrix) != len(mixture.weights):
        raise InputError(f"S has {len(matrix)} tasks, the mixture {len(mixture.weights)}")
    if mixture.repair is not None:
        matrix = nearest_conditionally_psd(matrix)[0]
    bounded = bool((mixture.lower > 0).any() or (mixture.upper < 1).any())
    problem = build(
        matrix,
        mixture.utility,
        mixture.target,
        mixture.lower if bounded else None,
        mixture.upper if bounded else None,
    )
    redundancy = float(mixture.weights @ problem.S @ mixture.weights)
    if abs(redundancy - mixture.redundancy) > 1e-9 * problem.scale(1.0):
        raise InputError(
            f"S is not the matrix of this mixture: p'Sp is {redundancy:.9g} here, {mixture.redundancy:.9g} there"
        )
    return problem


def without_groups(mixture: Mixture) -> None:
    """InputError for a mixture with limits of groups, which what is said of single tasks would leave out."""
    if mixture.groups:
        raise InputError("influence and uncertainty are not known where groups of tasks are tied together")


def drop_task(S: npt.ArrayLike, mixture: Mixture, task: int) -> Mixture:
    """The mixture that may not use ``task``, which stays in the pool: p_task = 0 and every utility as before.

    The question "what do I lose if I do not train on it". Its energy minus the old one is ``Influence.drop_cost``, at
    least 0. ``leave_one_out`` is the other question, "what if it had never been there".

    Returns:
        A mixture of all n tasks.

    Raises:
        InputError: no such task, or the others cannot form a mixture within the bounds.
    """
    problem = problem_of(S, mixture)
    lower, upper = problem.lower.copy(), problem.upper.copy()
    _check_task(task, problem.n)
    lower[task] = upper[task] = 0.0
    return solve(problem.S, mixture.tau, utility=problem.utility, target=problem.target, lower=lower, upper=upper)


def leave_one_out(S: npt.ArrayLike, mixture: Mixture, task: int) -> Mixture:
    """The mixture of the other n - 1 tasks, as if ``task`` had never been in the pool (tau held).

    Its similarity leaves the others' utility (u_A - S_Ai), which ``drop_task`` keeps: tasks like it lose what it lent
    them, where dropping it hands them its weight. A user's utility and the bounds lose the task's entry; a target is
    renormalised without it.

    Returns:
        A mixture of n - 1 tasks.

    Raises:
        InputError: no such task, or the rest cannot form a mixture within the bounds.
    """
    problem = problem_of(S, mixture)
    n = problem.n
    _check_task(task, n)
    if n == 1:
        raise InputError("the only task cannot be left out")
    rest = np.delete(np.arange(n), task)
    target = None
    if mixture.target is not None:
        left = mixture.target[rest]
        if left.sum() <= 0:
            raise InputError(f"the target has all its mass on task {task}: no target is left without it")
        target = left / left.sum()
    return solve(
        problem.S[np.ix_(rest, rest)],
        mixture.tau,
        utility=None if mixture.utility is None else mixture.utility[rest],
        target=target,
        lower=problem.lower[rest] if problem.bounded else None,
        upper=problem.upper[rest] if problem.bounded else None,
    )


def _check_task(task: int, n: int) -> None:
    if not 0 <= task < n:
        raise InputError(f"task must be from 0 to {n - 1}, got {task}")


def weight_sensitivity(S: npt.ArrayLike, mixture: Mixture, i: int, j: int) -> FloatArray:
    """Derivative of the weights [n] by S_ij (both entries S_ij and S_ji move together).

    For i = j the sum of equation (11.2) has one term. Units: 1 / S.

    Raises:
        InputError: no such task, or S and the mixture do not belong together.
    """
    Q, pull = sensitivity_factors(S, mixture)
    for task in (i, j):
        _check_task(task, len(pull))
    change = Q[:, i] * pull[j]
    return np.asarray(change if i == j else change + Q[:, j] * pull[i])


def sensitivity_factors(S: npt.ArrayLike, mixture: Mixture) -> tuple[FloatArray, FloatArray]:
    """(Q [n, n], v [n]) such that dp_k / dS_ij = Q_ki v_j + Q_kj v_i for all tasks k and pairs i, j.

    v = tau m - p with the target m (uniform unless given), -p with a fixed utility; Q is the bordered inverse of the
    free tasks, 0 elsewhere; equation (11.2). Units: 1 / S.

    Raises:
        InputError: S and the mixture do not belong together.
    """
    problem = problem_of(S, mixture)
    free = free_tasks(mixture.weights, problem.lower, problem.upper)
    Q = np.zeros((problem.n, problem.n))
    Q[np.ix_(free, free)] = bordered_inverse(problem.S, free)[0]
    return Q, driving_vector(mixture, problem)


def energy_sensitivity(S: npt.ArrayLike, mixture: Mixture) -> FloatArray:
    """Derivative of the minimal energy by each S_ij [n, n]; off the diagonal both entries move together.

    p_i p_j - tau (m_i p_j + m_j p_i), on the diagonal p_i^2 / 2 - tau m_i p_i (without the tau terms for a fixed
    utility); equation (11.3). Units: lambda / S.

    Raises:
        InputError: S and the mixture do not belong together.
    """
    problem = problem_of(S, mixture)
    p = mixture.weights
    m = np.zeros(problem.n) if mixture.utility is not None else mixture.tau * problem.centre
    table = np.outer(p, p) - np.outer(m, p) - np.outer(p, m)
    table[np.diag_indices(problem.n)] /= 2
    return np.asarray(table)


def pair_redundancy(S: npt.ArrayLike, mixture: Mixture) -> FloatArray:
    """p_i p_j S_ij for i < j [n, n]: what each pair adds to p'Sp / 2; the diagonal holds p_i^2 S_ii / 2. Units: lambda.

    Raises:
        InputError: S and the mixture do not belong together.
    """
    problem = problem_of(S, mixture)
    table = np.outer(mixture.weights, mixture.weights) * problem.S
    upper = np.triu(table, 1)
    upper[np.diag_indices(problem.n)] = np.diag(table) / 2
    return np.asarray(upper)


def driving_vector(mixture: Mixture, problem: Problem) -> FloatArray:
    """v [n] such that a change dS moves the free weights by Q (dS v)_A: tau m - p, or -p for a fixed utility."""
    if mixture.utility is not None:
        return np.asarray(-mixture.weights)
    return np.asarray(mixture.tau * problem.centre - mixture.weights)


def respond(problem: Problem, mixture: Mixture, changes: FloatArray) -> FloatArray:
    """First-order change of the weights for changes of -gradient [q, n] -> [q, n]."""
    free = free_tasks(mixture.weights, problem.lower, problem.upper)
    Q, _ = bordered_inverse(problem.S, free)
    moved = np.zeros_like(changes)
    moved[:, free] = changes[:, free] @ Q
    return moved


def bordered_inverse(S: FloatArray, free: IntArray) -> tuple[FloatArray, FloatArray]:
    """(Q [k, k], w [k]) of the free tasks: the inverse of [[S_AA, 1], [1', 0]] is [[Q, w], [w', -1/sigma]].

    Where S_AA is singular on 1-perp (duplicates, low rank) Q is the pseudo-inverse of J S_AA J and w the least-norm
    solution, so that exact duplicates respond alike. Where no task or one is free, nothing can move.
    """
    A = S[np.ix_(free, free)]
    k = len(free)
    if k <= 1:
        return np.zeros((k, k)), np.ones(k)
    values, vectors = scipy.linalg.eigh(centred(A))
    keep = values > 1e-12 * max(float(np.abs(A).max()), 1e-300)
    Q = (vectors[:, keep] / values[keep]) @ vectors[:, keep].T
    if keep.sum() == k - 1:
        # Refine once against the matrix itself: Q <- Q (2 - (J S J) Q).
        Q = 2 * Q - Q @ (A @ Q)
    Q = (Q + Q.T) / 2
    w = np.full(k, 1 / k) - Q @ A.mean(axis=1)
    return Q, w


def _break_even(mixture: Mixture) -> FloatArray:
    """How far each task's utility has to rise until it enters [n]."""
    reduced, tau = np.maximum(mixture.multipliers, 0.0), mixture.tau
    rise = reduced * len(reduced) / tau if tau > 0 else np.where(reduced > 0, np.inf, 0.0)
    return np.where(mixture.upper <= 0, np.inf, rise)


def _novelty(S: FloatArray, free: IntArray, Q: FloatArray, w: FloatArray) -> FloatArray:
    """Squared distance of each task from the affine hull of the free ones (of the other free ones for a free task)."""
    if not len(free):
        return np.full(len(S), np.inf)
    A = S[free]
    t = Q @ A + w[:, None]
    # phi_j minus its projection: S_jj - 2 t's + t' S_AA t, which is never negative.
    distance = np.diag(S) - 2 * np.einsum("aj,aj->j", A, t) + np.einsum("aj,ab,bj->j", t, S[np.ix_(free, free)], t)
    distance = np.maximum(distance, 0.0)
    pivots = np.diag(Q)
    distance[free] = np.divide(1.0, pivots, out=np.full(len(free), np.inf), where=pivots > 0)
    return np.asarray(distance)


def _drop_cost(problem: Problem, mixture: Mixture, task: int) -> float:
    p = mixture.weights
    if p[task] <= 0:
        return 0.0
    lower, upper = problem.lower.copy(), problem.upper.copy()
    lower[task] = upper[task] = 0.0
    if upper.sum() < 1 - FEASIBILITY:
        return float("inf")
    group = problem.classes.label == problem.classes.label[task]
    if group.sum() > 1 and not problem.bounded:
        return 0.0
    if group.sum() == 1:
        at = int(problem.classes.label[task])
        low, high = problem.reduced_lower.copy(), problem.reduced_upper.copy()
        low[at] = high[at] = 0.0
        without = replace(problem, lower=lower, upper=upper, reduced_lower=low, reduced_upper=high, bounded=True)
    else:
        without = build(problem.S, problem.utility, problem.target, lower, upper)
    start = without.classes.sums(p)
    start[without.classes.label[task]] -= p[task]
    q = without.expand(find_optimum(without, mixture.tau, start).mass)
    return max(0.0, energy(problem.S, problem.b, mixture.tau, q) - mixture.energy)
