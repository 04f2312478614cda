"""``solve``: the mixture at one balance; ``certificate``: how far any mixture is from it at most."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from taskpgm_ray.mrf import checks
from taskpgm_ray.mrf.energy import duality_gap, energy, product
from taskpgm_ray.mrf.groups import Group, grouped_gap, grouped_optimum, indicator
from taskpgm_ray.mrf.solvers.optimum import Optimum, find_optimum
from taskpgm_ray.mrf.solvers.problem import Problem, build
from taskpgm_ray.numerics.checks import as_floats
from taskpgm_ray.numerics.psd import Repair
from taskpgm_ray.numerics.threads import single_threaded_blas
from taskpgm_ray.numerics.types import Bound, FloatArray, IntArray


@dataclass(frozen=True)
class Mixture:
    """The mixture of n tasks at one balance, with its certificate. Energies are in units of lambda."""

    weights: FloatArray
    """[n], non-negative, sum 1."""
    tau: float
    """The balance n * beta / lambda: 0 diversity, 1 the target (uniform), large: representativeness."""
    energy: float
    """E = p'Sp / 2 - tau b'p with b = S 1 / n (paper), S m (target) or u / n (utility)."""
    gap: float
    """Certificate: energy - min energy is between 0 and gap."""
    support: IntArray
    """Tasks with positive weight, ascending."""
    multipliers: FloatArray
    """Reduced costs [n]: S p - tau b - nu, less the prices of a task's groups; >= 0 at the lower bound, <= 0 at the
    upper bound, 0 in between."""
    nu: float
    """The price of mass: the common gradient of the tasks strictly between their bounds. Where there are none, the
    largest one of those above their lower bound, which weight for another task would be taken from."""
    representativeness: float
    """b'p; times tau it is the utility part of the energy. Never decreases in tau."""
    redundancy: float
    """p'Sp. Never decreases in tau."""
    method: str
    """The solver that found it: "closed form", "block pivoting", "homotopy" or, with groups, "interior point"."""
    repair: Repair | None = None
    """What was done to S when it was indefinite within its noise; None: S was used as given."""
    utility: FloatArray | None = field(default=None, repr=False)
    target: FloatArray | None = field(default=None, repr=False)
    lower: FloatArray = field(default_factory=lambda: np.zeros(0), repr=False)
    upper: FloatArray = field(default_factory=lambda: np.zeros(0), repr=False)
    most: int | None = None
    """Tasks that may have weight, where the others were left out for their number: their upper bound is 0 here."""
    groups: tuple[Group, ...] = field(default=(), repr=False)
    prices: FloatArray = field(default_factory=lambda: np.zeros(0), repr=False)
    """Energy that one more unit of each group's share would cost, negated [g]: > 0 at a low end, < 0 at a high one."""

    @property
    def beta_over_lambda(self) -> float:
        """rho = beta / lambda = tau / n, the ratio of the paper."""
        return self.tau / len(self.weights)

    @property
    def effective_tasks(self) -> float:
        """1 / sum p^2: the number of equal weights with the same concentration."""
        return 1.0 / float(self.weights @ self.weights)

    @property
    def perplexity(self) -> float:
        """exp of the entropy of the weights."""
        p = self.weights[self.weights > 0]
        return float(np.exp(-(p * np.log(p)).sum()))

    @property
    def distinct_tasks(self) -> float:
        """1 / p'Sp: the effective number of distinct tasks when S has a unit diagonal (Leinster and Meckes)."""
        return 1.0 / self.redundancy if self.redundancy > 0 else float("inf")


def solve(
    S: npt.ArrayLike,
    tau: float,
    *,
    utility: npt.ArrayLike | None = None,
    target: npt.ArrayLike | None = None,
    lower: Bound = None,
    upper: Bound = None,
    noise: float | None = None,
    start: npt.ArrayLike | None = None,
) -> Mixture:
    """Minimise the TaskPGM energy (arXiv 2507.12612) over mixtures of n tasks, exactly and with a certificate.

    E(p) = p'Sp / 2 - tau b'p over {lower <= p <= upper, sum p = 1}; docs/mathematics.md, sections 1 to 6.

    Args:
        S: affinities [n, n], symmetric and PSD on differences of mixtures; any common unit.
        tau: balance n * beta / lambda >= 0.
        utility: the unary potential u [n] in the place of the row sums of S; b = u / n.
        target: a mixture m [n] in the place of uniform; b = S m, and tau = 1 returns m. Excludes ``utility``.
        lower: smallest weights, a number or [n]; 0 unless given.
        upper: largest weights, a number or [n] (epochs allowed * task size / budget); none unless given.
        noise: standard error of an entry of S. When S is indefinite by no more than that explains, it is replaced by
            the nearest conditionally PSD matrix and ``Mixture.repair`` says so. None: an indefinite S is an error.
        start: weights of a mixture near by, of all n tasks or of the first ones (where others were added): the tasks
            strictly between their bounds there are tried first. A guess and nothing more: the result is certified on S
            and equal to that without it, to rounding.

    Returns:
        The mixture. Exact duplicates share their mass equally (with a target: as near to it as possible).

    Raises:
        InputError: shapes, values or bounds cannot be used.
        IndefiniteAffinityError: S is not PSD where it has to be (beyond ``noise``).
    """
    value = checks.balance(tau)
    with single_threaded_blas():
        problem = build(S, utility, target, lower, upper, noise, diversity_only=value == 0)
        near = None if start is None else problem.classes.sums(checks.guess(start, problem.n))
        return _boxed(problem, value, find_optimum(problem, value, near))


def solve_grouped(
    S: npt.ArrayLike,
    tau: float,
    groups: Sequence[Group],
    *,
    utility: npt.ArrayLike | None = None,
    target: npt.ArrayLike | None = None,
    lower: Bound = None,
    upper: Bound = None,
    noise: float | None = None,
) -> Mixture:
    """``solve`` where the weights of some groups of tasks stay between limits; docs/mathematics.md, section 16.

    Args:
        S: affinities [n, n], as in ``solve``; so are the arguments that follow the groups.
        tau: balance.
        groups: sets of tasks, which may overlap, with the least and the largest share that each has together.

    Raises:
        InputError: as ``solve``; or no mixture keeps all limits.
        IndefiniteAffinityError: S is not PSD where it has to be (beyond ``noise``).
    """
    value = checks.balance(tau)
    with single_threaded_blas():
        problem = build(S, utility, target, lower, upper, noise)
        return _finished(problem, value, *grouped_optimum(problem, value, groups), groups)


def grid(
    S: npt.ArrayLike,
    taus: npt.ArrayLike,
    *,
    utility: npt.ArrayLike | None = None,
    target: npt.ArrayLike | None = None,
    lower: Bound = None,
    upper: Bound = None,
    noise: float | None = None,
) -> list[Mixture]:
    """``solve`` at many balances [m], validated and factorised once, each started from its neighbour's support.

    For pools too large for the whole ``path`` (above a few thousand tasks). Arguments and errors as ``solve``.
    """
    values = [checks.balance(float(tau)) for tau in as_floats(taus, "taus").ravel()]
    found: dict[float, Optimum] = {}
    with single_threaded_blas():
        problem = build(S, utility, target, lower, upper, noise)
        start: FloatArray | None = None
        for tau in sorted(set(values)):
            found[tau] = find_optimum(problem, tau, start)
            start = found[tau].mass
        return [_boxed(problem, tau, found[tau]) for tau in values]


def certificate(
    S: npt.ArrayLike,
    tau: float,
    weights: npt.ArrayLike,
    *,
    utility: npt.ArrayLike | None = None,
    target: npt.ArrayLike | None = None,
    lower: Bound = None,
    upper: Bound = None,
    groups: Sequence[Group] = (),
) -> tuple[float, float]:
    """How good given weights [n] are: (energy, gap), without solving; docs/mathematics.md, section 2.

    The energy, in units of lambda, is at most ``gap`` above the smallest one. ``weights`` sum to 1 and keep the bounds;
    wherever they come from, the gap is proven, as S is checked to be PSD where it has to be. The other arguments are
    those of ``solve``.

    Raises:
        InputError: shapes, values or bounds cannot be used, or the weights are no mixture within the bounds.
        IndefiniteAffinityError: S is not PSD where it has to be.
    """
    value = checks.balance(tau)
    with single_threaded_blas():
        problem = build(S, utility, target, lower, upper)
        p = checks.on_simplex(weights, problem.n, "weights")
        checks.inside(p, problem.lower, problem.upper)
        if groups:
            _, prices = grouped_optimum(problem, value, groups)
            return energy(problem.S, problem.b, value, p), grouped_gap(problem, value, p, groups, prices)
        return energy(problem.S, problem.b, value, p), problem.gap(p, value)


def _boxed(problem: Problem, tau: float, found: Optimum) -> Mixture:
    """The public result from class masses [N]."""
    p = problem.expand(found.mass)
    if found.method == "closed form" and tau == 1.0 and problem.passes_through_centre:
        p = problem.centre.copy()
    return _finished(problem, tau, p, np.zeros(0), (), found.method)


def _finished(
    problem: Problem,
    tau: float,
    p: FloatArray,
    prices: FloatArray,
    groups: Sequence[Group],
    method: str = "interior point",
) -> Mixture:
    """The public result: weights [n] with gradient, multipliers and certificate."""
    Sp = product(problem.S, p)
    g = Sp - tau * problem.b - indicator(groups, problem.n).T @ prices
    nu = _threshold(g, p, problem.lower, problem.upper)
    multipliers = g - nu
    # Between the bounds the reduced cost is zero; what is left there is rounding.
    multipliers[free_tasks(p, problem.lower, problem.upper)] = 0.0
    return Mixture(
        weights=p,
        tau=tau,
        energy=float(p @ Sp) / 2 - tau * float(problem.b @ p),
        gap=grouped_gap(problem, tau, p, groups, prices) if groups else duality_gap(g, p, problem.lower, problem.upper),
        support=np.flatnonzero(p > 0),
        multipliers=multipliers,
        nu=nu,
        representativeness=float(problem.b @ p),
        redundancy=float(p @ Sp),
        method=method,
        repair=problem.repair,
        utility=problem.utility,
        target=problem.target,
        lower=problem.lower,
        upper=problem.upper,
        groups=tuple(groups),
        prices=prices,
    )


def free_tasks(weights: FloatArray, lower: FloatArray, upper: FloatArray) -> IntArray:
    """Tasks strictly between their bounds; an upper bound of 1 is none, since the sum of the weights says as much."""
    return np.flatnonzero((weights > lower) & ((weights < upper) | (upper >= 1.0)))


def _threshold(g: FloatArray, p: FloatArray, lower: FloatArray, upper: FloatArray) -> float:
    """nu: the weighted mean gradient of the free tasks; without them the price of the next weight that is moved."""
    free = free_tasks(p, lower, upper)
    if len(free):
        below, above = (p - lower)[free], (upper - p)[free]
        inside = np.where(upper[free] >= 1.0, below, np.minimum(below, above))
        return float(g[free] @ inside / inside.sum())
    raised = p > lower
    # Any price between this one and the least below an upper bound is valid. Weight for another task comes from here,
    # so that with this one reduced costs are what it costs.
    return float(g[raised].max()) if raised.any() else float(g.min())
