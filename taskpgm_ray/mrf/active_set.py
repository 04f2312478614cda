"""A finite active-set method that never needs S to be positive definite: the fallback, and the start of the path.

Wolfe's (1976) nearest-point method with bounds: the free tasks are always affinely independent (kappa > 0), so the
bordered inverse exists for every S that is PSD on 1-perp. Each step either lowers the energy or drops a task.
"""

import numpy as np

from taskpgm_ray.mrf._compile import kernel
from taskpgm_ray.mrf._types import FloatArray
from taskpgm_ray.mrf.bordered import (
    apply_Q,
    border,
    combine_rows,
    enter,
    factorise,
    leave,
    null_direction,
    refine_border,
)
from taskpgm_ray.mrf.workspace import FIXED, FREE, LOWER, UPPER, Workspace

DEPENDENT = 1e-13
"""A task with kappa below this, relative to max|S|, is treated as affinely dependent on the free tasks."""

WORN = 1e-9
"""The inverse is computed afresh when its residual, relative to max|S|, exceeds this."""


@kernel
def set_gradient(W: Workspace, linear: FloatArray) -> None:
    """g = S p - linear, from scratch."""
    m = 0
    for j in range(len(W.p)):
        if W.p[j] != 0.0:
            W.rows[m] = j
            W.v[m] = W.p[j]
            m += 1
    combine_rows(W.S, W.rows, W.v, m, W.g)
    for j in range(len(W.p)):
        W.g[j] -= linear[j]


@kernel
def first(W: Workspace, j: int) -> float:
    """Make j the only free task; return c."""
    W.A[0] = j
    W.Q[0, 0] = 0.0
    W.w[0] = 1.0
    W.status[j] = FREE
    return float(W.S[j, j])


@kernel
def room_along(W: Workspace, k: int, j: int, sign: float) -> tuple[float, int]:
    """How far p can move along sign * (e_j - t_A) inside the bounds, and the slot that stops it (-1: j itself)."""
    theta = W.upper[j] - W.p[j] if sign > 0 else W.p[j] - W.lower[j]
    slot = -1
    for a in range(k):
        i = W.A[a]
        f = sign * W.t[a]
        if f > 1e-12:
            room = (W.p[i] - W.lower[i]) / f
        elif f < -1e-12:
            room = (W.upper[i] - W.p[i]) / -f
        else:
            continue
        if room < theta:
            theta = room
            slot = a
    return max(theta, 0.0), slot


@kernel
def slide(W: Workspace, k: int, j: int, sign: float, theta: float, slot: int) -> None:
    """Move p by theta along sign * (e_j - t_A) and put whatever stopped it exactly on its bound."""
    for a in range(k):
        W.p[W.A[a]] -= sign * theta * W.t[a]
    W.p[j] += sign * theta
    if slot < 0:
        W.p[j] = W.upper[j] if sign > 0 else W.lower[j]
        W.status[j] = UPPER if sign > 0 else LOWER
    else:
        i = W.A[slot]
        if sign * W.t[slot] > 0:
            W.p[i] = W.lower[i]
            W.status[i] = LOWER
        else:
            W.p[i] = W.upper[i]
            W.status[i] = UPPER


@kernel
def exact_border(W: Workspace, j: int, k: int, c: float, size: float) -> tuple[float, float, float]:
    """(t_n, kappa, c) of task j with t in W.t and S (e_j - t_A) - t_n in W.v, refined against S itself.

    Long sequences of updates wear Q out; when it no longer solves its own system, it is computed afresh.
    """
    t_n, kappa = border(W.S, j, W.A, k, W.Q, W.w, c, W.s, W.t)
    fresh = False
    for _ in range(4):
        kappa, residual, excess = null_direction(W.S, j, W.A, k, W.t, t_n, W.v)
        if residual <= 1e-14 * size and abs(excess) <= 1e-14:
            break
        if not fresh and residual > WORN * size:
            c = factorise(W.S, W.A, k, W.Q, W.w, c)
            fresh = True
            t_n, kappa = border(W.S, j, W.A, k, W.Q, W.w, c, W.s, W.t)
        else:
            t_n = refine_border(W.A, k, W.Q, W.w, c, W.t, t_n, W.v, excess, W.s, W.x)
    return t_n, kappa, c


@kernel
def take_in(
    W: Workspace, linear: FloatArray, j: int, k: int, c: float, sign: float, size: float
) -> tuple[int, float, bool]:
    """Make j free. Tasks that depend affinely on the free ones swap places along the null direction.

    Returns (k, c, moved): moved is true when p changed, so that the gradient is stale.
    """
    moved = False
    dependent = DEPENDENT * size
    while True:
        if k == 0:
            return 1, first(W, j), moved
        t_n, kappa, c = exact_border(W, j, k, c, size)
        rate = W.g[j]
        for a in range(k):
            rate -= W.t[a] * W.g[W.A[a]]
        direction = sign
        if direction == 0.0:
            direction = -1.0 if rate > 0 else 1.0
        if kappa > dependent:
            c += enter(j, W.A, k, W.Q, W.w, W.t, t_n, kappa)
            W.status[j] = FREE
            return k + 1, c, moved
        theta, slot = room_along(W, k, j, direction)
        if kappa > 0.01 * dependent and -rate * direction < kappa * theta:
            c += enter(j, W.A, k, W.Q, W.w, W.t, t_n, kappa)
            W.status[j] = FREE
            return k + 1, c, moved
        slide(W, k, j, direction, theta, slot)
        if theta > 0.0:
            moved = True
            set_gradient(W, linear)
        if slot < 0:
            return k, c, moved
        c += leave(slot, W.A, k, W.Q, W.w, W.x)
        k -= 1


@kernel
def minimise(W: Workspace, linear: FloatArray, max_steps: int) -> tuple[bool, int, float]:
    """Minimise p'Sp / 2 - linear'p over the box and the simplex from the feasible point W.p.

    Returns (done, k, c): ``done`` is false when ``max_steps`` ran out. On return the free tasks are W.A[:k] with their
    bordered inverse, and W.g is the gradient.
    """
    n = len(W.p)
    size = 0.0
    diagonal = 0.0
    for j in range(n):
        size = max(size, abs(linear[j]))
        for i in range(n):
            diagonal = max(diagonal, abs(W.S[j, i]))
    size += diagonal
    tolerance = 1e-15 * size
    banned = np.zeros(n, dtype=np.bool_)

    set_gradient(W, linear)
    k = 0
    c = 0.0
    for j in range(n):
        if W.status[j] == FREE:
            k, c, _ = take_in(W, linear, j, k, c, 0.0, diagonal)
    if k == 0:
        # All tasks sit on bounds: free the marginal one, whose gradient is the threshold between upper and lower.
        best = -1
        for j in range(n):
            if W.status[j] == UPPER and (best < 0 or W.g[j] > W.g[best]):
                best = j
        if best < 0:
            for j in range(n):
                if W.status[j] == LOWER and (best < 0 or W.g[j] < W.g[best]):
                    best = j
        if best < 0:
            return True, 0, 0.0
        c = first(W, best)
        k = 1

    last = -1
    for _ in range(max_steps):
        polish = 0
        while True:
            apply_gradient_step(W, k)
            excess = 1.0
            for j in range(n):
                excess -= W.p[j]
            for a in range(k):
                W.x[a] += W.w[a] * excess
            alpha = 1.0
            slot = -1
            for a in range(k):
                i = W.A[a]
                if W.x[a] < 0:
                    room = (W.p[i] - W.lower[i]) / -W.x[a]
                elif W.x[a] > 0:
                    room = (W.upper[i] - W.p[i]) / W.x[a]
                else:
                    continue
                if room < alpha:
                    alpha = max(room, 0.0)
                    slot = a
            moved = 0.0
            for a in range(k):
                W.p[W.A[a]] += alpha * W.x[a]
                moved = max(moved, abs(alpha * W.x[a]))
            if moved > 1e-15:
                banned[:] = False
            if slot >= 0 and k > 1:
                i = W.A[slot]
                if W.x[slot] < 0:
                    W.p[i] = W.lower[i]
                    W.status[i] = LOWER
                else:
                    W.p[i] = W.upper[i]
                    W.status[i] = UPPER
                if i == last and moved <= 1e-15:
                    banned[i] = True
                c += leave(slot, W.A, k, W.Q, W.w, W.t)
                k -= 1
                set_gradient(W, linear)
                continue
            set_gradient(W, linear)
            polish += 1
            nu = 0.0
            for a in range(k):
                nu += W.w[a] * W.g[W.A[a]]
            residual = 0.0
            for a in range(k):
                residual = max(residual, abs(W.g[W.A[a]] - nu))
            if residual <= tolerance or polish >= 6:
                break
            if polish == 3 and residual > 1e-13 * size:
                c = factorise(W.S, W.A, k, W.Q, W.w, c)

        worst = -1
        violation = tolerance
        for j in range(n):
            if banned[j]:
                continue
            if W.status[j] == LOWER and nu - W.g[j] > violation:
                violation = nu - W.g[j]
                worst = j
            elif W.status[j] == UPPER and W.g[j] - nu > violation:
                violation = W.g[j] - nu
                worst = j
        if worst < 0:
            return True, k, c
        sign = 1.0 if W.status[worst] == LOWER else -1.0
        k, c, _ = take_in(W, linear, worst, k, c, sign, diagonal)
        last = worst
    return False, k, c


@kernel
def apply_gradient_step(W: Workspace, k: int) -> None:
    """x = -Q g_A, the step to the minimum over the affine hull of the free tasks."""
    for a in range(k):
        W.s[a] = -W.g[W.A[a]]
    apply_Q(W.Q, W.s, k, W.x)


__all__ = ["FIXED", "FREE", "LOWER", "UPPER", "minimise", "set_gradient"]
