"""The fleet: a queue of jobs and as many lanes as there is work and room for.

The fleet actor holds no tensor and reserves no resources. Lanes come when jobs wait and end when none does, so whoever
else needs the machine (the scoring engines) gets it, and a cluster's autoscaler sees exactly the demand there is.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from taskpgm_ray.cluster import root_cause
from taskpgm_ray.errors import TaskPGMError, TrainingError
from taskpgm_ray.finetune.job import Job
from taskpgm_ray.finetune.lane import LaneSpec, run_lane


class Fleet:
    """Handle of a study's fleet; may be passed to any task or actor of the cluster."""

    def __init__(self, spec: LaneSpec) -> None:
        import ray

        self._actor: Any = ray.remote(FleetActor).options(num_cpus=0, max_concurrency=10_000).remote(spec)

    def submit(self, job: Job) -> Any:
        """Queue a job. The returned object reference becomes its manifest, or raises its error."""
        return self._actor.train.remote(job)

    def status(self) -> dict[str, Any]:
        """Waiting jobs, and each lane's current job and last metrics row."""
        import ray

        return ray.get(self._actor.status.remote())

    def close(self) -> None:
        """End all lanes and the fleet."""
        import ray

        try:
            ray.get(self._actor.close.remote(), timeout=60)
        finally:
            ray.kill(self._actor)


@dataclass
class _Entry:
    """A job in the fleet, and what became of it."""

    job: Job
    future: asyncio.Future[dict[str, Any]]
    attempts: int = 0


@dataclass
class _Lane:
    """A lane that was started and has not ended."""

    running: Any
    held: _Entry | None = None
    leaving: bool = False
    row: dict[str, Any] | None = None


class FleetActor:
    """Queue and lanes; every method runs on the actor's one event loop, so no lock is needed."""

    def __init__(self, spec: LaneSpec) -> None:
        self.spec = spec
        self.waiting: list[_Entry] = []
        self.lanes: dict[int, _Lane] = {}
        self.started = 0
        self.stillborn = 0
        self.changed = asyncio.Condition()
        self.watchers: set[asyncio.Task[None]] = set()

    async def train(self, job: Job) -> dict[str, Any]:
        """Train a job on some lane and return its manifest."""
        entry = _Entry(job, asyncio.get_running_loop().create_future())
        await self._queue(entry)
        return await entry.future

    async def take(self, lane: int) -> Job | None:
        """The next job for a lane, or ``None`` when it shall end."""
        mine = self.lanes[lane]
        if mine.held is not None:
            # The lane's worker died in mid-job and Ray Train restarted it.
            await self._return(mine, TrainingError("the training worker died"))
        async with self.changed:
            try:
                await asyncio.wait_for(self.changed.wait_for(lambda: self.waiting), self.spec.config.idle_seconds)
            except TimeoutError:
                mine.leaving = True
                return None
            mine.held = self.waiting.pop(0)
        self.stillborn = 0
        mine.row = None
        return mine.held.job

    async def progress(self, lane: int, row: dict[str, Any]) -> None:
        """A lane's latest metrics row."""
        if lane in self.lanes:
            self.lanes[lane].row = row

    async def finished(self, lane: int, manifest: dict[str, Any]) -> None:
        """A lane stored its job's adapter."""
        self._release(lane).future.set_result(manifest)

    async def failed(self, lane: int, error: TaskPGMError) -> None:
        """A lane's job failed through its own fault."""
        entry = self._release(lane)
        entry.future.set_exception(type(error)(f"job {entry.job.name!r}: {error}"))

    async def status(self) -> dict[str, Any]:
        """See `Fleet.status`."""
        running = {lane.held.job.name: lane.row for lane in self.lanes.values() if lane.held is not None}
        return {"waiting": len(self.waiting), "running": running, "lanes": len(self.lanes)}

    async def close(self) -> None:
        """Cancel every lane."""
        import ray

        self.waiting.clear()
        for lane in self.lanes.values():
            ray.cancel(lane.running, force=False)

    async def _queue(self, entry: _Entry) -> None:
        async with self.changed:
            self.waiting.append(entry)
            # Longest first, so that the end is not one straggler; the sort is stable.
            self.waiting.sort(key=lambda e: -e.job.examples)
            self.changed.notify()
        self._staff()

    def _staff(self) -> None:
        """Start lanes while more jobs wait than lanes could take them, up to the configured number."""
        import ray

        free = sum(1 for lane in self.lanes.values() if lane.held is None and not lane.leaving)
        staying = sum(1 for lane in self.lanes.values() if not lane.leaving)
        me = ray.get_runtime_context().current_actor
        for _ in range(min(self.spec.config.max - staying, len(self.waiting) - free)):
            number, self.started = self.started, self.started + 1
            running = ray.remote(run_lane).options(num_cpus=0, max_retries=0).remote(me, number, self.spec)
            self.lanes[number] = _Lane(running)
            watcher = asyncio.get_running_loop().create_task(self._watch(number))
            self.watchers.add(watcher)
            watcher.add_done_callback(self.watchers.discard)

    async def _watch(self, number: int) -> None:
        """Wait for a lane's end; give back what it held, and replace it if there is work."""
        error: BaseException | None = None
        try:
            await self.lanes[number].running
        except Exception as caught:  # whatever ended the lane, its job must go on
            error = root_cause(caught)
        lane = self.lanes.pop(number)
        if error is not None:
            self.stillborn += lane.held is None
            await self._return(lane, error)
            if self.stillborn > self.spec.config.max_failures:
                self._give_up(error)
        self._staff()

    async def _return(self, lane: _Lane, error: BaseException) -> None:
        """Put a dead lane's job back, or give it up when it has cost too many lanes already."""
        entry, lane.held = lane.held, None
        if entry is None:
            return
        entry.attempts += 1
        if entry.attempts > self.spec.config.max_failures:
            entry.future.set_exception(
                TrainingError(f"job {entry.job.name!r} ended {entry.attempts} lanes; the last one by: {error}")
            )
        else:
            await self._queue(entry)

    def _give_up(self, error: BaseException) -> None:
        """No lane comes up: every waiting job fails with the reason."""
        kind = type(error) if isinstance(error, TaskPGMError) else TrainingError
        for entry in self.waiting:
            entry.future.set_exception(kind(f"no training lane could start: {error}"))
        self.waiting.clear()

    def _release(self, lane: int) -> _Entry:
        entry = self.lanes[lane].held
        self.lanes[lane].held = None
        if entry is None:
            raise RuntimeError(f"lane {lane} reported on a job that it does not hold")
        return entry
