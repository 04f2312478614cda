"""Arithmetic with about 32 digits: every number is an unevaluated sum of two doubles (Dekker 1971).

The scalar operations take and return the high and the low part of each number and are inlined into exact kernels, which
must not reorder them: the low part lives on the rounding error of the high one.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic

from taskpgm_ray.numerics.compile import exact_inlined, exact_kernel
from taskpgm_ray.numerics.types import FloatArray


class Pair(NamedTuple):
    """An array in double-double: its high and its low parts, of the same shape."""

    high: FloatArray
    low: FloatArray


def widened(values: FloatArray) -> Pair:
    """An array of doubles as a pair."""
    return Pair(values, np.zeros_like(values))


def _fused_multiply_add(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c with one rounding."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return types.float64(types.float64, types.float64, types.float64), codegen


fma: Any = intrinsic(_fused_multiply_add)


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


def multiply_matrix(S: FloatArray, ridge: FloatArray, v: Pair) -> Pair:
    """(S + diag(ridge)) v for doubles S [n, n] and ridge [n] and a pair v [n]."""
    product = widened(np.zeros(len(ridge)))
    _multiply_matrix(S, ridge, v, product)
    return product


def add_scaled(a: Pair, f: float, b: Pair) -> Pair:
    """a + f * b, elementwise, for a double f."""
    total = widened(np.zeros_like(a.high))
    _add_scaled(a, f, b, total)
    return total


@exact_kernel
def _multiply_matrix(S: FloatArray, ridge: FloatArray, v: Pair, out: Pair) -> None:
    n = len(ridge)
    for i in range(n):
        h, e = multiply(ridge[i], 0.0, v.high[i], v.low[i])
        for j in range(n):
            if v.high[j] != 0.0:
                ph, pl = multiply(S[i, j], 0.0, v.high[j], v.low[j])
                h, e = add(h, e, ph, pl)
        out.high[i], out.low[i] = h, e


@exact_kernel
def _add_scaled(a: Pair, f: float, b: Pair, out: Pair) -> None:
    for i in range(len(a.high)):
        ph, pl = multiply(b.high[i], b.low[i], f, 0.0)
        out.high[i], out.low[i] = add(a.high[i], a.low[i], ph, pl)
