"""``path``: every breakpoint of the mixture over the balance tau, exactly."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf import checks
from taskpgm_ray.mrf.energy import duality_gap
from taskpgm_ray.mrf.solvers import duplicates
from taskpgm_ray.mrf.solvers.critical_line import Line, SingularLineError
from taskpgm_ray.mrf.solvers.optimum import find_optimum
from taskpgm_ray.mrf.solvers.problem import Problem, build
from taskpgm_ray.numerics.checks import as_floats
from taskpgm_ray.numerics.psd import Repair
from taskpgm_ray.numerics.threads import single_threaded_blas
from taskpgm_ray.numerics.types import BoolArray, Bound, FloatArray

TRACED = 5e-13
"""Largest gap of a breakpoint in double precision, in units of max(1, max|S|) * max(1, tau)."""

BLOCK = 512
"""Breakpoints that are certified together."""


@dataclass(frozen=True)
class MixturePath:
    """The optimal mixture as a function of tau: linear between the breakpoints, constant after the last one.

    Two breakpoints may share one tau where the mixture jumps between optima of equal energy (this needs an S that is
    singular on differences of mixtures); ``at`` then returns the second, and at tau = 1 the target.
    """

    tau: FloatArray
    """Breakpoints [m], ascending; the first is tau_min (0)."""
    weights: FloatArray
    """Mixtures at the breakpoints [m, n]."""
    gap: FloatArray
    """Certificates at the breakpoints [m], as ``Mixture.gap``; no larger in between, to rounding."""
    complete: bool
    """True when the mixture is known to stay constant after the last breakpoint; False when tau_max cut the path."""
    repair: Repair | None = None
    """What was done to S when it was indefinite within its noise."""
    problem: Problem | None = field(default=None, repr=False, compare=False)

    def at(self, tau: float | npt.ArrayLike) -> FloatArray:
        """Weights at a balance -> [n], or at several [q] -> [q, n].

        Raises:
            InputError: tau below the first breakpoint, or above the last one of a path that tau_max cut.
        """
        asked = as_floats(tau, "tau")
        low, high = self.tau[0], self.tau[-1]
        if (asked < low).any() or (not self.complete and (asked > high * (1 + 1e-12)).any()):
            raise InputError(
                f"the path covers tau from {low:.6g} to {high:.6g}, asked for {tau!r}; trace it further with tau_max"
            )
        inside = np.minimum(asked, high)
        right = np.clip(np.searchsorted(self.tau, inside, side="right"), 1, max(len(self.tau) - 1, 1))
        if len(self.tau) == 1:
            return np.broadcast_to(self.weights[0], (*asked.shape, self.weights.shape[1])).copy()
        left = right - 1
        width = self.tau[right] - self.tau[left]
        share = np.where(width > 0, (inside - self.tau[left]) / np.where(width > 0, width, 1.0), 1.0)[..., None]
        start, stop = self.weights[left], self.weights[right]
        found: FloatArray = np.clip(start + share * (stop - start), np.minimum(start, stop), np.maximum(start, stop))
        if self.problem is not None and self.problem.passes_through_centre:
            # Where S is singular many mixtures are optimal at tau = 1; the centre is the one that ``solve`` returns.
            found[asked == 1.0] = self.problem.centre
        return found

    @cached_property
    def support(self) -> BoolArray:
        """Which tasks have weight inside each segment [m - 1, n] (for a single breakpoint: [1, n])."""
        if len(self.tau) == 1:
            return np.asarray(self.weights > 0)
        return np.asarray((self.weights[1:] > 0) | (self.weights[:-1] > 0))

    @cached_property
    def arc(self) -> FloatArray:
        """Length of the path from its start to each breakpoint [m], in total variation (half the L1 distance)."""
        steps = np.abs(np.diff(self.weights, axis=0)).sum(axis=1) / 2
        return np.concatenate([[0.0], np.cumsum(steps)])

    def equal_arc(self, k: int, *, tau_min: float | None = None, tau_max: float | None = None) -> FloatArray:
        """k balances at equal distances along the path: the candidates of a search.

        Distances are total variation, so that no two candidates are nearly the same mixture. Both ends of
        [tau_min, tau_max] (of the path, unless given) are candidates for k >= 2; k = 1 gives the middle of the arc.
        Where the mixture does not move, the smallest tau is taken. Fewer than k balances come back, all different,
        when the path is a single point.

        Returns:
            Ascending balances tau [k].
        """
        if k < 1:
            raise InputError(f"the number of candidates must be at least 1, got {k}")
        low = float(self.tau[0]) if tau_min is None else checks.balance(tau_min)
        high = float(self.tau[-1]) if tau_max is None else checks.balance(tau_max)
        if high < low:
            raise InputError(f"tau_max {high:.6g} is below tau_min {low:.6g}")
        inner = (self.tau > low) & (self.tau < high)
        taus = np.concatenate([[low], self.tau[inner], [high]])
        points = np.vstack([self.at(low), self.weights[inner], self.at(high)])
        steps = np.abs(np.diff(points, axis=0)).sum(axis=1) / 2
        length = np.concatenate([[0.0], np.cumsum(steps)])
        if length[-1] <= 1e-12:
            return taus[:1]
        wanted = np.linspace(0.0, length[-1], k) if k > 1 else np.array([length[-1] / 2])
        # Flat stretches have several taus for one length; the first is kept.
        moving = np.concatenate([[True], np.diff(length) > 0])
        found = np.interp(wanted, length[moving], taus[moving])
        return np.asarray(found)

    def intervals(self, task: int) -> list[tuple[float, float]]:
        """The intervals of tau in which a task has weight; the last may end at infinity."""
        if not -self.weights.shape[1] <= task < self.weights.shape[1]:
            raise InputError(f"task {task} is not one of the {self.weights.shape[1]} tasks")
        inside = self.support[:, task]
        edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(np.int8)))
        last = len(self.tau) - 1
        found = []
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            stays = stop >= last and self.complete and self.weights[-1, task] > 0
            found.append((float(self.tau[start]), float("inf") if stays else float(self.tau[min(stop, last)])))
        return found

    @cached_property
    def entry(self) -> FloatArray:
        """Smallest tau at which each task has weight [n]; NaN for a task that never has."""
        return np.array([(self.intervals(i) or [(np.nan, np.nan)])[0][0] for i in range(self.weights.shape[1])])

    @cached_property
    def exit(self) -> FloatArray:
        """Largest tau at which each task has weight [n]; infinity if it never leaves, NaN if it never enters."""
        return np.array([(self.intervals(i) or [(np.nan, np.nan)])[-1][1] for i in range(self.weights.shape[1])])


def path(
    S: npt.ArrayLike,
    *,
    utility: npt.ArrayLike | None = None,
    target: npt.ArrayLike | None = None,
    lower: Bound = None,
    upper: Bound = None,
    tau_min: float = 0.0,
    tau_max: float | None = None,
    noise: float | None = None,
) -> MixturePath:
    """All mixtures for tau in [tau_min, tau_max], exactly: the critical-line method (docs/mathematics.md, section 7).

    About 1.2 to 2.4 breakpoints a task are usual, and the whole path of 5,000 tasks is a matter of a minute. A window
    [tau_min, tau_max] costs only the events inside it; ``grid`` gives single points. A matrix that is singular to
    double precision is followed in double-double arithmetic, which takes some ten times longer.

    Args:
        S: affinities [n, n], as in ``solve``.
        utility: as in ``solve``.
        target: as in ``solve``.
        lower: as in ``solve``.
        upper: as in ``solve``.
        tau_min: start of the window.
        tau_max: end of the window; None follows the path to its last breakpoint, after which it is constant.
        noise: as in ``solve``.

    Raises:
        InputError: shapes, values, bounds or the window cannot be used.
        IndefiniteAffinityError: S is not PSD where it has to be (beyond ``noise``).
    """
    low = checks.balance(tau_min)
    high = None if tau_max is None else checks.balance(tau_max)
    if high is not None and high < low:
        raise InputError(f"tau_max {high:.6g} is below tau_min {low:.6g}")
    with single_threaded_blas():
        problem = build(S, utility, target, lower, upper, noise)
        return trace_path(problem, low, high)


def trace_path(problem: Problem, low: float, high: float | None) -> MixturePath:
    """``path`` for a validated problem."""
    taus, masses, gaps = _without_repeats(*breakpoints(problem, low, high))
    if problem.classes.trivial:
        weights = masses
    else:
        taus, masses = _bend_with_classes(problem, taus, masses)
        weights = np.vstack([problem.expand(mass)[None] for mass in masses])
        gaps, _ = certificates(problem.S, problem.b, taus, weights, problem.lower, problem.upper)
    return MixturePath(
        tau=taus, weights=weights, gap=gaps, complete=high is None, repair=problem.repair, problem=problem
    )


def breakpoints(problem: Problem, low: float, high: float | None) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Breakpoints [m], class masses [m, N] and gaps [m] from tau = low to high (None: the last event).

    Double precision where it suffices, which the certificates decide; else double-double.
    """
    start = find_optimum(problem, low).mass
    S, b, lower, upper = problem.reduced_S, problem.reduced_b, problem.reduced_lower, problem.reduced_upper
    if not problem.singular:
        try:
            taus, masses = Line(S, b, lower, upper).follow(start, low, high)
        except SingularLineError:
            pass
        else:
            gaps, between = certificates(S, b, taus, masses, lower, upper)
            limit = TRACED * np.maximum(1.0, taus) * problem.size
            feasible = np.abs(masses.sum(axis=1) - 1).max() <= TRACED
            if feasible and (gaps <= limit).all() and (between <= limit[1:]).all():
                return taus, masses, gaps
    line = problem.extended_line()
    line.optimum(low, start)
    taus, masses = line.follow(low, high)
    return taus, masses, certificates(S, b, taus, masses, lower, upper)[0]


def _bend_with_classes(problem: Problem, taus: FloatArray, masses: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Add the points at which the split inside a class of duplicates bends."""
    if problem.classes.trivial or len(taus) == 1:
        return taus, masses
    centre = problem.centre
    extra: list[tuple[int, float]] = []
    for group in problem.classes.members():
        mass = masses[:, problem.classes.label[group[0]]]
        for level in duplicates.kinks(group, centre, problem.lower, problem.upper):
            before, after = mass[:-1] - level, mass[1:] - level
            crossed = np.flatnonzero(before * after < 0)
            extra += [(int(s), float(before[s] / (before[s] - after[s]))) for s in crossed]
    if not extra:
        return taus, masses
    segments = np.array([s for s, _ in extra])
    shares = np.array([share for _, share in extra])[:, None]
    more_tau = taus[segments] + shares[:, 0] * (taus[segments + 1] - taus[segments])
    more = (1 - shares) * masses[segments] + shares * masses[segments + 1]
    place = np.concatenate([np.arange(len(taus), dtype=np.float64), segments + shares[:, 0]])
    order = np.argsort(place, kind="stable")
    return np.maximum.accumulate(np.concatenate([taus, more_tau])[order]), np.vstack([masses, more])[order]


def _without_repeats(
    taus: FloatArray, weights: FloatArray, gaps: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Drop breakpoints that repeat their predecessor in tau and weights (zero-length steps)."""
    still = np.flatnonzero(np.diff(taus) <= 1e-14 * np.maximum(1.0, taus[1:])) + 1
    same = still[np.abs(weights[still] - weights[still - 1]).max(axis=1, initial=0.0) <= 1e-13]
    keep = np.ones(len(taus), dtype=bool)
    keep[same] = False
    return (taus, weights, gaps) if keep.all() else (taus[keep], weights[keep], gaps[keep])


def certificates(
    S: FloatArray, b: FloatArray, taus: FloatArray, weights: FloatArray, lower: FloatArray, upper: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """``energy.duality_gap`` at every breakpoint [m], and half-way between neighbours [m - 1]."""
    at, between = np.empty(len(taus)), np.empty(len(taus) - 1)
    for start in range(0, len(taus), BLOCK):
        # One row more, so that the last segment of the block has both its ends.
        p = weights[start : start + BLOCK + 1]
        g = p @ S - taus[start : start + BLOCK + 1, None] * b
        at[start : start + BLOCK] = _gaps(g[:BLOCK], p[:BLOCK], lower, upper)
        between[start : start + BLOCK] = _gaps((g[1:] + g[:-1]) / 2, (p[1:] + p[:-1]) / 2, lower, upper)
    return at, between


def _gaps(g: FloatArray, p: FloatArray, lower: FloatArray, upper: FloatArray) -> FloatArray:
    if (lower > 0).any() or (upper < 1).any():
        return np.array([duality_gap(row, mixture, lower, upper) for row, mixture in zip(g, p, strict=True)])
    return np.asarray(np.einsum("mi,mi->m", g - g.min(axis=1, keepdims=True), p))
