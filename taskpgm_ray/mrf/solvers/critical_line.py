"""The critical line in double precision: the optimum as its linear term moves (docs/mathematics.md, section 7).

Between two events the free tasks stay the same and the weights are linear in tau. At an event one task is exchanged in
the tableau, and weights, reduced costs and their rates all change by a multiple of its column.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from taskpgm_ray.mrf.solvers import tableau as tableaus
from taskpgm_ray.mrf.solvers.events import (
    FREE,
    LOWER,
    UPPER,
    Box,
    Extent,
    Rows,
    State,
    Status,
    next_event,
    record,
    statuses,
)
from taskpgm_ray.mrf.solvers.tableau import PANEL, Tableau
from taskpgm_ray.numerics.compile import exact_inlined, exact_kernel
from taskpgm_ray.numerics.types import FloatArray

INDEPENDENT = 1e-10
"""Least kappa of a free task, relative to max|S|: below, double precision cannot follow the line."""

WORN = 1e-10
"""The tableau is computed afresh when its solutions miss stationarity by more than this, relative to the gradient."""

QUIET = 1e-14
"""Rounding error of a rate, relative to the largest one."""

ENDED, PAUSED, SINGULAR = 0, 1, 2


class SingularLineError(Exception):
    """The free tasks became affinely dependent to double precision, or the line made no progress."""


class Progress(NamedTuple):
    """How far a line has come."""

    tau: float
    moved: int
    """The task of the last event; -1 before the first."""
    still: int
    """Events since tau last grew."""


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
        self._stand_on(p, tau)
        n = len(p)
        taus, rows = [np.array([tau])], [self.weights()[None, :]]
        box, extent, out = Box(self.lower, self.upper), Extent.up_to(end), Rows.empty(PANEL + 1, n)
        progress = Progress(tau, -1, 0)
        while True:
            reason, count, progress = follow_panel(
                self.tableau, self.state, box, extent, progress, INDEPENDENT * self.size, out
            )
            taus.append(out.tau[:count].copy())
            rows.append(out.weights[:count].copy())
            if reason == ENDED:
                return np.concatenate(taus), np.vstack(rows)
            if reason == SINGULAR or progress.still > 4 * n + 100:
                raise SingularLineError
            tableaus.update(self.tableau)
            self._mend(progress.tau)

    def _stand_on(self, p: FloatArray, tau: float) -> None:
        """Start from the optimum p [N] at tau."""
        n = len(p)
        status = statuses(p, self.lower, self.upper, self.S @ p - tau * self.b)
        self.size = max(float(np.abs(self.S).max()), float(np.abs(self.b).max()), 1e-300)
        # Behind the tasks stands the price nu.
        z = np.append(np.where(status == FREE, p, 0.0), 0.0)
        self.state = State(z, np.zeros(n + 1), status, np.where(status == UPPER, self.upper, self.lower))
        self.renew()
        for _ in range(3):
            self.refine(tau)

    def _mend(self, tau: float) -> None:
        """Refine the point at tau, on a new tableau where the updates have worn the old one out."""
        unit = WORN * self.size * max(1.0, tau)
        if self.refine(tau) > unit:
            self.renew()
            self.refine(tau)
            if self.refine(tau) > 1e-3 * unit:
                raise SingularLineError

    def renew(self) -> None:
        """Compute the tableau of the present free tasks from S."""
        found = tableaus.free(self.S, np.flatnonzero(self.state.status == FREE), INDEPENDENT * self.size)
        if found is None:
            raise SingularLineError
        self.tableau = found

    def weights(self) -> FloatArray:
        """The mixture [N]."""
        return np.where(self.state.status == FREE, self.state.z[:-1], self.state.bounds)

    def refine(self, tau: float) -> float:
        """One step of iterative refinement of z and dz against S itself; returns the residual before it."""
        z, dz = self.state.z, self.state.dz
        free = self.state.status == FREE
        point = np.vstack([self.weights(), np.where(free, dz[:-1], 0.0)])
        # Two products of a matrix and a vector are faster than one with two thin columns.
        gradient = np.vstack([point[0] @ self.S, point[1] @ self.S])
        gradient[0] -= tau * self.b
        gradient[1] -= self.b
        gradient += np.array([[z[-1]], [dz[-1]]])
        residual = np.zeros((2, len(z)))
        residual[:, :-1] = np.where(free, gradient, 0.0)
        residual[:, -1] = point.sum(axis=1) - [1.0, 0.0]
        for values, slope, error in zip((z, dz), gradient, residual, strict=True):
            step = error @ self.tableau.T
            values[:-1] = np.where(free, values[:-1] + step[:-1], slope - step[:-1])
            values[-1] += step[-1]
        return float(np.abs(residual[0]).max())


@exact_kernel
def follow_panel(
    tableau: Tableau, state: State, box: Box, extent: Extent, progress: Progress, smallest: float, out: Rows
) -> tuple[int, int, Progress]:
    """Follow the line until its extent or until the panel is full -> (reason, rows written, progress).

    Every event writes a row. A task whose squared distance from the others is at most ``smallest`` cannot enter.
    """
    z, dz, status, bounds = state.z, state.dz, state.status, state.bounds
    tau, moved, still = progress.tau, progress.moved, progress.still
    c = np.empty(len(status) + 1)
    count = 0
    while tableau.used[0] < len(tableau.pending):
        length, j = next_event(state, box, moved, QUIET)
        if j < 0 or tau + length >= extent.end:
            if extent.open_end:
                return ENDED, count, Progress(tau, moved, still)
            _advance(z, dz, extent.end - tau)
            record(state, box, -1, out.weights[count])
            out.tau[count] = extent.end
            return ENDED, count + 1, Progress(extent.end, moved, still)
        still = still + 1 if length <= 1e-14 * max(1.0, tau) else 0
        tau += length
        _advance(z, dz, length)
        tableaus.column(tableau, j, c)
        entering = status[j] != FREE
        if (entering and c[j] <= smallest) or (not entering and c[j] >= 0.0):
            return SINGULAR, count, Progress(tau, moved, still)
        if entering:
            goal = 0.0
        else:
            status[j] = LOWER if dz[j] < 0.0 else UPPER
            goal = box.lower[j] if dz[j] < 0.0 else box.upper[j]
        # What rounding left of the value that should have vanished moves along the same column as the rates.
        jump, bend = (goal - z[j]) / abs(c[j]), -dz[j] / abs(c[j])
        _turn(z, dz, status, c, jump, bend)
        if entering:
            z[j] = bounds[j] + jump
            status[j] = FREE
        else:
            z[j] = jump
            bounds[j] = goal
        dz[j] = bend
        moved = j
        tableaus.exchange(tableau, j, c)
        record(state, box, j if entering else -1, out.weights[count])
        out.tau[count] = tau
        count += 1
    return PAUSED, count, Progress(tau, moved, still)


@exact_inlined
def _advance(z: FloatArray, dz: FloatArray, length: float) -> None:
    """Go along the line."""
    for i in range(len(z)):
        z[i] += length * dz[i]


@exact_inlined
def _turn(z: FloatArray, dz: FloatArray, status: Status, c: FloatArray, jump: float, bend: float) -> None:
    """Move all values and rates along a column c; those of free tasks and the price against it."""
    n = len(status)
    for i in range(n):
        if status[i] == FREE:
            z[i] -= jump * c[i]
            dz[i] -= bend * c[i]
        else:
            z[i] += jump * c[i]
            dz[i] += bend * c[i]
    z[n] -= jump * c[n]
    dz[n] -= bend * c[n]
