"""Processes that live and do nothing: stopped, deadlocked, behind a network that swallows what they say."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from typing import Any

LOOK_SECONDS = 1.0


class Silence:
    """How long a process has said nothing, and for how long it may."""

    def __init__(self, limit: float = math.inf) -> None:
        self.limit = limit
        self.seconds = 0.0

    def broken(self, limit: float | None = None) -> None:
        """It was heard; from now on it may be silent for ``limit`` seconds (by default for as long as before)."""
        self.seconds = 0.0
        self.limit = self.limit if limit is None else limit


async def settled(awaited: Awaitable[Any]) -> Any:
    """What comes of an awaitable that is no coroutine, such as a reference of Ray: a task can be made of this."""
    return await awaited


async def outlasts(work: asyncio.Future[Any], silence: Silence) -> bool:
    """Wait for ``work``; false when it was silent for too long before its end.

    Only time in which the waiting process itself ran is counted: after the lid of a laptop was closed, or whatever else
    stopped all of them, nobody is late.
    """
    loop = asyncio.get_running_loop()
    while not work.done():
        began = loop.time()
        await asyncio.wait({work}, timeout=LOOK_SECONDS)
        silence.seconds += min(loop.time() - began, 2 * LOOK_SECONDS)
        if silence.seconds > silence.limit and not work.done():
            return False
    return True
