"""``path``: every breakpoint of the mixture over the balance tau, exactly."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf import checks, duplicates
from taskpgm_ray.mrf._threads import single_threaded_blas
from taskpgm_ray.mrf._types import BoolArray, Bound, FloatArray
from taskpgm_ray.mrf.energy import duality_gap
from taskpgm_ray.mrf.problem import Problem, build
from taskpgm_ray.mrf.psd import Repair


@dataclass(frozen=True)
class MixturePath:
    """The optimal mixture as a function of tau: linear between the breakpoints, constant after the last one.

    Two breakpoints may share one tau where the mixture jumps between optima of equal energy (this needs an S that is
    singular on differences of mixtures); ``at`` then returns the second.
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
        asked = checks.as_floats(tau, "tau")
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
        return np.asarray((1 - share) * self.weights[left] + share * self.weights[right])

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

    About 1.2 to 2.4 breakpoints a task are usual. The whole path is practical to a few thousand tasks; above that take
    a window [tau_min, tau_max], which costs only the events inside it, or ``grid``.

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
    from taskpgm_ray.mrf.follow import breakpoints, mend

    taus, masses = breakpoints(problem, low, high)
    taus, masses = mend(problem, *_window(taus, masses, low, high))
    taus, masses = _bend_with_classes(problem, taus, masses)
    weights = masses if problem.classes.trivial else np.vstack([problem.expand(mass)[None] for mass in masses])
    taus, weights = _without_repeats(taus, np.clip(weights, problem.lower, problem.upper))
    return MixturePath(
        tau=taus, weights=weights, gap=_gaps(problem, taus, weights), complete=high is None, repair=problem.repair,
        problem=problem,
    )  # fmt: skip


def _window(taus: FloatArray, masses: FloatArray, low: float, high: float | None) -> tuple[FloatArray, FloatArray]:
    """Cut to [low, high], with points exactly at the ends."""
    end = max(float(taus[-1]), low) if high is None else high
    keep = (taus >= low) & (taus <= end)
    parts_tau, parts = [taus[keep]], [masses[keep]]
    for edge, side in ((low, 0), (end, 1)):
        if not (taus[keep] == edge).any():
            point = np.array([np.interp(edge, taus, column) for column in masses.T])
            parts_tau.insert(0 if side == 0 else len(parts_tau), np.array([edge]))
            parts.insert(0 if side == 0 else len(parts), point[None, :])
    return np.concatenate(parts_tau), np.vstack(parts)


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
    return np.concatenate([taus, more_tau])[order], np.vstack([masses, more])[order]


def _without_repeats(taus: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Drop breakpoints that repeat their predecessor in tau and weights (zero-length steps)."""
    same_tau = np.diff(taus) <= 1e-14 * np.maximum(1.0, taus[1:])
    same = same_tau & (np.abs(np.diff(weights, axis=0)).max(axis=1, initial=0.0) <= 1e-13)
    keep = np.concatenate([[True], ~same])
    return taus[keep], weights[keep]


def _gaps(problem: Problem, taus: FloatArray, weights: FloatArray) -> FloatArray:
    g = weights @ problem.S - taus[:, None] * problem.b
    if problem.bounded:
        return np.array([duality_gap(row, p, problem.lower, problem.upper) for row, p in zip(g, weights, strict=True)])
    g -= g.min(axis=1, keepdims=True)
    return np.asarray((g * weights).sum(axis=1))
