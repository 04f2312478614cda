"""The critical line in double-double arithmetic, for matrices that are singular to double precision.

Nearly equal tasks, fewer probes than tasks, very wide kernels: the distances kappa of such tasks from the hull of the
others drown in the rounding of a double-precision inverse, and the optimum need not be unique. Here every number is an
unevaluated sum of two doubles (Dekker 1971; about 32 digits), and a ridge of RIDGE * max|S| picks one optimum: of all,
the one nearest to tau times the target. The ridge moves the energy of a mixture by less than the certificate can see.
"""

from dataclasses import dataclass

import numpy as np

from taskpgm_ray.errors import TaskPGMError
from taskpgm_ray.mrf._compile import exact_inlined, exact_kernel, fma
from taskpgm_ray.mrf._types import FloatArray
from taskpgm_ray.mrf.events import FREE, LIMIT, LOWER, UPPER, Status, next_event, record, statuses
from taskpgm_ray.mrf.psd import RIDGE

QUIET = 1e-26
"""Rounding error of a rate, relative to the largest one."""

Pair = tuple[FloatArray, FloatArray]
"""An array in double-double: high and low parts, same shape."""

BUFFER = 256
"""Events between two returns of the compiled loop."""


@exact_inlined
def add(ah: float, al: float, bh: float, bl: float) -> tuple[float, float]:
    """a + b."""
    s = ah + bh
    v = s - ah
    e = (ah - (s - v)) + (bh - v) + (al + bl)
    h = s + e
    return h, e - (h - s)


@exact_inlined
def multiply(ah: float, al: float, bh: float, bl: float) -> tuple[float, float]:
    """a * b."""
    p = ah * bh
    e = fma(ah, bh, -p) + (ah * bl + al * bh)
    h = p + e
    return h, e - (h - p)


@exact_inlined
def divide(ah: float, al: float, bh: float, bl: float) -> tuple[float, float]:
    """a / b."""
    q = ah / bh
    ph, pl = multiply(q, 0.0, bh, bl)
    rh, rl = add(ah, al, -ph, -pl)
    r = rh / bh
    ph, pl = multiply(r, 0.0, bh, bl)
    rh, rl = add(rh, rl, -ph, -pl)
    h = q + r
    return add(h, r - (h - q), rh / bh, 0.0)


@exact_kernel
def multiply_matrix(S: FloatArray, ridge: FloatArray, v: FloatArray, w: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(S + diag(ridge)) (v + w) for S [n, n], ridge [n] and a pair v, w [n]."""
    n = len(v)
    high, low = np.zeros(n), np.zeros(n)
    for i in range(n):
        h, e = multiply(ridge[i], 0.0, v[i], w[i])
        for j in range(n):
            if v[j] != 0.0:
                ph, pl = multiply(S[i, j], 0.0, v[j], w[j])
                h, e = add(h, e, ph, pl)
        high[i], low[i] = h, e
    return high, low


@exact_kernel
def single(S: FloatArray, ridge: FloatArray, j: int) -> tuple[FloatArray, FloatArray]:
    """The lower triangle of the tableau (see ``tableau``) whose only free task is j, without the border."""
    n = len(S)
    high, low = np.zeros((n, n)), np.zeros((n, n))
    ph, pl = add(S[j, j], 0.0, ridge[j], 0.0)
    for i in range(n):
        for k in range(i + 1):
            if i == j or k == j:
                high[i, k] = 0.0 if i == k else 1.0
                continue
            h, e = add(ph, pl, S[i, k], ridge[i] if i == k else 0.0)
            h, e = add(h, e, -S[i, j], 0.0)
            high[i, k], low[i, k] = add(h, e, -S[k, j], 0.0)
    return high, low


@exact_kernel
def column(high: FloatArray, low: FloatArray, j: int, ch: FloatArray, cl: FloatArray) -> None:
    """Fill (ch, cl) [n] with column j of the tableau."""
    for k in range(len(ch)):
        if k <= j:
            ch[k], cl[k] = high[j, k], low[j, k]
        else:
            ch[k], cl[k] = high[k, j], low[k, j]


@exact_kernel
def exchange(high: FloatArray, low: FloatArray, j: int, ch: FloatArray, cl: FloatArray) -> None:
    """Move task j into the free tasks or out of them; (ch, cl) is its column."""
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
def rates(
    high: FloatArray, low: FloatArray, status: Status, vh: FloatArray, vl: FloatArray, dh: FloatArray, dl: FloatArray
) -> None:
    """Fill (dh, dl): how weights and reduced costs move when the linear term moves along v [n].

    d_A = -T_AA v_A, dmu_C = T_CA v_A - v_C.
    """
    n = len(vh)
    ch, cl = np.empty(n), np.empty(n)
    for i in range(n):
        column(high, low, i, ch, cl)
        h, e = 0.0, 0.0
        for k in range(n):
            if status[k] == FREE:
                ph, pl = multiply(ch[k], cl[k], vh[k], vl[k])
                h, e = add(h, e, ph, pl)
        if status[i] == FREE:
            dh[i], dl[i] = -h, -e
        else:
            dh[i], dl[i] = add(h, e, -vh[i], -vl[i])


@exact_kernel
def follow(
    high: FloatArray, low: FloatArray, zh: FloatArray, zl: FloatArray, dh: FloatArray, dl: FloatArray, status: Status,
    bounds: FloatArray, lower: FloatArray, upper: FloatArray, parameter: FloatArray, end: float, open_end: bool,
    moved: int, out_tau: FloatArray, out_p: FloatArray,
) -> tuple[bool, int, int]:  # fmt: skip
    """Follow the line until its end or until the rows are full -> (ended, rows written, moved).

    ``parameter`` [2] is the pair of the line's parameter; a pivot that is not positive returns rows = -1.
    """
    n = len(status)
    ch, cl = np.empty(n), np.empty(n)
    count = 0
    while count < len(out_tau):
        length, j = next_event(zh, dh, status, bounds, lower, upper, moved, QUIET)
        # Rates reach 1 / RIDGE: what is left of the line must not be rounded to the digits of ``end``.
        lh, ll = add(end, 0.0, -parameter[0], -parameter[1])
        if j < 0 or length >= lh:
            if open_end:
                return True, count, moved
            advance(zh, zl, dh, dl, lh, ll)
            parameter[0], parameter[1] = end, 0.0
            record(zh, status, bounds, lower, upper, out_p[count])
            out_tau[count] = end
            return True, count + 1, moved
        entering = status[j] != FREE
        if entering:
            goal = 0.0
        else:
            goal = lower[j] if dh[j] < 0.0 else upper[j]
        if length > 0.0:
            rh, rl = add(goal, 0.0, -zh[j], -zl[j])
            lh, ll = divide(rh, rl, dh[j], dl[j])
            if lh < 0.0:
                lh, ll = 0.0, 0.0
            advance(zh, zl, dh, dl, lh, ll)
            parameter[0], parameter[1] = add(parameter[0], parameter[1], lh, ll)
        column(high, low, j, ch, cl)
        if (ch[j] <= 0.0) if entering else (ch[j] >= 0.0):
            return False, -1, j
        sign = 1.0 if ch[j] > 0.0 else -1.0
        rh, rl = add(goal, 0.0, -zh[j], -zl[j])
        jh, jl = divide(sign * rh, sign * rl, ch[j], cl[j])
        bh, bl = divide(-sign * dh[j], -sign * dl[j], ch[j], cl[j])
        for i in range(n):
            side = -1.0 if status[i] == FREE else 1.0
            ph, pl = multiply(side * jh, side * jl, ch[i], cl[i])
            zh[i], zl[i] = add(zh[i], zl[i], ph, pl)
            ph, pl = multiply(side * bh, side * bl, ch[i], cl[i])
            dh[i], dl[i] = add(dh[i], dl[i], ph, pl)
        if entering:
            zh[j], zl[j] = add(bounds[j], 0.0, jh, jl)
            status[j] = FREE
        else:
            zh[j], zl[j] = jh, jl
            status[j] = LOWER if goal == lower[j] else UPPER
            bounds[j] = goal
        dh[j], dl[j] = bh, bl
        moved = j
        exchange(high, low, j, ch, cl)
        record(zh, status, bounds, lower, upper, out_p[count])
        out_tau[count] = parameter[0]
        count += 1
    return False, count, moved


@exact_kernel
def advance(zh: FloatArray, zl: FloatArray, dh: FloatArray, dl: FloatArray, lh: float, ll: float) -> None:
    """z += length * dz."""
    for i in range(len(zh)):
        ph, pl = multiply(dh[i], dl[i], lh, ll)
        zh[i], zl[i] = add(zh[i], zl[i], ph, pl)


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

    def optimum(self, tau: float, guess: FloatArray) -> FloatArray:
        """The optimum at tau [N], by a homotopy from a feasible guess [N] whose linear term makes it optimal.

        Finite for every S that is PSD: the tasks with a wrong sign give way one after the other.
        """
        self.ridge = RIDGE * max(float(np.abs(self.S).max()), 1e-300) / self.sizes
        if self.centre is None:
            self.direction: Pair = (self.b, np.zeros_like(self.b))
        else:
            self.direction = multiply_matrix(self.S, self.ridge, self.centre, np.zeros_like(self.centre))
        vh, vl = self._stand_on(guess, tau)
        self._aim(vh, vl)
        self.parameter = np.zeros(2)
        _, rows = self._run(1.0)
        return np.asarray(rows[-1])

    def follow(self, tau: float, end: float | None) -> tuple[FloatArray, FloatArray]:
        """Breakpoints from the optimum that ``optimum`` found at tau: as ``critical_line.Line.follow``."""
        self._aim(*self.direction)
        self.parameter = np.array([tau, 0.0])
        first = np.empty((1, len(self.b)))
        record(self.zh, self.status, self.bounds, self.lower, self.upper, first[0])
        taus, rows = self._run(end)
        return np.append(tau, taus), np.vstack([first, rows])

    def _stand_on(self, p: FloatArray, tau: float) -> Pair:
        """Make p the optimum of some linear term; returns how that term has to move to become tau * b.

        Reduced costs of the wrong sign are replaced by distinct ones of the right sign, so that the tasks change one
        at a time.
        """
        n = len(p)
        zero = np.zeros(n)
        dh, dl = self.direction
        gh, gl = add_scaled(*multiply_matrix(self.S, self.ridge, p, zero), -tau, dh, dl)
        self.status = statuses(p, self.lower, self.upper, gh)
        # One free task is enough to stand on: the others are let in by the homotopy, in the order of their costs.
        free = np.flatnonzero(self.status == FREE)
        self.high, self.low = single(self.S, self.ridge, int(free[0]))
        ch, cl = zero.copy(), zero.copy()
        for j in free[1:]:
            column(self.high, self.low, int(j), ch, cl)
            if ch[j] <= 0.0:
                raise _not_convex()
            exchange(self.high, self.low, int(j), ch, cl)
        inside = self.status == FREE
        self.bounds = np.where(self.status == UPPER, self.upper, self.lower)
        nu = float(gh[inside].mean())
        mu = np.where(inside, 0.0, gh - nu)
        wrong = ((self.status == LOWER) & (mu < 0)) | ((self.status == UPPER) & (mu > 0))
        distinct = 1.0 + np.random.default_rng(0).random(n)
        mu = np.where(wrong, -mu * distinct, mu)
        self.zh, self.zl = np.where(inside, p, mu), zero
        # The linear term that p is optimal for is S p - nu - mu; its distance from tau * b is -(g - nu - mu).
        vh, vl = add_scaled(gh, gl, -1.0, np.full(n, nu), zero)
        vh, vl = add_scaled(vh, vl, -1.0, mu, zero)
        return -vh, -vl

    def _aim(self, vh: FloatArray, vl: FloatArray) -> None:
        n = len(vh)
        self.dh, self.dl = np.zeros(n), np.zeros(n)
        rates(self.high, self.low, self.status, vh, vl, self.dh, self.dl)

    def _run(self, end: float | None) -> tuple[FloatArray, FloatArray]:
        n = len(self.b)
        taus, rows = [np.zeros(0)], [np.zeros((0, n))]
        out_tau, out_p = np.zeros(BUFFER), np.zeros((BUFFER, n))
        moved, ended = -1, False
        for _ in range(40 + 40 * n // BUFFER):
            ended, count, moved = follow(
                self.high, self.low, self.zh, self.zl, self.dh, self.dl, self.status, self.bounds, self.lower,
                self.upper, self.parameter, LIMIT if end is None else end, end is None, moved, out_tau, out_p,
            )  # fmt: skip
            if count < 0:
                raise _not_convex()
            taus.append(out_tau[:count].copy())
            rows.append(out_p[:count].copy())
            if ended:
                return np.concatenate(taus), np.vstack(rows)
        raise TaskPGMError(
            f"the mixtures could not be followed beyond tau = {self.parameter[0]:.6g}: more than "
            f"{40 * n} tasks entered or left; merge nearly equal tasks or add a ridge to S"
        )


def add_scaled(ah: FloatArray, al: FloatArray, f: float, bh: FloatArray, bl: FloatArray) -> Pair:
    """a + f * b, elementwise."""
    high, low = np.empty_like(ah), np.empty_like(ah)
    _add_scaled(ah, al, f, bh, bl, high, low)
    return high, low


@exact_kernel
def _add_scaled(
    ah: FloatArray, al: FloatArray, f: float, bh: FloatArray, bl: FloatArray, high: FloatArray, low: FloatArray
) -> None:
    for i in range(len(ah)):
        ph, pl = multiply(bh[i], bl[i], f, 0.0)
        high[i], low[i] = add(ah[i], al[i], ph, pl)


def _not_convex() -> TaskPGMError:
    return TaskPGMError(
        "S is indefinite on the simplex beyond rounding: the mixture has no certified optimum; use more probes, or "
        "pass noise=<standard error of an entry of S>"
    )
