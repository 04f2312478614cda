"""The compiled pairwise loop of the Jensen-Shannon divergence.

JSD(P, Q) = H((P + Q) / 2) - (H(P) + H(Q)) / 2 with H = -sum p ln p. With a = p / 2 the mixture is a_i + a_j, and only
sum (a_i + a_j) ln(a_i + a_j) has to be taken over pairs. Cells come in tiles that fit in the cache; the logarithm is
computed in registers (exponent and mantissa, then the series of atanh), because a library call would not vectorise.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from taskpgm_ray.mrf._compile import inlined, kernel
from taskpgm_ray.mrf._types import FloatArray, IntArray

TILE = 1024
"""Cells of one tile: 100 models x 1024 cells x 8 bytes is 0.8 MB."""


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
def _xlogx(x: float) -> float:
    """x ln x for x in [1e-300, 2]; 0 for x = 0 (x is kept away from 0 by adding 1e-300)."""
    y = x + 1e-300
    bits = _bits(y)
    # Mantissa in [sqrt(1/2), sqrt(2)): shifting by the bits of sqrt(1/2) moves the exponent's boundary there.
    shifted = bits - 0x3FE6A09E667F3BCD
    exponent = shifted >> 52
    m = _float(bits - (exponent << 52))
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    # 2 atanh(s) = 2 s (1 + z/3 + z^2/5 + ...), |s| <= 0.172: cut after z^9, the rest is below one ulp.
    r = 1.0 / 19.0
    r = r * z + 1.0 / 17.0
    r = r * z + 1.0 / 15.0
    r = r * z + 1.0 / 13.0
    r = r * z + 1.0 / 11.0
    r = r * z + 1.0 / 9.0
    r = r * z + 1.0 / 7.0
    r = r * z + 1.0 / 5.0
    r = r * z + 1.0 / 3.0
    log: float = 0.6931471805599453 * float(exponent) + 2.0 * s * (1.0 + z * r)
    return x * log


@kernel
def add_pairs(halves: FloatArray, weights: FloatArray, out: FloatArray, first: int, step: int) -> None:
    """out[i, j] += sum over cells of weight * (a_i + a_j) ln(a_i + a_j), i > j, for rows first, first + step, ...

    Args:
        halves: p / 2 of one tile [n, cells].
        weights: weight of each cell [cells].
        out: accumulator [n, n]; only the rows asked for are written.
        first: first row.
        step: distance of rows (the number of threads).
    """
    n, cells = halves.shape
    for i in range(first, n, step):
        a = halves[i]
        for j in range(i):
            b = halves[j]
            total = 0.0
            for c in range(cells):
                total += weights[c] * _xlogx(a[c] + b[c])
            out[i, j] += total


@kernel
def add_single(halves: FloatArray, weights: FloatArray, out: FloatArray) -> None:
    """out[i] += sum over cells of weight * p_i ln p_i."""
    n, cells = halves.shape
    for i in range(n):
        a = halves[i]
        total = 0.0
        for c in range(cells):
            total += weights[c] * _xlogx(2.0 * a[c])
        out[i] += total


@kernel
def add_positions(
    halves: FloatArray,
    single: FloatArray,
    weights: FloatArray,
    bucket: IntArray,
    unit: float,
    out: IntArray,
    first: int,
    step: int,
) -> None:
    """out[bucket, i, j] += round(unit * weight * JSD at the position), i > j, in whole numbers, position by position.

    Rounding position by position makes the sums independent of how positions are divided among calls.

    Args:
        halves: p / 2 [n, positions, cells].
        single: sum of p ln p over the cells [n, positions].
        weights: [positions].
        bucket: [positions].
        unit: whole numbers per nat.
        out: accumulator [buckets, n, n].
        first: first row.
        step: distance of rows (the number of threads).
    """
    n, positions, cells = halves.shape
    for i in range(first, n, step):
        for j in range(i):
            for q in range(positions):
                a = halves[i, q]
                b = halves[j, q]
                total = 0.0
                for c in range(cells):
                    total += _xlogx(a[c] + b[c])
                d = max((single[i, q] + single[j, q]) / 2 - total, 0.0)
                out[bucket[q], i, j] += round(unit * weights[q] * d)


@kernel
def negative_entropies(halves: FloatArray, out: FloatArray) -> None:
    """out[i, q] = sum over cells of p ln p, from p / 2 [n, positions, cells]."""
    n, positions, cells = halves.shape
    for i in range(n):
        for q in range(positions):
            a = halves[i, q]
            total = 0.0
            for c in range(cells):
                total += _xlogx(2.0 * a[c])
            out[i, q] = total


__all__ = ["TILE", "add_pairs", "add_positions", "add_single", "negative_entropies"]
