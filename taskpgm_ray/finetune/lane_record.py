"""What the fleet knows of a job and of a lane: who holds what, how long a lane has been silent, how it is ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, Protocol

from taskpgm_ray.config import LaneConfig
from taskpgm_ray.finetune.job import Job
from taskpgm_ray.runtime.cluster import root_cause
from taskpgm_ray.runtime.silence import Silence, outlasts, settled

SLOWEST_STEPS = 20
"""A lane has hung when it says nothing for so many of its own slowest steps."""
PATIENCE = 5
"""Between two steps a lane says something every few seconds; whatever else it does may take so much longer."""
END_SECONDS = 30.0
"""A lane that was told to end, and has not by then, is made to end by other means."""


@dataclass
class Entry:
    """A job in the fleet, and what became of it."""

    job: Job
    future: asyncio.Future[dict[str, Any]]
    attempts: int = 0
    """Lanes that died over it, one after the other, without getting it further than the one before."""
    reached: int = 0
    """Highest step that any lane reported."""
    hangs: int = 0
    """Lanes that fell silent over it."""


class LaneProcesses(Protocol):
    """A lane that was started: its end, and the ways to bring that about."""

    ended: Awaitable[Any]
    """Returns or raises when the lane has ended."""

    def cancel(self) -> None:
        """Have it end, and give its resources back."""

    def kill_workers(self, workers: list[Any]) -> None:
        """End its workers; its controller notices, gives their resources back and ends by itself."""

    def kill(self) -> None:
        """End it though its controller does not answer."""


class RayLane:
    """A lane as a Ray task, which holds Ray Train's controller."""

    def __init__(self, reference: Any) -> None:
        self.ended = reference

    def cancel(self) -> None:
        """See `LaneProcesses`."""
        import ray

        ray.cancel(self.ended, force=False)

    def kill_workers(self, workers: list[Any]) -> None:
        """See `LaneProcesses`."""
        import ray

        for worker in workers:
            ray.kill(worker)

    def kill(self) -> None:
        """See `LaneProcesses`."""
        import ray

        ray.cancel(self.ended, force=True)


@dataclass
class LaneRecord:
    """What the fleet knows of a lane that was started and has not ended."""

    number: int
    processes: LaneProcesses
    config: LaneConfig
    started: bool = False
    """Whether it has asked for a job; until then it waits for its resources, or loads the model."""
    held: Entry | None = None
    next: Entry | None = None
    """The waiting job whose data the lane loads already; it keeps a claim on it."""
    leaving: bool = False
    row: dict[str, Any] | None = None
    """Metrics of the held job's last step."""
    slowest: float = 0.0
    """Longest time between two steps of the held job, in seconds."""
    workers: list[Any] = field(default_factory=list)
    """Handles of its processes that have their resources."""
    silence: Silence = field(default_factory=Silence)
    hung: str = ""
    """What is said of it, when it was silent for too long; it is being ended."""

    def hold(self, entry: Entry) -> None:
        """It gets this job, and says at once that it has it, unless it hangs already."""
        self.held, self.row, self.slowest = entry, None, 0.0
        self.heard()

    def step(self, row: dict[str, Any]) -> None:
        """It has done a step of its job."""
        if self.row is not None:
            self.slowest = max(self.slowest, self.silence.seconds)
        self.row = row
        # After the last one it evaluates and stores.
        self.heard(PATIENCE if row["progress"] >= 1 else 1)

    def heard(self, patience: float = 1) -> None:
        """It lives; from now on it may be silent for so many times the usual."""
        if not self.hung:
            seconds = max(patience * self.config.silent_seconds, SLOWEST_STEPS * self.slowest)
            self.silence.broken(seconds * 2 ** (self.held.hangs if self.held else 0))

    def cancel(self) -> None:
        """Have it end, and give its resources back."""
        self.leaving = True
        self.processes.cancel()

    async def end(self) -> BaseException | None:
        """Wait for its end, and say what it ended by; a lane that hangs is ended."""
        ended = asyncio.ensure_future(settled(self.processes.ended))
        hung: TimeoutError | None = None
        for force in (None, lambda: self.processes.kill_workers(self.workers), self.processes.kill):
            if force is not None:
                force()
                self.silence.broken(END_SECONDS)
            if await outlasts(ended, self.silence):
                break
            hung = hung or self._hangs()
        if not ended.done():
            # Nothing reaches it. Whatever it still does, its job is another's now.
            ended.cancel()
        elif hung is None and (error := ended.exception()) is not None:
            return root_cause(error)
        return hung

    def _hangs(self) -> TimeoutError:
        doing = "before it took a job"
        if self.held is not None:
            self.held.hangs += 1
            doing = f"at {self.held.job.name}"
        self.hung = f"lane {self.number} said nothing for {self.silence.seconds:.0f} s {doing} and was ended"
        return TimeoutError(self.hung)
