"""The critical line in double-double arithmetic, for matrices that are singular to double precision.

Nearly equal tasks, fewer probes than tasks, very wide kernels: the distances kappa of such tasks from the hull of the
others drown in the rounding of a double-precision inverse, and the optimum need not be unique. Here every number has
about 32 digits (``numerics.double_double``), and a ridge of RIDGE * max|S| picks one optimum: of all, the one nearest
to tau times the target. The ridge moves the energy of a mixture by less than the certificate can see.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from taskpgm_ray.errors import TaskPGMError
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
from taskpgm_ray.numerics.compile import exact_inlined, exact_kernel
from taskpgm_ray.numerics.double_double import Pair, add, add_scaled, divide, multiply, multiply_matrix, widened
from taskpgm_ray.numerics.psd import RIDGE
from taskpgm_ray.numerics.types import FloatArray, IntArray

QUIET = 1e-26
"""Rounding error of a rate, relative to the largest one."""

BUFFER = 256
"""Events between two returns of the compiled loop."""


class ExtendedState(NamedTuple):
    """``events.State`` in double-double."""

    z: Pair
    dz: Pair
    status: Status
    bounds: FloatArray


@exact_kernel
def single(S: FloatArray, ridge: FloatArray, j: int, T: Pair) -> None:
    """Fill the lower triangle of T [n, n] with the tableau (see ``tableau``) whose only free task is j, borderless."""
    n = len(S)
    ph, pl = add(S[j, j], 0.0, ridge[j], 0.0)
    for i in range(n):
        for k in range(i + 1):
            if i == j or k == j:
                T.high[i, k] = 0.0 if i == k else 1.0
                T.low[i, k] = 0.0
                continue
            h, e = add(ph, pl, S[i, k], ridge[i] if i == k else 0.0)
            h, e = add(h, e, -S[i, j], 0.0)
            T.high[i, k], T.low[i, k] = add(h, e, -S[k, j], 0.0)


@exact_kernel
def column(T: Pair, j: int, c: Pair) -> None:
    """Fill c [n] with column j of the tableau."""
    for k in range(len(c.high)):
        if k <= j:
            c.high[k], c.low[k] = T.high[j, k], T.low[j, k]
        else:
            c.high[k], c.low[k] = T.high[k, j], T.low[k, j]


@exact_kernel
def exchange(T: Pair, j: int, c: Pair) -> None:
    """Move task j into the free tasks or out of them; c is its column."""
    high, low, ch, cl = T.high, T.low, c.high, c.low
    n = len(ch)
    gh, gl = np.empty(n), np.empty(n)
    for k in range(n):
        gh[k], gl[k] = divide(ch[k], cl[k], ch[j], cl[j])
    for i in range(n):
        if i == j:
            continue
        fh, fl = -ch[i], -cl[i]
        row, rest = high[i], low[i]
        for k in range(i + 1):
            ph, pl = multiply(fh, fl, gh[k], gl[k])
            row[k], rest[k] = add(row[k], rest[k], ph, pl)
    sign = 1.0 if ch[j] > 0 else -1.0
    for k in range(n):
        if k < j:
            high[j, k], low[j, k] = sign * gh[k], sign * gl[k]
        elif k > j:
            high[k, j], low[k, j] = sign * gh[k], sign * gl[k]
    h, e = divide(1.0, 0.0, ch[j], cl[j])
    high[j, j], low[j, j] = -h, -e


@exact_kernel
def rates(T: Pair, status: Status, v: Pair, dz: Pair) -> None:
    """Fill dz [n]: how weights and reduced costs move when the linear term moves along v [n].

    d_A = -T_AA v_A, dmu_C = T_CA v_A - v_C.
    """
    n = len(status)
    c = Pair(np.empty(n), np.empty(n))
    for i in range(n):
        column(T, i, c)
        h, e = 0.0, 0.0
        for k in range(n):
            if status[k] == FREE:
                ph, pl = multiply(c.high[k], c.low[k], v.high[k], v.low[k])
                h, e = add(h, e, ph, pl)
        if status[i] == FREE:
            dz.high[i], dz.low[i] = -h, -e
        else:
            dz.high[i], dz.low[i] = add(h, e, -v.high[i], -v.low[i])


@exact_kernel
def follow(
    T: Pair, state: ExtendedState, box: Box, extent: Extent, parameter: FloatArray, moved: int, out: Rows
) -> tuple[bool, int, int]:
    """Follow the line until its extent or until the rows are full -> (ended, rows written, moved).

    ``parameter`` [2] is the pair of the line's parameter; a pivot that is not positive returns rows = -1.
    """
    (zh, zl), (dh, dl), status, bounds = state.z, state.dz, state.status, state.bounds
    rounded = State(zh, dh, status, bounds)
    n = len(status)
    ch, cl = np.empty(n), np.empty(n)
    c = Pair(ch, cl)
    count = 0
    while count < len(out.tau):
        length, j = next_event(rounded, box, moved, QUIET)
        # Rates reach 1 / RIDGE: what is left of the line must not be rounded to the digits of the end.
        lh, ll = add(extent.end, 0.0, -parameter[0], -parameter[1])
        if j < 0 or length >= lh:
            if extent.open_end:
                return True, count, moved
            advance(state.z, state.dz, lh, ll)
            parameter[0], parameter[1] = extent.end, 0.0
            record(rounded, box, -1, out.weights[count])
            out.tau[count] = extent.end
            return True, count + 1, moved
        entering = status[j] != FREE
        if entering:
            goal = 0.0
        else:
            goal = box.lower[j] if dh[j] < 0.0 else box.upper[j]
        if length > 0.0:
            rh, rl = add(goal, 0.0, -zh[j], -zl[j])
            lh, ll = divide(rh, rl, dh[j], dl[j])
            if lh < 0.0:
                lh, ll = 0.0, 0.0
            advance(state.z, state.dz, lh, ll)
            parameter[0], parameter[1] = add(parameter[0], parameter[1], lh, ll)
        column(T, j, c)
        if (ch[j] <= 0.0) if entering else (ch[j] >= 0.0):
            return False, -1, j
        sign = 1.0 if ch[j] > 0.0 else -1.0
        rh, rl = add(goal, 0.0, -zh[j], -zl[j])
        jh, jl = divide(sign * rh, sign * rl, ch[j], cl[j])
        bh, bl = divide(-sign * dh[j], -sign * dl[j], ch[j], cl[j])
        _turn(state.z, status, c, jh, jl)
        _turn(state.dz, status, c, bh, bl)
        if entering:
            zh[j], zl[j] = add(bounds[j], 0.0, jh, jl)
            status[j] = FREE
        else:
            zh[j], zl[j] = jh, jl
            status[j] = LOWER if goal == box.lower[j] else UPPER
            bounds[j] = goal
        dh[j], dl[j] = bh, bl
        moved = j
        exchange(T, j, c)
        record(rounded, box, j if entering else -1, out.weights[count])
        out.tau[count] = parameter[0]
        count += 1
    return False, count, moved


@exact_inlined
def _turn(values: Pair, status: Status, c: Pair, fh: float, fl: float) -> None:
    """Add f times the column to all values; subtract it from those of free tasks."""
    for i in range(len(status)):
        side = -1.0 if status[i] == FREE else 1.0
        ph, pl = multiply(side * fh, side * fl, c.high[i], c.low[i])
        values.high[i], values.low[i] = add(values.high[i], values.low[i], ph, pl)


@exact_kernel
def advance(z: Pair, dz: Pair, lh: float, ll: float) -> None:
    """Go along the line: add length * dz to z."""
    for i in range(len(z.high)):
        ph, pl = multiply(dz.high[i], dz.low[i], lh, ll)
        z.high[i], z.low[i] = add(z.high[i], z.low[i], ph, pl)


@dataclass
class ExtendedLine:
    """Minimise p'(S + ridge)p / 2 - tau b'p over the box and the simplex: one optimum, then the line from it.

    Args:
        S: [N, N], PSD on differences of mixtures up to rounding.
        b: direction [N], used where ``centre`` is None.
        centre: the target's masses [N]; then b = (S + ridge) centre, to 32 digits, so that tau = 1 gives the target.
        sizes: tasks in each class of duplicates [N]: the ridge of a class is divided by it, as if it were split.
        lower: [N].
        upper: [N].
    """

    S: FloatArray
    b: FloatArray
    centre: FloatArray | None
    sizes: FloatArray
    lower: FloatArray
    upper: FloatArray

    def __post_init__(self) -> None:
        """Fix the ridge and the direction, and make room for the tableau."""
        self.ridge = RIDGE * max(float(np.abs(self.S).max()), 1e-300) / self.sizes
        if self.centre is None:
            self.direction = widened(self.b)
        else:
            self.direction = multiply_matrix(self.S, self.ridge, widened(self.centre))

    def optimum(self, tau: float, guess: FloatArray) -> FloatArray:
        """The optimum at tau [N], by a homotopy from a feasible guess [N] whose linear term makes it optimal.

        Finite for every S that is PSD: the tasks with a wrong sign give way one after the other.
        """
        self._aim(self._stand_on(guess, tau))
        self.parameter = np.zeros(2)
        _, rows = self._run(1.0)
        return np.asarray(rows[-1])

    def follow(self, tau: float, end: float | None) -> tuple[FloatArray, FloatArray]:
        """Breakpoints from the optimum that ``optimum`` found at tau: as ``critical_line.Line.follow``."""
        self._aim(self.direction)
        self.parameter = np.array([tau, 0.0])
        first = np.empty((1, len(self.b)))
        z, dz, status, bounds = self.state
        record(State(z.high, dz.high, status, bounds), Box(self.lower, self.upper), -1, first[0])
        taus, rows = self._run(end)
        return np.append(tau, taus), np.vstack([first, rows])

    def _stand_on(self, p: FloatArray, tau: float) -> Pair:
        """Make p the optimum of some linear term; returns how that term has to move to become tau * b.

        Reduced costs of the wrong sign are replaced by distinct ones of the right sign, so that the tasks change one
        at a time.
        """
        n = len(p)
        g = add_scaled(multiply_matrix(self.S, self.ridge, widened(p)), -tau, self.direction)
        status = statuses(p, self.lower, self.upper, g.high)
        inside = status == FREE
        # One free task is enough to stand on: the others are let in by the homotopy, in the order of their costs.
        self.tableau = self._tableau(np.flatnonzero(inside))
        nu = float(g.high[inside].mean())
        mu = np.where(inside, 0.0, g.high - nu)
        wrong = ((status == LOWER) & (mu < 0)) | ((status == UPPER) & (mu > 0))
        distinct = 1.0 + np.random.default_rng(0).random(n)
        mu = np.where(wrong, -mu * distinct, mu)
        self.state = ExtendedState(
            z=widened(np.where(inside, p, mu)),
            dz=widened(np.zeros(n)),
            status=status,
            bounds=np.where(status == UPPER, self.upper, self.lower),
        )
        # The linear term that p is optimal for is S p - nu - mu; its distance from tau * b is -(g - nu - mu).
        v = add_scaled(g, -1.0, widened(np.full(n, nu)))
        v = add_scaled(v, -1.0, widened(mu))
        return Pair(-v.high, -v.low)

    def _tableau(self, free: IntArray) -> Pair:
        """The tableau of the given free tasks, at least one."""
        n = len(self.b)
        T, c = widened(np.zeros((n, n))), widened(np.zeros(n))
        single(self.S, self.ridge, int(free[0]), T)
        for j in free[1:]:
            column(T, int(j), c)
            if c.high[j] <= 0.0:
                raise _not_convex()
            exchange(T, int(j), c)
        return T

    def _aim(self, v: Pair) -> None:
        rates(self.tableau, self.state.status, v, self.state.dz)

    def _run(self, end: float | None) -> tuple[FloatArray, FloatArray]:
        n = len(self.b)
        taus, rows = [np.zeros(0)], [np.zeros((0, n))]
        box, extent, out = Box(self.lower, self.upper), Extent.up_to(end), Rows.empty(BUFFER, n)
        moved, ended = -1, False
        for _ in range(40 + 40 * n // BUFFER):
            ended, count, moved = follow(self.tableau, self.state, box, extent, self.parameter, moved, out)
            if count < 0:
                raise _not_convex()
            taus.append(out.tau[:count].copy())
            rows.append(out.weights[:count].copy())
            if ended:
                return np.concatenate(taus), np.vstack(rows)
        raise TaskPGMError(
            f"the mixtures could not be followed beyond tau = {self.parameter[0]:.6g}: more than "
            f"{40 * n} tasks entered or left; merge nearly equal tasks or add a ridge to S"
        )


def _not_convex() -> TaskPGMError:
    return TaskPGMError(
        "S is indefinite on the simplex beyond rounding: the mixture has no certified optimum; use more probes, or "
        "pass noise=<standard error of an entry of S>"
    )
