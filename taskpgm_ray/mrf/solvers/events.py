"""The next event of a critical line: which task meets its bound or its price first.

A critical line keeps one vector z for all tasks: the weight p_i of a task between its bounds (free), the reduced cost
mu_i of a task at a bound. Along the line z changes by dz per unit of the parameter.
"""

from typing import NamedTuple

import numpy as np

from taskpgm_ray.numerics.compile import exact_kernel
from taskpgm_ray.numerics.types import FloatArray

LOWER, FREE, UPPER, FIXED = -1, 0, 1, 2
"""Status of a task: at its lower bound, between the bounds, at its upper bound, lower equal to upper."""

FAR = 1e300
"""Stands for infinity, which the compiled loops may not see."""

ROUNDING = 1e-12
"""A weight this near to the bound that its task is just leaving is at the bound."""

LIMIT = 1e12
"""Events above this tau are rounding: the certificate, 1e-12 * tau * max|S|, no longer tells them apart."""

Status = np.ndarray[tuple[int], np.dtype[np.int8]]
"""One status a task [N]."""


class State(NamedTuple):
    """A point of a critical line, changed in place along it."""

    z: FloatArray
    """Weights of the free tasks and reduced costs of the others [N]; longer arrays hold more behind."""
    dz: FloatArray
    """Their rates."""
    status: Status
    """[N]."""
    bounds: FloatArray
    """The bound at which a task is, or was last [N]."""


class Box(NamedTuple):
    """The bounds of the weights [N]."""

    lower: FloatArray
    upper: FloatArray


class Extent(NamedTuple):
    """How far to follow a line."""

    end: float
    open_end: bool
    """True: there is no end, the last event before ``end`` is the last row."""

    @classmethod
    def up_to(cls, end: float | None) -> "Extent":
        """The extent up to a parameter; None: to the last event."""
        return cls(LIMIT, True) if end is None else cls(float(end), False)


class Rows(NamedTuple):
    """Where a compiled loop writes its breakpoints."""

    tau: FloatArray
    """[m]."""
    weights: FloatArray
    """[m, N]."""

    @classmethod
    def empty(cls, count: int, n: int) -> "Rows":
        """Room for so many breakpoints of n tasks."""
        return cls(np.zeros(count), np.zeros((count, n)))


@exact_kernel
def next_event(state: State, box: Box, moved: int, quiet: float) -> tuple[float, int]:
    """The smallest step to an event and its task; (FAR, -1) when nothing ever happens.

    Args:
        state: where the line is.
        box: the bounds.
        moved: the task of the last event, which cannot at once go back to where it came from.
        quiet: rounding error of a rate, relative to the largest one.
    """
    z, dz, status, bounds = state.z, state.dz, state.status, state.bounds
    lower, upper = box.lower, box.upper
    fastest, steepest = 0.0, 0.0
    n = len(status)
    free, last = 0, 0
    for i in range(n):
        if status[i] == FREE:
            fastest = max(fastest, abs(dz[i]))
            free += 1
            last = i
        else:
            steepest = max(steepest, abs(dz[i]))
    if free == 1:
        # A single free weight is what the others leave: it cannot move, whatever rounding says.
        dz[last] = 0.0
    fastest *= quiet
    steepest *= quiet
    length, task = FAR, -1
    for i in range(n):
        rate = dz[i]
        back = i == moved
        if status[i] == FREE:
            if rate < -fastest and not (back and bounds[i] == lower[i]):
                room = (z[i] - lower[i]) / -rate
            elif rate > fastest and not (back and bounds[i] == upper[i]):
                room = (upper[i] - z[i]) / rate
            else:
                continue
        elif back:
            continue
        elif status[i] == LOWER and rate < -steepest:
            room = z[i] / -rate
        elif status[i] == UPPER and rate > steepest:
            room = -z[i] / rate
        else:
            continue
        # A value that rounding left on the wrong side has no room.
        room = max(room, 0.0)
        if room < length:
            length, task = room, i
    return length, task


def statuses(p: FloatArray, lower: FloatArray, upper: FloatArray, g: FloatArray) -> Status:
    """Status of every task at the optimum p [N] with gradient g [N]; at least one task is free.

    Where all tasks sit on bounds, the marginal one becomes free: the raised task of largest gradient.
    """
    status = np.full(len(p), FREE, dtype=np.int8)
    status[p <= lower] = LOWER
    status[p >= upper] = UPPER
    status[upper <= lower] = FIXED
    if not (status == FREE).any():
        raised = (status == UPPER) if (status == UPPER).any() else (upper >= lower)
        status[int(np.argmax(np.where(raised, g, -np.inf)))] = FREE
    return status


@exact_kernel
def record(state: State, box: Box, entered: int, row: FloatArray) -> None:
    """Write the weights: rounding across a bound is cut off, and rounding of the sum is shared by the free tasks.

    Args:
        state: where the line is.
        box: the bounds.
        entered: the task that became free at this very point, where it is still at its bound; -1: none.
        row: filled with the weights [N].
    """
    z, status, bounds = state.z, state.status, state.bounds
    lower, upper = box.lower, box.upper
    fixed, free = 0.0, 0.0
    for i in range(len(status)):
        row[i] = min(max(z[i], lower[i]), upper[i]) if status[i] == FREE else bounds[i]
        if i == entered and abs(row[i] - bounds[i]) <= ROUNDING:
            row[i] = bounds[i]
        if status[i] == FREE:
            free += row[i]
        else:
            fixed += row[i]
    if free > 0.0:
        for i in range(len(status)):
            if status[i] == FREE:
                row[i] = min(max(row[i] * (1.0 - fixed) / free, lower[i]), upper[i])
