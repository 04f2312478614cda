"""The next event of a critical line: which task meets its bound or its price first.

A critical line keeps one vector z for all tasks: the weight p_i of a task between its bounds (free), the reduced cost
mu_i of a task at a bound. Along the line z changes by dz per unit of the parameter.
"""

import numpy as np

from taskpgm_ray.mrf._compile import kernel
from taskpgm_ray.mrf._types import FloatArray

LOWER, FREE, UPPER, FIXED = -1, 0, 1, 2
"""Status of a task: at its lower bound, between the bounds, at its upper bound, lower equal to upper."""

FAR = 1e300
"""Stands for infinity, which the compiled loops may not see."""

LIMIT = 1e12
"""Events above this tau are rounding: the certificate, 1e-12 * tau * max|S|, no longer tells them apart."""

Status = np.ndarray[tuple[int], np.dtype[np.int8]]
"""One status a task [N]."""


@kernel
def next_event(
    z: FloatArray, dz: FloatArray, status: Status, bounds: FloatArray, lower: FloatArray, upper: FloatArray, moved: int,
    quiet: float,
) -> tuple[float, int]:  # fmt: skip
    """The smallest step to an event and its task; (FAR, -1) when nothing ever happens.

    Args:
        z: weights and reduced costs [N] (longer arrays are cut).
        dz: their rates.
        status: [N].
        bounds: the bound at which a task is, or was last [N].
        lower: [N].
        upper: [N].
        moved: the task of the last event, which cannot at once go back to where it came from.
        quiet: rounding error of a rate, relative to the largest one.
    """
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


@kernel
def record(
    z: FloatArray, status: Status, bounds: FloatArray, lower: FloatArray, upper: FloatArray, row: FloatArray
) -> None:
    """Write the weights: rounding across a bound is cut off, and rounding of the sum is shared by the free tasks."""
    fixed, free = 0.0, 0.0
    for i in range(len(status)):
        row[i] = min(max(z[i], lower[i]), upper[i]) if status[i] == FREE else bounds[i]
        if status[i] == FREE:
            free += row[i]
        else:
            fixed += row[i]
    if free > 0.0:
        for i in range(len(status)):
            if status[i] == FREE:
                row[i] = min(max(row[i] * (1.0 - fixed) / free, lower[i]), upper[i])
