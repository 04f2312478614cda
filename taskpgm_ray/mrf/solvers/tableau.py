"""The swept matrix of the free tasks, in double precision (docs/mathematics.md, section 7).

Sweeping the bordered matrix [[S, 1], [1', 0]] on the free tasks A and the border gives one symmetric matrix with
everything an active-set method asks for: T = -(bordered inverse) on A and the border, the affine coordinates of the
other tasks between the two, and on the others the inner products of what A does not explain, with the squared
distances kappa_j from the affine hull of A on the diagonal. Exchanging one task is one symmetric rank-one update

    T <- T - c c' / c_j,   c = T e_j,   then row and column j <- c / |c_j|,   T_jj <- -1 / c_j,

the same for a task that enters (c_j = kappa_j > 0) and one that leaves (c_j = -Q_jj < 0). Updates are collected in a
panel and applied together as one matrix product, which is what makes an exchange cheap: the processor multiplies
matrices ten times faster than it reads them.
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg.blas import dgemm

from taskpgm_ray.numerics.compile import exact_kernel
from taskpgm_ray.numerics.types import FloatArray, IntArray

PANEL = 48
"""Exchanges between two updates of the whole matrix."""


class Tableau(NamedTuple):
    """T of N tasks and the border (index N), with the exchanges that it does not contain yet."""

    T: FloatArray
    """[N + 1, N + 1], symmetric; without the pending exchanges."""
    pending: FloatArray
    """Columns c of the pending exchanges [PANEL, N + 1]."""
    inverse: FloatArray
    """1 / c_j of the pending exchanges [PANEL]."""
    current: FloatArray
    """Up-to-date columns of the tasks exchanged since the last update [PANEL, N + 1]."""
    task: IntArray
    """The tasks of ``current`` [PANEL]."""
    place: IntArray
    """Row of ``current`` that holds each task's column [N + 1], or -1."""
    used: IntArray
    """[2]: pending exchanges, distinct tasks among them."""


def single(S: FloatArray, j: int) -> Tableau:
    """The tableau whose only free task is j."""
    n = len(S)
    T = np.empty((n + 1, n + 1))
    T[:n, :n] = S
    T[:n, :n] -= S[j][:, None]
    T[:n, :n] -= S[j][None, :]
    T[:n, :n] += S[j, j]
    T[n, :n] = T[:n, n] = S[j] - S[j, j]
    T[j, :] = T[:, j] = 1.0
    T[j, j], T[j, n], T[n, j], T[n, n] = 0.0, -1.0, -1.0, S[j, j]
    return Tableau(
        T=T,
        pending=np.zeros((PANEL, n + 1)),
        inverse=np.zeros(PANEL),
        current=np.zeros((PANEL, n + 1)),
        task=np.zeros(PANEL, dtype=np.int64),
        place=np.full(n + 1, -1, dtype=np.int64),
        used=np.zeros(2, dtype=np.int64),
    )


@exact_kernel
def column(tableau: Tableau, j: int, c: FloatArray) -> None:
    """Fill c [N + 1] with column j, pending exchanges included."""
    if tableau.place[j] >= 0:
        c[:] = tableau.current[tableau.place[j]]
        return
    c[:] = tableau.T[j]
    for e in range(tableau.used[0]):
        row = tableau.pending[e]
        f = row[j] * tableau.inverse[e]
        for i in range(len(c)):
            c[i] -= f * row[i]
    for e in range(tableau.used[1]):
        c[tableau.task[e]] = tableau.current[e, j]


@exact_kernel
def exchange(tableau: Tableau, j: int, c: FloatArray) -> None:
    """Move task j into the free tasks or out of them; c is its column, and there is room in the panel."""
    pivot = c[j]
    for e in range(tableau.used[1]):
        i = tableau.task[e]
        row = tableau.current[e]
        f = c[i] / pivot
        for h in range(len(c)):
            row[h] -= f * c[h]
        row[j] = c[i] / abs(pivot)
    place = tableau.place[j]
    if place < 0:
        place = tableau.used[1]
        tableau.place[j] = place
        tableau.task[place] = j
        tableau.used[1] += 1
    row = tableau.current[place]
    for h in range(len(c)):
        row[h] = c[h] / abs(pivot)
    row[j] = -1.0 / pivot
    tableau.pending[tableau.used[0]] = c
    tableau.inverse[tableau.used[0]] = 1.0 / pivot
    tableau.used[0] += 1


def update(tableau: Tableau) -> None:
    """Apply the pending exchanges to T."""
    count, distinct = int(tableau.used[0]), int(tableau.used[1])
    if count == 0:
        return
    columns = tableau.pending[:count]
    scaled = columns * tableau.inverse[:count, None]
    # T' is T in the order of BLAS: the product is added in place.
    dgemm(-1.0, scaled.T, columns.T, 1.0, tableau.T.T, trans_b=1, overwrite_c=1)
    tasks = tableau.task[:distinct]
    tableau.T[tasks] = tableau.current[:distinct]
    tableau.T[:, tasks] = tableau.current[:distinct].T
    tableau.place[tasks] = -1
    tableau.used[:] = 0


def free(S: FloatArray, tasks: IntArray, smallest: float) -> Tableau | None:
    """The tableau with the given free tasks; None when one is nearer than ``smallest`` to the hull of the others.

    Args:
        S: [N, N].
        tasks: at least one.
        smallest: least squared distance kappa, in units of S.
    """
    tableau = single(S, int(tasks[0]))
    rest = np.asarray(tasks[1:], dtype=np.int64)
    while len(rest):
        if not _enter_all(tableau, rest[:PANEL], smallest):
            return None
        update(tableau)
        rest = rest[PANEL:]
    return tableau


@exact_kernel
def _enter_all(tableau: Tableau, tasks: IntArray, smallest: float) -> bool:
    c = np.empty(len(tableau.T))
    for j in tasks:
        column(tableau, j, c)
        if c[j] <= smallest:
            return False
        exchange(tableau, j, c)
    return True
