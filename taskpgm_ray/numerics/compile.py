"""One typed way to compile a kernel, so that every kernel gets the same numba options."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def fingerprint(folder: Path) -> str:
    """Hash of all sources below a folder."""
    sources = sorted(folder.rglob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


ROOMS = ("numerics", "affinity", "mrf")
"""The rooms that hold kernels."""

SOURCES = "".join(fingerprint(Path(__file__).parents[1] / room) for room in ROOMS)


def _cached(dispatcher: Any) -> Any:
    """Let the cache of a compiled kernel end with any change of any kernel.

    numba looks at the kernel's own file only, and would go on with an old version of what another file inlined into it.
    """
    dispatcher._cache._cache_file._source_stamp = SOURCES
    return dispatcher


def kernel(function: F) -> F:
    """Compile with numba: cached on disk, no division checks (they block SIMD), sums may be reordered, GIL released.

    Infinities must not enter a kernel: ``fastmath`` assumes that there are none. Nor may it call another kernel, only
    `inlined` functions: of a called kernel there are two copies, one compiled alone and one with its caller, whose sums
    are ordered differently, and a process that compiled runs the one, a process that found the cache the other.
    """
    return cast(F, _cached(numba.njit(cache=True, error_model="numpy", fastmath=True, nogil=True)(function)))


def inlined(function: F) -> F:
    """Compile a small function that is inlined into kernels."""
    return cast(F, numba.njit(error_model="numpy", fastmath=True, inline="always")(function))


def exact_kernel(function: F) -> F:
    """Compile without reordering: the same bits however it was compiled, also where kernels call kernels."""
    return cast(F, _cached(numba.njit(cache=True, error_model="numpy", nogil=True)(function)))


def exact_inlined(function: F) -> F:
    """Compile a small function that is inlined into exact kernels."""
    return cast(F, numba.njit(error_model="numpy", inline="always")(function))
