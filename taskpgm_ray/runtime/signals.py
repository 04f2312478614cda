"""Signals that end a run: SIGTERM (Kubernetes, spot instances, systemd) and SIGHUP do what Ctrl-C does."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AT_ONCE: list[Callable[[], None]] = []
"""Called when a second signal ends the process: what must not outlive it. Quick, and without waiting."""
_received: list[int] = []


@contextmanager
def stoppable() -> Iterator[None]:
    """While the body runs, a signal interrupts it as Ctrl-C does, and a second one ends the process at once.

    The first is told in a line, because stages may take seconds to end. A signal that is ignored when the body begins
    stays ignored: a shell's background jobs ignore Ctrl-C, and ``nohup`` ignores SIGHUP.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received.clear()
    before = {number: signal.getsignal(number) for number in ENDING}
    kept = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in kept:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in kept:
            signal.signal(number, before[number])


@contextmanager
def undisturbed() -> Iterator[None]:
    """Around calls of libraries that put handlers of their own in the place of these (Ray does for SIGTERM)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def exit_code() -> int:
    """What a process returns that was ended by the last signal: 128 and its number, 130 for Ctrl-C."""
    return 128 + (_received[-1] if _received else signal.SIGINT)


def _stop(number: int, frame: FrameType | None) -> Any:
    if _received:
        for end in AT_ONCE:
            end()
        # Not sys.exit: whatever the first interrupt waits for would be waited for again.
        os._exit(128 + number)
    _received.append(number)
    name = signal.Signals(number).name
    print(f"taskpgm: {name}: stopping; finished work is kept (once more: at once)", file=sys.stderr, flush=True)
    # Ray hands on no exception from a signal's handler but KeyboardInterrupt.
    raise KeyboardInterrupt
