"""BLAS on one thread inside short loops."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any


@cache
def _controller() -> Any:
    # Looking up the loaded libraries takes a millisecond, more than a small solve: once is enough.
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def single_threaded_blas() -> AbstractContextManager[Any]:
    """A context that limits BLAS to one thread where threadpoolctl can be imported, and does nothing where it cannot.

    Many small factorisations on contended cores were measured five to forty times slower with two threads.
    """
    try:
        controller = _controller()
    except ImportError:
        return nullcontext()
    return controller.limit(limits=1, user_api="blas")  # type: ignore[no-any-return]
