"""The compiled loop that follows the optimum as tau moves (docs/mathematics.md, section 7).

Between two events the free tasks stay the same and the weights are linear in tau. An event is the first weight that
meets a bound (the task leaves the free set) or the first reduced cost that reaches zero (the task enters). Both the
slope of the weights and the slope of all reduced costs change by a multiple of one direction per event, so an event
costs one product with Q, one rank-one update and one pass over the rows of S.
"""

import numpy as np

from taskpgm_ray.mrf._compile import kernel
from taskpgm_ray.mrf._types import FloatArray
from taskpgm_ray.mrf.active_set import DEPENDENT, WORN, exact_border, first, room_along, slide
from taskpgm_ray.mrf.bordered import apply_Q, combine_rows, enter, factorise, leave
from taskpgm_ray.mrf.workspace import FREE, LOWER, UPPER, Workspace

DONE, MORE, FLAT, STALLED = 0, 1, 2, 3
"""Why ``trace`` returned: reached the end, filled the buffers, all reduced costs vanish, or no progress."""

DRIFT = 20.0
"""Distance travelled (largest weight change, relative to tau) after which rounding is removed from the weights."""


@kernel
def restore(W: Workspace, b: FloatArray, tau: float, k: int, c: float, sense: float, mu: FloatArray, d: FloatArray,
            dmu: FloatArray, size: float) -> float:  # fmt: skip
    """Recompute weights, reduced costs and both slopes from the free set, refined against S; return c.

    ``sense`` is +1 when tau grows along the trace, -1 when it falls; d and dmu are per unit of |change of tau|.
    """
    n = len(mu)
    tolerance = 2e-16 * size * max(1.0, tau)
    for attempt in range(4):
        m = 0
        excess = 1.0
        for j in range(n):
            if W.p[j] != 0.0:
                W.rows[m] = j
                W.v[m] = W.p[j]
                excess -= W.p[j]
                m += 1
        combine_rows(W.S, W.rows, W.v, m, mu)
        nu = 0.0
        for j in range(n):
            mu[j] -= tau * b[j]
        for a in range(k):
            nu += W.w[a] * mu[W.A[a]]
        residual = 0.0
        for a in range(k):
            W.s[a] = mu[W.A[a]] - nu
            residual = max(residual, abs(W.s[a]))
        if (residual <= 4 * tolerance and abs(excess) <= 4e-16) or attempt == 3:
            for j in range(n):
                mu[j] -= nu
            break
        if residual > WORN * size * max(1.0, tau) and attempt == 0:
            c = factorise(W.S, W.A, k, W.Q, W.w, c)
        apply_Q(W.Q, W.s, k, W.x)
        for a in range(k):
            # No clipping: it would break the sum, and a rounding error below a bound is harmless here.
            W.p[W.A[a]] += W.w[a] * excess - W.x[a]

    # Slopes: K [d; -dnu] = [sense * b_A; 0].
    d[:] = 0.0
    for a in range(k):
        W.s[a] = sense * b[W.A[a]]
    apply_Q(W.Q, W.s, k, W.x)
    for a in range(k):
        d[W.A[a]] = W.x[a]
    for attempt in range(3):
        excess = 0.0
        largest = 0.0
        for a in range(k):
            W.v[a] = d[W.A[a]]
            excess -= W.v[a]
            largest = max(largest, abs(W.v[a]))
        combine_rows(W.S, W.A, W.v, k, dmu)
        dnu = 0.0
        for j in range(n):
            dmu[j] -= sense * b[j]
        for a in range(k):
            dnu += W.w[a] * dmu[W.A[a]]
        residual = 0.0
        for a in range(k):
            W.s[a] = dmu[W.A[a]] - dnu
            residual = max(residual, abs(W.s[a]))
        if residual <= 4e-16 * size * (1.0 + largest) or attempt == 2:
            for j in range(n):
                dmu[j] -= dnu
            break
        apply_Q(W.Q, W.s, k, W.x)
        for a in range(k):
            d[W.A[a]] += -W.x[a] + W.w[a] * excess
    return c


@kernel
def drop(W: Workspace, slot: int, k: int, c: float, bound: float, mu: FloatArray, d: FloatArray,
         dmu: FloatArray) -> float:  # fmt: skip
    """Take the task in a slot out of the free set at its bound and bend the slopes accordingly; return c.

    A rounding error between its weight and the bound is moved to the other free tasks along the same direction, which
    keeps the sum and stationarity.
    """
    i = W.A[slot]
    factor = -d[i] / W.Q[slot, slot]
    shift_p = (bound - W.p[i]) / W.Q[slot, slot]
    for a in range(k):
        W.x[a] = W.Q[slot, a]
    combine_rows(W.S, W.A, W.x, k, W.v)
    shift = W.w[slot]
    for a in range(k):
        d[W.A[a]] += factor * W.x[a]
        W.p[W.A[a]] += shift_p * W.x[a]
    for j in range(len(dmu)):
        dmu[j] += factor * (W.v[j] + shift)
        mu[j] += shift_p * (W.v[j] + shift)
    d[i] = 0.0
    W.p[i] = bound
    return c + leave(slot, W.A, k, W.Q, W.w, W.t)


@kernel
def record(W: Workspace, k: int, row: FloatArray) -> None:
    """Copy the weights; those that rounding left across a bound are moved onto it along Q, which keeps optimality."""
    row[:] = W.p
    for _ in range(3):
        clean = True
        for a in range(k):
            i = W.A[a]
            bound = min(max(row[i], W.lower[i]), W.upper[i])
            if abs(bound - row[i]) > 1e-17 and W.Q[a, a] > 0.0:
                clean = False
                shift = (bound - row[i]) / W.Q[a, a]
                for e in range(k):
                    row[W.A[e]] += shift * W.Q[a, e]
                row[i] = bound
        if clean:
            return


@kernel
def trace(W: Workspace, b: FloatArray, k: int, c: float, tau: float, end: float, watch_flat: bool, mu: FloatArray,
          d: FloatArray, dmu: FloatArray, blocked: "np.ndarray", out_tau: FloatArray, out_p: FloatArray,
          size: float) -> tuple[int, int, float, float, int]:  # fmt: skip
    """Follow the optimum from tau to ``end``, one event at a time, until the buffers are full.

    Returns (reason, k, c, tau, count): ``count`` rows of out_tau [m] and out_p [m, n] were written, one an event.
    """
    n = len(mu)
    sense = 1.0 if end > tau else -1.0
    dependent = DEPENDENT * size
    count = 0
    still = 0
    drift = 0.0
    moved = -1
    c = restore(W, b, tau, k, c, sense, mu, d, dmu, size)
    while count < len(out_tau) - 3:
        if watch_flat:
            highest = 0.0
            for j in range(n):
                if W.lower[j] < W.upper[j]:
                    highest = max(highest, abs(mu[j]))
            if highest <= 1e-12 * size * max(1.0, tau):
                out_tau[count] = tau
                record(W, k, out_p[count])
                return FLAT, k, c, tau, count + 1
        steepest = 0.0
        for a in range(k):
            steepest = max(steepest, abs(d[W.A[a]]))
        quiet = 1e-15 * size * (1.0 + steepest)
        length = abs(end - tau)
        slot = -1
        enters = -1
        for a in range(k):
            i = W.A[a]
            if d[i] < -1e-15 * (1.0 + steepest):
                room = max(W.p[i] - W.lower[i], 0.0) / -d[i]
            elif d[i] > 1e-15 * (1.0 + steepest):
                room = max(W.upper[i] - W.p[i], 0.0) / d[i]
            else:
                continue
            if room < length:
                length = room
                slot = a
        for j in range(n):
            if j == moved or blocked[j]:
                continue
            if W.status[j] == LOWER and dmu[j] < -quiet:
                room = max(mu[j], 0.0) / -dmu[j]
            elif W.status[j] == UPPER and dmu[j] > quiet:
                room = max(-mu[j], 0.0) / dmu[j]
            else:
                continue
            if room < length:
                length = room
                enters = j
        for a in range(k):
            W.p[W.A[a]] += length * d[W.A[a]]
        for j in range(n):
            mu[j] += length * dmu[j]
        tau += sense * length
        drift += length * steepest
        if slot < 0 and enters < 0:
            out_tau[count] = end
            record(W, k, out_p[count])
            return DONE, k, c, end, count + 1

        if enters >= 0:
            j = enters
            sign = 1.0 if W.status[j] == LOWER else -1.0
            mu[j] = 0.0
            t_n, kappa, c = exact_border(W, j, k, c, size)
            if kappa <= dependent:
                if abs(dmu[j]) <= 1e-13 * size * (1.0 + steepest):
                    # Redundant given the free tasks: its reduced cost stays zero until one of them leaves.
                    blocked[j] = True
                    continue
                out_tau[count] = tau
                record(W, k, out_p[count])
                count += 1
                theta, stop = room_along(W, k, j, sign)
                slide(W, k, j, sign, theta, stop)
                out_tau[count] = tau
                record(W, k, out_p[count])
                count += 1
                if stop >= 0:
                    c = drop(W, stop, k, c, W.p[W.A[stop]], mu, d, dmu)
                    k -= 1
                    if k == 0:
                        c = first(W, j)
                    else:
                        t_n, kappa, c = exact_border(W, j, k, c, size)
                        c += enter(j, W.A, k, W.Q, W.w, W.t, t_n, kappa)
                        W.status[j] = FREE
                    k += 1
                blocked[:] = False
                c = restore(W, b, tau, k, c, sense, mu, d, dmu, size)
                moved = j
                still += 1
            else:
                factor = -dmu[j] / kappa
                for a in range(k):
                    d[W.A[a]] -= factor * W.t[a]
                d[j] = factor
                for i in range(n):
                    dmu[i] += factor * W.v[i]
                c += enter(j, W.A, k, W.Q, W.w, W.t, t_n, kappa)
                W.status[j] = FREE
                k += 1
                moved = j
        else:
            i = W.A[slot]
            bound = W.lower[i] if d[i] < 0 else W.upper[i]
            W.status[i] = LOWER if d[i] < 0 else UPPER
            if length == 0.0 and count > 0 and (W.p[i] < W.lower[i] or W.p[i] > W.upper[i]):
                # Refinement had pushed the weight across its bound: the point recorded last is not feasible.
                count -= 1
            c = drop(W, slot, k, c, bound, mu, d, dmu)
            k -= 1
            if k == 0:
                return STALLED, k, c, tau, count
            blocked[:] = False
            moved = i

        residual = 0.0
        slope_residual = 0.0
        for a in range(k):
            residual = max(residual, abs(mu[W.A[a]]))
            slope_residual = max(slope_residual, abs(dmu[W.A[a]]))
        if (
            residual > 1e-14 * size * max(1.0, tau)
            or slope_residual > 1e-14 * size * (1.0 + steepest)
            or drift > DRIFT * max(1.0, tau)
        ):
            drift = 0.0
            c = restore(W, b, tau, k, c, sense, mu, d, dmu, size)
        out_tau[count] = tau
        record(W, k, out_p[count])
        count += 1
        if length > 1e-14 * max(1.0, tau):
            still = 0
        else:
            still += 1
            if still > 4 * n + 100:
                return STALLED, k, c, tau, count
    return MORE, k, c, tau, count
