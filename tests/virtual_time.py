"""An event loop whose clock jumps to the next timer as soon as nothing else is to be done: hours pass in no time."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class VirtualTime(asyncio.SelectorEventLoop):
    """``time()`` is the virtual one; nothing in it may wait for the world outside."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Impatient(self))

    def time(self) -> float:
        return self.now

    def settle(self) -> None:
        """Let everything run that can without the clock going on."""
        for _ in range(50):
            self.run_until_complete(_nothing())

    def elapse(self, seconds: float) -> None:
        """Let so much time pass."""
        self.run_until_complete(asyncio.sleep(seconds))
        self.settle()


class _Impatient(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    def __init__(self, loop: VirtualTime) -> None:
        super().__init__()
        self.loop = loop

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout:
            self.loop.now += timeout
        return ready


async def _nothing() -> None:
    pass
