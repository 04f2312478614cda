"""The critical line in double precision: the optimum as its linear term moves (docs/mathematics.md, section 7).

Between two events the free tasks stay the same and the weights are linear in tau. At an event one task is exchanged in
the tableau, and weights, reduced costs and their rates all change by a multiple of its column.
"""

from dataclasses import dataclass

import numpy as np

from taskpgm_ray.mrf import tableau as tableaus
from taskpgm_ray.mrf._compile import kernel
from taskpgm_ray.mrf._types import FloatArray
from taskpgm_ray.mrf.events import FREE, LIMIT, LOWER, UPPER, Status, next_event, record, statuses
from taskpgm_ray.mrf.tableau import PANEL, Tableau

INDEPENDENT = 1e-10
"""Least kappa of a free task, relative to max|S|: below, double precision cannot follow the line."""

WORN = 1e-10
"""The tableau is computed afresh when its solutions miss stationarity by more than this, relative to the gradient."""

QUIET = 1e-14
"""Rounding error of a rate, relative to the largest one."""

ENDED, PAUSED, SINGULAR = 0, 1, 2


class SingularLineError(Exception):
    """The free tasks became affinely dependent to double precision, or the line made no progress."""


@dataclass
class Line:
    """Minimise p'Sp / 2 - tau b'p over {lower <= p <= upper, sum p = 1} as tau grows.

    All arrays are over N tasks without exact duplicates.
    """

    S: FloatArray
    b: FloatArray
    lower: FloatArray
    upper: FloatArray

    def follow(self, p: FloatArray, tau: float, end: float | None) -> tuple[FloatArray, FloatArray]:
        """Breakpoints from the optimum p [N] at tau up to ``end`` -> (taus [m], weights [m, N]), ascending.

        The first row is tau itself, the last one ``end``; without an end, the last event.

        Raises:
            SingularLineError: double precision does not suffice; ``extended`` does.
        """
        self.status = statuses(p, self.lower, self.upper, self.S @ p - tau * self.b)
        self.bounds = np.where(self.status == UPPER, self.upper, self.lower)
        self.size = max(float(np.abs(self.S).max()), float(np.abs(self.b).max()), 1e-300)
        self.renew()
        n = len(p)
        self.z, self.dz = np.where(self.status == FREE, p, 0.0), np.zeros(n + 1)
        self.z = np.append(self.z, 0.0)
        for _ in range(3):
            self.refine(tau)
        taus, rows = [np.array([tau])], [self.weights()[None, :]]
        out_tau, out_p = np.zeros(PANEL + 1), np.zeros((PANEL + 1, n))
        moved, still = -1, 0
        while True:
            reason, tau, count, moved, still = follow_panel(
                self.tableau, self.z, self.dz, self.status, self.bounds, self.lower, self.upper, tau,
                LIMIT if end is None else end, end is None, moved, still, INDEPENDENT * self.size, out_tau, out_p,
            )  # fmt: skip
            taus.append(out_tau[:count].copy())
            rows.append(out_p[:count].copy())
            if reason == ENDED:
                return np.concatenate(taus), np.vstack(rows)
            if reason == SINGULAR or still > 4 * n + 100:
                raise SingularLineError
            tableaus.update(self.tableau)
            if self.refine(tau) > WORN * self.size * max(1.0, tau):
                self.renew()
                self.refine(tau)
                if self.refine(tau) > 1e-3 * WORN * self.size * max(1.0, tau):
                    raise SingularLineError

    def renew(self) -> None:
        """Compute the tableau of the present free tasks from S."""
        found = tableaus.free(self.S, np.flatnonzero(self.status == FREE), INDEPENDENT * self.size)
        if found is None:
            raise SingularLineError
        self.tableau = found

    def weights(self) -> FloatArray:
        """The mixture [N]."""
        return np.where(self.status == FREE, self.z[:-1], self.bounds)

    def refine(self, tau: float) -> float:
        """One step of iterative refinement of z and dz against S itself; returns the residual before it."""
        free = self.status == FREE
        point = np.vstack([self.weights(), np.where(free, self.dz[:-1], 0.0)])
        # Two products of a matrix and a vector are faster than one with two thin columns.
        gradient = np.vstack([point[0] @ self.S, point[1] @ self.S])
        gradient[0] -= tau * self.b
        gradient[1] -= self.b
        gradient += np.array([[self.z[-1]], [self.dz[-1]]])
        residual = np.zeros((2, len(self.z)))
        residual[:, :-1] = np.where(free, gradient, 0.0)
        residual[:, -1] = point.sum(axis=1) - [1.0, 0.0]
        step = np.vstack([residual[0] @ self.tableau.T, residual[1] @ self.tableau.T])
        self.z[:-1] = np.where(free, self.z[:-1] + step[0, :-1], gradient[0] - step[0, :-1])
        self.dz[:-1] = np.where(free, self.dz[:-1] + step[1, :-1], gradient[1] - step[1, :-1])
        self.z[-1] += step[0, -1]
        self.dz[-1] += step[1, -1]
        return float(np.abs(residual[0]).max())


@kernel
def follow_panel(
    tableau: Tableau,
    z: FloatArray,
    dz: FloatArray,
    status: Status,
    bounds: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    tau: float,
    end: float,
    open_end: bool,
    moved: int,
    still: int,
    smallest: float,
    out_tau: FloatArray,
    out_p: FloatArray,
) -> tuple[int, float, int, int, int]:
    """Follow the line until the end or until the panel is full -> (reason, tau, rows written, moved, still).

    Every event writes tau and the weights into a row of out_tau [m] and out_p [m, N]. ``still`` counts events since
    tau last grew.
    """
    n = len(status)
    c = np.empty(n + 1)
    count = 0
    while tableau.used[0] < len(tableau.pending):
        length, j = next_event(z, dz, status, bounds, lower, upper, moved, QUIET)
        if j < 0 or tau + length >= end:
            if open_end:
                return ENDED, tau, count, moved, still
            for i in range(n + 1):
                z[i] += (end - tau) * dz[i]
            record(z, status, bounds, lower, upper, out_p[count])
            out_tau[count] = end
            return ENDED, end, count + 1, moved, still
        still = still + 1 if length <= 1e-14 * max(1.0, tau) else 0
        tau += length
        for i in range(n + 1):
            z[i] += length * dz[i]
        tableaus.column(tableau, j, c)
        entering = status[j] != FREE
        pivot = abs(c[j])
        if (entering and c[j] <= smallest) or (not entering and c[j] >= 0.0):
            return SINGULAR, tau, count, moved, still
        if entering:
            goal = 0.0
        else:
            status[j] = LOWER if dz[j] < 0.0 else UPPER
            goal = lower[j] if dz[j] < 0.0 else upper[j]
        # What rounding left of the value that should have vanished moves along the same column as the rates.
        jump, bend = (goal - z[j]) / pivot, -dz[j] / pivot
        for i in range(n):
            if status[i] == FREE:
                z[i] -= jump * c[i]
                dz[i] -= bend * c[i]
            else:
                z[i] += jump * c[i]
                dz[i] += bend * c[i]
        z[n] -= jump * c[n]
        dz[n] -= bend * c[n]
        if entering:
            z[j] = bounds[j] + jump
            status[j] = FREE
        else:
            z[j] = jump
            bounds[j] = goal
        dz[j] = bend
        moved = j
        tableaus.exchange(tableau, j, c)
        record(z, status, bounds, lower, upper, out_p[count])
        out_tau[count] = tau
        count += 1
    return PAUSED, tau, count, moved, still
