"""The bordered inverse of the free tasks, updated one task at a time (docs/mathematics.md, section 5).

For the free tasks A: K = [[S_AA, 1], [1', 0]], K^-1 = [[Q, w], [w', -c]] with c = 1/sigma, sigma = 1' S_AA^-1 1.
(Q, w, c) exist whenever S is positive definite on the differences of mixtures of A; S_AA itself may be singular or
indefinite. The arrays have room for all tasks; the first k entries count.
"""

import numpy as np

from taskpgm_ray.mrf._compile import kernel
from taskpgm_ray.mrf._types import FloatArray, IntArray


@kernel
def combine_rows(S: FloatArray, rows: IntArray, v: FloatArray, k: int, out: FloatArray) -> None:
    """out = sum_a v[a] S[rows[a]], four rows at a time so that ``out`` is written rarely."""
    n = S.shape[1]
    out[:n] = 0.0
    a = 0
    while a + 4 <= k:
        r0, r1, r2, r3 = S[rows[a]], S[rows[a + 1]], S[rows[a + 2]], S[rows[a + 3]]
        v0, v1, v2, v3 = v[a], v[a + 1], v[a + 2], v[a + 3]
        for j in range(n):
            out[j] += v0 * r0[j] + v1 * r1[j] + v2 * r2[j] + v3 * r3[j]
        a += 4
    while a < k:
        r0 = S[rows[a]]
        v0 = v[a]
        for j in range(n):
            out[j] += v0 * r0[j]
        a += 1


@kernel
def apply_Q(Q: FloatArray, x: FloatArray, k: int, out: FloatArray) -> None:
    """out = Q x over the first k entries."""
    for i in range(k):
        row = Q[i]
        total = 0.0
        for j in range(k):
            total += row[j] * x[j]
        out[i] = total


@kernel
def border(
    S: FloatArray, j: int, A: IntArray, k: int, Q: FloatArray, w: FloatArray, c: float, s: FloatArray, t: FloatArray
) -> tuple[float, float]:
    """Fill s = S_Aj and t = Q s + w; return t_n = w's - c and kappa = S_jj - s't - t_n.

    kappa is the squared distance of task j from the affine hull of the free tasks; t its affine coordinates.
    """
    row = S[j]
    for a in range(k):
        s[a] = row[A[a]]
    apply_Q(Q, s, k, t)
    t_n = -c
    kappa = row[j]
    for a in range(k):
        t[a] += w[a]
        t_n += w[a] * s[a]
        kappa -= s[a] * t[a]
    return t_n, kappa - t_n


@kernel
def null_direction(
    S: FloatArray, j: int, A: IntArray, k: int, t: FloatArray, t_n: float, v: FloatArray
) -> tuple[float, float, float]:
    """Fill v = S (e_j - t_A) - t_n [n]: the change of the reduced costs per unit of weight moved to j.

    Returns (kappa, residual, 1 - sum t): kappa from the products with S itself, and the largest |v_A|, which is zero
    in exact arithmetic and measures the error of Q.
    """
    combine_rows(S, A, t, k, v)
    row = S[j]
    for i in range(len(v)):
        v[i] = row[i] - v[i] - t_n
    residual = 0.0
    kappa = v[j]
    excess = 1.0
    for a in range(k):
        residual = max(residual, abs(v[A[a]]))
        kappa -= t[a] * v[A[a]]
        excess -= t[a]
    return kappa, residual, excess


@kernel
def refine_border(
    A: IntArray,
    k: int,
    Q: FloatArray,
    w: FloatArray,
    c: float,
    t: FloatArray,
    t_n: float,
    v: FloatArray,
    excess: float,
    s: FloatArray,
    x: FloatArray,
) -> float:
    """One step of iterative refinement of (t, t_n) from the residual v_A and 1 - sum t; returns the new t_n."""
    for a in range(k):
        s[a] = v[A[a]]
    apply_Q(Q, s, k, x)
    for a in range(k):
        t[a] += x[a] + w[a] * excess
        t_n += w[a] * s[a]
    return float(t_n - c * excess)


@kernel
def enter(j: int, A: IntArray, k: int, Q: FloatArray, w: FloatArray, t: FloatArray, t_n: float, kappa: float) -> float:
    """Append task j to A; return the change of c."""
    for a in range(k):
        f = t[a] / kappa
        row = Q[a]
        for e in range(k):
            row[e] += f * t[e]
        row[k] = -f
        Q[k, a] = -f
        w[a] += t_n * f
    Q[k, k] = 1.0 / kappa
    w[k] = -t_n / kappa
    A[k] = j
    return -t_n * t_n / kappa


@kernel
def leave(a: int, A: IntArray, k: int, Q: FloatArray, w: FloatArray, q: FloatArray) -> float:
    """Drop the task in slot a (the last slot takes its place); ``q`` [k] is scratch; return the change of c."""
    pivot = Q[a, a]
    for e in range(k):
        q[e] = Q[a, e]
    w_a = w[a]
    last = k - 1
    for e in range(k):
        f = q[e] / pivot
        row = Q[e]
        for h in range(k):
            row[h] -= f * q[h]
        w[e] -= f * w_a
    if a != last:
        for e in range(k):
            Q[a, e] = Q[last, e]
        for e in range(k):
            Q[e, a] = Q[e, last]
        Q[a, a] = Q[last, last]
        w[a] = w[last]
        A[a] = A[last]
    return float(w_a * w_a / pivot)


@kernel
def factorise(S: FloatArray, A: IntArray, k: int, Q: FloatArray, w: FloatArray, c: float) -> float:
    """Compute (Q, w, c) of the free tasks A[:k] afresh into the given arrays; return c.

    When they are affinely dependent to rounding, the arrays stay as they are.
    """
    bordered = np.ones((k + 1, k + 1))
    for a in range(k):
        for e in range(k):
            bordered[a, e] = S[A[a], A[e]]
    bordered[k, k] = 0.0
    try:
        inverse = np.linalg.inv(bordered)
    except Exception:  # the only kind that compiled code can name
        return c
    for a in range(k):
        for e in range(k):
            Q[a, e] = (inverse[a, e] + inverse[e, a]) / 2
        w[a] = (inverse[a, k] + inverse[k, a]) / 2
    return float(-inverse[k, k])
