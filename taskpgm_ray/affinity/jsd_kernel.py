"""The compiled pairwise loop of the Jensen-Shannon divergence (docs/mathematics.md, section 9).

JSD(P, Q) = H((P + Q) / 2) - (H(P) + H(Q)) / 2 with H = -sum p log p. With a = p / 2 the mixture is a_i + a_j, and only
sum (a_i + a_j) log(a_i + a_j) has to be taken over pairs. Cells come in tiles that fit in the cache; the logarithm is
computed in registers, because a library call would not vectorise, and in base 2, where the exponent is one addition.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from taskpgm_ray.numerics.compile import inlined, kernel
from taskpgm_ray.numerics.constants import LN2
from taskpgm_ray.numerics.types import FloatArray, IntArray

TILE = 1024
"""Cells of one tile: 100 models x 1024 cells x 8 bytes is 0.8 MB."""

TINY = 1e-300
"""Stands for a cell of mass 0, whose logarithm would be infinite: x log x is then 1e-297 in the place of 0."""


def _intrinsic(function: Any) -> Any:
    return intrinsic(function)


@_intrinsic
def _bits(typingctx: Any, x: Any) -> Any:
    """Reinterpret a float64 as int64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64))

    return types.int64(types.float64), codegen


@_intrinsic
def _float(typingctx: Any, x: Any) -> Any:
    """Reinterpret an int64 as float64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), codegen


@inlined
def _xlog2x(x: float) -> float:
    """x log2 x for x in [TINY, 2].

    x = 2^exponent m with m in [sqrt(1/2), sqrt(2)), and ln m = 2 atanh(s) with s = (m - 1) / (m + 1), |s| <= 0.172. The
    minimax polynomial in s^2 is that of fdlibm's log (error below 2^-58), here divided by ln 2.
    """
    bits = _bits(x)
    # Shifting by the bits of sqrt(1/2) moves the exponent's boundary there.
    exponent = (bits - 0x3FE6A09E667F3BCD) >> 52
    m = _float(bits - (exponent << 52))
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    r = 1.479819860511658591e-01 / LN2
    r = r * z + 1.531383769920937332e-01 / LN2
    r = r * z + 1.818357216161805012e-01 / LN2
    r = r * z + 2.222219843214978396e-01 / LN2
    r = r * z + 2.857142874366239149e-01 / LN2
    r = r * z + 3.999999999940941908e-01 / LN2
    r = r * z + 6.666666666666735130e-01 / LN2
    log: float = float(exponent) + s * (2.0 / LN2 + z * r)
    return x * log


@inlined
def _sum_xlog2x(a: FloatArray, b: FloatArray) -> float:
    total = 0.0
    for c in range(len(a)):
        total += _xlog2x(a[c] + b[c])
    return total


@kernel
def pair_divergences(halves: FloatArray) -> FloatArray:
    """Sum over cells of the divergence of every pair -> [n, n] nats, i > j; zero on and above the diagonal.

    The divergence is homogeneous of degree one: a position's weight is a factor of its cells, and any part of the
    cells may be summed alone.

    Args:
        halves: weight * p / 2 of one tile [n, cells], at least TINY.
    """
    n = len(halves)
    out = np.zeros((n, n))
    own = np.empty(n)
    for i in range(n):
        own[i] = _sum_xlog2x(halves[i], halves[i])
        for j in range(i):
            out[i, j] = LN2 * ((own[i] + own[j]) / 2 - _sum_xlog2x(halves[i], halves[j]))
    return out


@kernel
def cross_divergences(rows: FloatArray, halves: FloatArray) -> FloatArray:
    """The same of every one of some models [m, cells] with every other one [n, cells] -> [m, n] nats."""
    m, n = len(rows), len(halves)
    out = np.zeros((m, n))
    own = np.empty(n)
    for j in range(n):
        own[j] = _sum_xlog2x(halves[j], halves[j])
    for i in range(m):
        mine = _sum_xlog2x(rows[i], rows[i])
        for j in range(n):
            out[i, j] = LN2 * ((mine + own[j]) / 2 - _sum_xlog2x(rows[i], halves[j]))
    return out


@kernel
def add_positions(
    halves: FloatArray, weights: FloatArray, bucket: IntArray, unit: float, out: IntArray, first: int, step: int
) -> None:
    """out[bucket, i, j] += round(unit * weight * JSD at the position), i > j, in whole numbers, position by position.

    Rounding position by position makes the sums independent of how positions are divided among calls.

    Args:
        halves: p / 2 [n, positions, cells], at least TINY.
        weights: [positions].
        bucket: [positions].
        unit: whole numbers per nat.
        out: accumulator [buckets, n, n]; only the rows asked for are written.
        first: first row.
        step: distance of rows (the number of threads).
    """
    n, positions, _ = halves.shape
    own = np.empty((n, positions))
    for i in range(n):
        for q in range(positions):
            own[i, q] = _sum_xlog2x(halves[i, q], halves[i, q])
    for i in range(first, n, step):
        for j in range(i):
            for q in range(positions):
                d = LN2 * ((own[i, q] + own[j, q]) / 2 - _sum_xlog2x(halves[i, q], halves[j, q]))
                out[bucket[q], i, j] += round(unit * weights[q] * max(d, 0.0))
