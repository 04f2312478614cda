"""One typed way to compile a kernel, so that every kernel gets the same numba options."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile with numba: cached on disk, no division checks (they block SIMD), sums may be reordered, GIL released.

    Infinities must not enter a kernel: ``fastmath`` assumes that there are none.
    """
    return cast(F, numba.njit(cache=True, error_model="numpy", fastmath=True, nogil=True)(function))


def inlined(function: F) -> F:
    """Compile a small function that is inlined into kernels."""
    return cast(F, numba.njit(error_model="numpy", fastmath=True, inline="always")(function))
