"""From a problem to the breakpoints of its path: starts, flat stretches, restarts."""

from dataclasses import dataclass

import numpy as np

from taskpgm_ray.errors import TaskPGMError
from taskpgm_ray.mrf import active_set, critical_line
from taskpgm_ray.mrf._types import FloatArray
from taskpgm_ray.mrf.optimum import feasible_start, optimum, reduced_gap
from taskpgm_ray.mrf.problem import Problem
from taskpgm_ray.mrf.workspace import FREE, Workspace, workspace

BUFFER = 512
"""Events between two returns of the compiled loop."""

FIRST_STEP = 1e-7
"""Length of the first step, relative to tau, over a place that cannot be traced."""

RESTARTS = 200
"""How often a trace that lost its way may start again from a fresh solution before that is an error."""


@dataclass
class Point:
    """A start of the trace: the state of an active-set method at the optimum of one tau."""

    W: Workspace
    k: int
    c: float
    tau: float


def breakpoints(problem: Problem, tau_min: float, tau_max: float | None) -> tuple[FloatArray, FloatArray]:
    """Breakpoints tau [m], ascending, and class masses [m, N] from tau_min to tau_max (None: the last breakpoint)."""
    singular = numerically_singular(problem) and problem.passes_through_centre
    centre = problem.classes.sums(problem.centre)
    start = limit_point(problem) if tau_max is None else start_at(problem, max(tau_max, 1.0) if singular else tau_max)
    if start.tau <= tau_min:
        return np.array([tau_min]), start.W.p[None, :].copy()
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
    taus, masses = [np.array([start.tau])], [start.W.p[None, :].copy()]
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
            state = Point(state.W, k, c, tau)
            if reason != critical_line.MORE:
                break
        if reason in (critical_line.DONE, critical_line.FLAT):
            return np.concatenate(taus), np.vstack(masses), reason == critical_line.FLAT
        reached = float(np.concatenate(taus)[-1])
        # A second failure at the same place: leave it by a step, doubled while that does not help.
        step = max(4 * step, FIRST_STEP * max(1.0, reached)) if reached == stuck else 0.0
        stuck = reached
        if step >= abs(end - reached):
            step = abs(end - reached)
        state = start_at(problem, reached + step if end > reached else reached - step)
        blocked[:] = False
        if state.tau == end:
            return np.append(np.concatenate(taus), end), np.vstack([*masses, state.W.p[None, :]]), False
        taus.append(np.array([state.tau]))
        masses.append(state.W.p[None, :].copy())
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
    limits = 5e-13 * np.array([problem.scale(tau) for tau in taus])
    bad = np.flatnonzero(~(gaps <= limits))
    return int(bad[0]) if len(bad) else len(taus)


def start_at(problem: Problem, tau: float) -> Point:
    """The optimum at one tau with its free set and bordered inverse."""
    mass = optimum(problem, tau).mass
    return _activate(problem, mass, tau * problem.reduced_b, problem.reduced_lower, problem.reduced_upper, tau)


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
        return Point(W, 0, 0.0, 0.0)
    Sp = problem.reduced_S @ p
    A = W.A[: state.k]
    level = float(W.w[: state.k] @ Sp[A])
    away = ~tied & (upper > lower)
    with np.errstate(divide="ignore", invalid="ignore"):
        events = (Sp[away] - level) / (b[away] - price)
    return Point(W, state.k, state.c, max(0.0, float(events.max())) if away.any() else 0.0)


def _activate(
    problem: Problem, p: FloatArray, linear: FloatArray, lower: FloatArray, upper: FloatArray, tau: float
) -> Point:
    W = workspace(problem.reduced_S, lower, upper, p)
    done, k, c = active_set.minimise(W, linear, 50 * len(p) + 200)
    if not done:
        raise TaskPGMError(f"the active-set method did not finish at tau = {tau:.6g}; use grid(S, taus) instead")
    return Point(W, k, c, tau)
