"""From a problem to the breakpoints of its path: starts, flat stretches, restarts."""

from dataclasses import dataclass

import numpy as np

from taskpgm_ray.errors import TaskPGMError
from taskpgm_ray.mrf import active_set, critical_line
from taskpgm_ray.mrf._types import FloatArray
from taskpgm_ray.mrf.optimum import feasible_start, optimum, reduced_gap
from taskpgm_ray.mrf.problem import Problem
from taskpgm_ray.mrf.workspace import FREE, Workspace, workspace

TRACED = 5e-13
"""Largest gap of a traced point, in units of max(1, max|S|) * max(1, tau)."""

BUFFER = 512
"""Events between two returns of the compiled loop."""

FIRST_STEP = 1e-7
"""Length of the first step, relative to tau, over a place that cannot be traced."""

MENDS = 100
"""Most points that are added where the middle of a segment is not certified."""

RESTARTS = 100
"""How often a trace that lost its way may start again from a fresh solution before that is an error."""


@dataclass
class Point:
    """A start of the trace: the state of an active-set method at the optimum of one tau."""

    W: Workspace
    k: int
    c: float
    tau: float
    mass: FloatArray
    """The certified optimum [N] (W.p may differ from it by rounding that a nearly singular S enlarges)."""


def breakpoints(problem: Problem, tau_min: float, tau_max: float | None) -> tuple[FloatArray, FloatArray]:
    """Breakpoints tau [m], ascending, and class masses [m, N] from tau_min to tau_max (None: the last breakpoint)."""
    singular = numerically_singular(problem) and problem.passes_through_centre
    centre = problem.classes.sums(problem.centre)
    start = limit_point(problem) if tau_max is None else start_at(problem, max(tau_max, 1.0) if singular else tau_max)
    if start.tau <= tau_min:
        return np.array([tau_min]), start.mass[None, :]
    taus, masses, flat = walk(problem, start, tau_min, singular)
    if not flat:
        return taus[::-1], masses[::-1]
    # Between the flat point above and the one below, all reduced costs vanish and every mixture with the same image
    # under S is optimal; the straight lines through the centre are among them.
    joined_tau, joined = [np.array([1.0]), np.maximum(taus[::-1], 1.0)], [centre[None, :], masses[::-1]]
    if tau_min < 1:
        below_tau, below, _ = walk(problem, start_at(problem, tau_min), 1.0, True)
        joined_tau.insert(0, below_tau)
        joined.insert(0, below)
    return np.concatenate(joined_tau), np.vstack(joined)


def numerically_singular(problem: Problem) -> bool:
    """True when a pivot of the Cholesky factor is at rounding level: the optimum near tau = 1 is then not unique."""
    if problem.factor is None:
        return True
    scale = float(np.abs(problem.M).max())
    return bool(float(np.diag(problem.factor).min()) ** 2 <= 1e-10 * scale)


def walk(problem: Problem, start: Point, end: float, watch_flat: bool) -> tuple[FloatArray, FloatArray, bool]:
    """Trace from a start to ``end``; returns tau, masses in the order of travel, and whether it stopped at a flat."""
    S, b = problem.reduced_S, problem.reduced_b
    n = len(b)
    size = max(float(np.abs(S).max()), float(np.abs(b).max()), 1e-300)
    taus, masses = [np.array([start.tau])], [start.mass[None, :]]
    mu, d, dmu = np.zeros(n), np.zeros(n), np.zeros(n)
    blocked = np.zeros(n, dtype=bool)
    out_tau, out_p = np.zeros(BUFFER), np.zeros((BUFFER, n))
    state = start
    step, stuck = 0.0, np.nan
    for _ in range(RESTARTS):
        while True:
            reason, k, c, tau, count = critical_line.trace(
                state.W, b, state.k, state.c, state.tau, end, watch_flat, mu, d, dmu, blocked, out_tau, out_p, size
            )
            good = _certified(problem, out_tau[:count], out_p[:count])
            taus.append(out_tau[:good].copy())
            masses.append(out_p[:good].copy())
            if good < count:
                reason = critical_line.STALLED
            state = Point(state.W, k, c, tau, state.mass)
            if reason != critical_line.MORE:
                break
        if reason in (critical_line.DONE, critical_line.FLAT):
            return np.concatenate(taus), np.vstack(masses), reason == critical_line.FLAT
        reached = float(np.concatenate(taus)[-1])
        # A second failure near the same place: leave it by a step, four times longer while that does not help.
        near = abs(reached - stuck) <= 10 * step + 1e-14
        step = max(4 * step, FIRST_STEP * max(1.0, reached)) if near else 0.0
        stuck = reached
        if step >= abs(end - reached):
            step = abs(end - reached)
        state = start_at(problem, reached + step if end > reached else reached - step)
        blocked[:] = False
        if state.tau == end:
            return np.append(np.concatenate(taus), end), np.vstack([*masses, state.mass[None, :]]), False
        taus.append(np.array([state.tau]))
        masses.append(state.mass[None, :])
    raise TaskPGMError(
        f"the path could not be followed below tau = {state.tau:.6g} after {RESTARTS} restarts: S is too close to "
        "singular for double precision; use grid(S, taus) for certified points"
    )


def _certified(problem: Problem, taus: FloatArray, masses: FloatArray) -> int:
    """How many leading rows carry a certificate near rounding."""
    if not problem.bounded:
        g = masses @ problem.reduced_S - taus[:, None] * problem.reduced_b
        gaps = (g * masses).sum(axis=1) - g.min(axis=1) * masses.sum(axis=1)
    else:
        gaps = np.array([reduced_gap(problem, tau, mass) for tau, mass in zip(taus, masses, strict=True)])
    limits = TRACED * np.array([problem.scale(tau) for tau in taus])
    outside = np.maximum(problem.reduced_lower - masses, masses - problem.reduced_upper).max(axis=1, initial=0.0)
    bad = np.flatnonzero(~(gaps <= limits) | (outside > 1e-13) | (np.abs(masses.sum(axis=1) - 1) > 1e-12))
    return int(bad[0]) if len(bad) else len(taus)


def mend(problem: Problem, taus: FloatArray, masses: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Bisect the segments whose middle is not certified: a breakpoint was missed there (restarts, see ``walk``).

    Each half that still fails is halved again with a fresh optimum in the middle.
    """
    masses = masses.copy()
    for i in range(len(taus)):
        if _certified(problem, taus[i : i + 1], masses[i : i + 1]) == 0:
            masses[i] = optimum(problem, float(taus[i]), np.clip(masses[i], 0.0, None)).mass
    points = list(zip(taus.tolist(), masses, strict=True))
    mended = points[:1]
    left = MENDS
    for point in points[1:]:
        pending = [point]
        while pending:
            (low, p), (high, q) = mended[-1], pending[-1]
            middle, between = (low + high) / 2, (p + q) / 2
            narrow = high - low <= 1e-12 * max(1.0, high) or left == 0
            if narrow or reduced_gap(problem, middle, between) <= TRACED * problem.scale(middle):
                mended.append(pending.pop())
            else:
                left -= 1
                pending.append((middle, optimum(problem, middle, np.maximum(between, 0.0)).mass))
    return np.array([tau for tau, _ in mended]), np.array([mass for _, mass in mended])


def start_at(problem: Problem, tau: float) -> Point:
    """The optimum at one tau with its free set and bordered inverse."""
    mass = optimum(problem, tau).mass
    state = _activate(problem, mass, tau * problem.reduced_b, problem.reduced_lower, problem.reduced_upper, tau)
    state.mass = mass
    return state


def limit_point(problem: Problem) -> Point:
    """The limit of large tau, placed at the largest finite breakpoint.

    The limit maximises b'p and, where that leaves a face of the box, minimises p'Sp on it.
    """
    b, lower, upper = problem.reduced_b, problem.reduced_lower, problem.reduced_upper
    p = feasible_start(b, lower, upper)
    inside = (p > lower) & (upper > lower)
    price = float(b[inside].min()) if inside.any() else float(b.max())
    tied = np.abs(b - price) <= 1e-13 * max(float(np.abs(b).max()), 1e-300)
    state = _activate(problem, p, np.zeros_like(b), np.where(tied, lower, p), np.where(tied, upper, p), 0.0)
    p = np.clip(state.W.p, lower, upper)
    W = workspace(problem.reduced_S, lower, upper, p)
    W.A[:], W.Q[:], W.w[:] = state.W.A, state.W.Q, state.W.w
    W.status[W.A[: state.k]] = FREE
    if state.k == 0:
        return Point(W, 0, 0.0, 0.0, p)
    Sp = problem.reduced_S @ p
    A = W.A[: state.k]
    level = float(W.w[: state.k] @ Sp[A])
    away = ~tied & (upper > lower)
    with np.errstate(divide="ignore", invalid="ignore"):
        events = (Sp[away] - level) / (b[away] - price)
    return Point(W, state.k, state.c, max(0.0, float(events.max())) if away.any() else 0.0, p)


def _activate(
    problem: Problem, p: FloatArray, linear: FloatArray, lower: FloatArray, upper: FloatArray, tau: float
) -> Point:
    W = workspace(problem.reduced_S, lower, upper, p)
    # Steps may run out on a nearly singular S; every point that is traced from here is certified anyway.
    _, k, c = active_set.minimise(W, linear, 5 * len(p) + 200)
    return Point(W, k, c, tau, np.clip(W.p, lower, upper))
