"""``select``: the best mixture of at most k tasks (docs/mathematics.md, section 8)."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf import checks
from taskpgm_ray.mrf.energy import energy
from taskpgm_ray.mrf.solvers.greedy import Greedy
from taskpgm_ray.mrf.solvers.optimum import find_optimum
from taskpgm_ray.mrf.solvers.problem import Problem, build
from taskpgm_ray.numerics.psd import smallest_eigenvalue, squared_distances
from taskpgm_ray.numerics.threads import single_threaded_blas
from taskpgm_ray.numerics.types import Bound, FloatArray, IntArray

RESTARTS = 8
"""Further greedy runs, from the next best single tasks."""


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
    """Proven: F(tasks) - F(A_1) >= guarantee * (F(best k tasks) - F(A_1)), A_1 the best single task.

    1 - (1 - gamma/k)^(k-1) with gamma = ``gamma_bound``, equation (8.3); relative to A_1 because F of no task is
    undefined. 0 (nothing is claimed) with bounds, under which one task alone is no mixture, and for k = 1, where A_1
    itself is optimal.
    """
    tau: float
    swaps: int
    """Exchanges of one task for another that lowered the energy."""
    exact_solves: int
    """Re-solved subsets; the other gains were exact from their closed form or excluded by their bound."""
    order: tuple[int, ...] = field(default=(), repr=False)
    """Tasks in the order in which greedy chose them."""


def select(
    S: npt.ArrayLike,
    k: int,
    tau: float,
    *,
    utility: npt.ArrayLike | None = None,
    target: npt.ArrayLike | None = None,
    lower: Bound = None,
    upper: Bound = None,
    noise: float | None = None,
) -> Selection:
    """The mixture of at most k tasks: lazy greedy with exact gains, further starts, and a polish by single exchanges.

    The utility stays that of all n tasks. Greedy adds the task with the largest gain of F; gains are bounded by
    mu_j^2 / (2 kappa_j), which is exact when no chosen task leaves, so few subsets are solved again. The k heaviest
    tasks of the unrestricted mixture and greedy runs from other first tasks are further starts. From each, exchanges
    of one task for another follow until none helps; the best is returned, and ``Selection.greedy_energy`` says what
    plain greedy had reached.

    Bounds mean what they mean in ``solve``: tasks with a positive lower bound are always chosen, the others may have
    weight 0. "At least lower_i if chosen" is another problem, not offered: its F is not monotone, as an added task
    would take weight from better ones, and neither the gains nor the certificate below would hold.

    Args:
        S: affinities [n, n], as in ``solve``.
        k: largest number of tasks, 1 to n.
        tau: balance, as in ``solve``.
        utility: as in ``solve``.
        target: as in ``solve``.
        lower: smallest weights, a number or [n]; at most k may be positive.
        upper: largest weights, a number or [n]; k tasks must be able to reach 1.
        noise: as in ``solve``.

    Raises:
        InputError: k, a shape, a value or the bounds cannot be used.
        IndefiniteAffinityError: S is not PSD where it has to be.
    """
    value = checks.balance(tau)
    with single_threaded_blas():
        problem = build(S, utility, target, lower, upper, noise)
        n = problem.n
        if isinstance(k, bool) or int(k) != k or not 1 <= k <= n:
            raise InputError(f"k must be a whole number from 1 to {n} (the number of tasks), got {k!r}")
        k = int(k)
        required = problem.lower > 0
        if required.sum() > k:
            raise InputError(f"{required.sum()} tasks have a positive lower bound, more than k = {k}")
        others = np.sort(problem.upper[~required])[::-1]
        reachable = float(problem.upper[required].sum() + others[: k - required.sum()].sum())
        if reachable < 1 - checks.FEASIBILITY:
            raise InputError(f"no {k} tasks can fill the mixture: their upper bounds sum to {reachable:.6g} < 1")
        return _select(problem, k, value)


def _select(problem: Problem, k: int, tau: float) -> Selection:
    full = problem.expand(find_optimum(problem, tau).mass)
    engine = Greedy(problem, tau, k)
    order, greedy = engine.grow()
    starts = [greedy, *engine.heaviest(full)]
    singles = engine.single_energies()
    if not problem.bounded:
        others = np.argsort(singles, kind="stable")[1 : 1 + RESTARTS].tolist()
        starts += [engine.grow(first)[1] for first in others]
    # Ties go to the first: the greedy subset.
    best, exchanges = min((engine.polish(state) for state in starts), key=lambda pair: pair[0].energy)
    p = best.weights
    full_energy = energy(problem.S, problem.b, tau, full)
    gamma = submodularity_bound(problem.S)
    return Selection(
        tasks=np.flatnonzero(p > 0),
        weights=p,
        energy=best.energy,
        gap=min(max(0.0, best.energy - full_energy) + problem.gap(full, tau), problem.gap(p, tau)),
        unrestricted_energy=full_energy,
        singleton_energy=float(singles.min()),
        greedy_energy=greedy.energy,
        gamma_bound=gamma,
        guarantee=0.0 if problem.bounded else 1 - (1 - gamma / k) ** (k - 1),
        tau=tau,
        swaps=exchanges,
        exact_solves=engine.solved,
        order=tuple(order),
    )


def submodularity_bound(S: FloatArray) -> float:
    """gamma >= lambda_min(S on 1-perp) / max_ij (S_ii + S_jj - 2 S_ij), equation (8.4), between 0 and 1."""
    reach = float(squared_distances(S).max())
    # No distance at all: all tasks are one, and the first choice is optimal.
    return float(np.clip(smallest_eigenvalue(S) / reach, 0.0, 1.0)) if reach > 0 else 1.0
