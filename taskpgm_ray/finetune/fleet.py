"""The fleet: a queue of jobs and as many lanes as there is work and room for.

The fleet actor holds no tensor and reserves no resources. It stays on the driver's node, which is not one that comes
and goes. Lanes come when jobs wait and end when none does, so whoever else needs the machine (the scoring engines) gets
it, and a cluster's autoscaler sees exactly the demand there is.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

from taskpgm_ray.errors import OutageError, ResourceError, TaskPGMError, TrainingError
from taskpgm_ray.finetune.fleet_view import FleetStatus
from taskpgm_ray.finetune.job import Job
from taskpgm_ray.finetune.lane import LaneSpec, run_lane
from taskpgm_ray.finetune.lane_record import PATIENCE, Entry, LaneProcesses, LaneRecord, RayLane
from taskpgm_ray.runtime.capacity import elsewhere, room_here
from taskpgm_ray.runtime.cluster import MOST_CALLS, node_lost, on_this_node

CLOSE_SECONDS = 60.0
SAVE_SECONDS = 40.0
"""What a lane has, once the study ends, to save the job that it trains; of the seconds to close."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds without a new lane after one that did not come up; doubled with each of them that follows. The same for
jobs whose storage fails."""
OUTAGE_SECONDS = 1800.0
"""A job is given up when the storage has failed for so long, and no job was finished in the meantime."""


class Fleet:
    """Handle of a study's fleet; may be passed to any task or actor of the cluster."""

    def __init__(self, spec: LaneSpec) -> None:
        import ray

        options = {"num_cpus": 0, "max_concurrency": MOST_CALLS, "scheduling_strategy": on_this_node()}
        self._actor: Any = ray.remote(FleetActor).options(**options).remote(spec)

    def submit(self, job: Job) -> Any:
        """Queue a job. The returned object reference becomes its manifest, or raises its error."""
        return self._actor.train.remote(job)

    def status(self) -> FleetStatus:
        """What runs, and what waits."""
        import ray

        return ray.get(self._actor.status.remote())

    def note(self) -> str:
        """What holds the fleet up, if something does."""
        return self.status().note

    def close(self) -> None:
        """End all lanes and the fleet."""
        import ray

        # Lanes that do not end in time die with the fleet.
        ray.wait([self._actor.close.remote()], timeout=CLOSE_SECONDS)
        ray.kill(self._actor)


class FleetActor:
    """Queue and lanes; every method runs on the actor's one event loop, so no lock is needed."""

    def __init__(self, spec: LaneSpec) -> None:
        self.spec = spec
        self.waiting: list[Entry] = []
        self.lanes: dict[int, LaneRecord] = {}
        self.steered_here: set[int] = set()
        """Lanes whose controller is on the fleet's node."""
        self.created = 0
        self.stillborn = 0
        """Lanes in a row that ended before they had come up, those of lost nodes apart."""
        self.quiet_until = 0.0
        """On the event loop's clock: no lane is started before."""
        self.alarm: asyncio.TimerHandle | None = None
        """By which lanes are started then."""
        self.outages = 0
        """Times that the storage failed since a job was finished."""
        self.outage_began = self.outage_until = 0.0
        """On the event loop's clock: when the first of them was, and before when no job is handed out."""
        self.outage = ""
        """What is said of the storage, while it fails."""
        self.hang = ""
        """What was said of the lane that hung last."""
        self.changed = asyncio.Condition()
        self.watchers: set[asyncio.Task[None]] = set()
        self.closing = False

    async def train(self, job: Job) -> dict[str, Any]:
        """Train a job on some lane and return its manifest."""
        entry = Entry(job, asyncio.get_running_loop().create_future())
        await self._queue(entry)
        return await entry.future

    async def take(self, number: int) -> tuple[Job, Job | None] | None:
        """A job for a lane and the one it is likely to get after that, or ``None`` when the lane shall end."""
        lane = self.lanes.get(number)
        if lane is None:
            return None
        lane.started = True
        lane.silence.broken(math.inf)
        while (pause := self.outage_until - asyncio.get_running_loop().time()) > 0 and not self.closing:
            await asyncio.sleep(pause)
        if lane.leaving or self.closing or not await self._wait_for_work(number, lane):
            lane.leaving = True
            lane.heard(PATIENCE)
            return None
        lane.hold(self._claim(lane))
        lane.next = next(iter(self._unclaimed()), None)
        self.stillborn = 0
        self._trim_later()
        assert lane.held is not None
        return lane.held.job, None if lane.next is None else lane.next.job

    async def placed(self, number: int, worker: Any) -> None:
        """One of a lane's processes has its resources, and is about to load the model."""
        if (lane := self.lanes.get(number)) is not None:
            lane.workers.append(worker)
            if not lane.started:
                lane.silence.broken(self.spec.config.start_timeout)

    async def working(self, number: int, outage: str = "") -> None:
        """A lane is about to do what may take longer than a step: to load or store, or to wait for the storage."""
        if (lane := self.lanes.get(number)) is not None:
            self.outage = outage or self.outage
            lane.heard(PATIENCE)

    async def confirm(self, number: int) -> None:
        """Let a lane store something of its job, if that is still its own.

        Raises:
            RuntimeError: It was taken for dead, and another one may have finished the job since.
        """
        lane = self.lanes.get(number)
        if lane is None or lane.hung or lane.held is None:
            raise RuntimeError(f"lane {number} was given up, and must not store anything")
        lane.heard(PATIENCE)

    async def progress(self, number: int, row: dict[str, Any]) -> bool:
        """A lane's latest metrics row; returns whether the study ends, so that the lane saves its job and leaves it."""
        if number in self.lanes:
            self.lanes[number].step(row)
        return self.closing

    async def finished(self, number: int, manifest: dict[str, Any]) -> None:
        """A lane stored its job's adapter."""
        self.outages, self.outage = 0, ""
        if (entry := self._release(number)) is not None:
            entry.future.set_result(manifest)

    async def failed(self, number: int, error: TaskPGMError) -> None:
        """A lane's job failed through its own fault."""
        if (entry := self._release(number)) is not None:
            entry.future.set_exception(type(error)(f"job {entry.job.name!r}: {error}"))

    async def interrupted(self, number: int, problem: str) -> None:
        """The storage failed under a lane's job: wait, and let some lane go on from the job's last checkpoint."""
        now = asyncio.get_running_loop().time()
        if not self.outages:
            self.outage_began = now
        self.outages += 1
        self.outage_until = now + min(FIRST_PAUSE * 2**self.outages, LONGEST_PAUSE)
        self.outage = f"the storage fails ({problem}); trying again in {self.outage_until - now:.0f} s"
        if (entry := self._release(number)) is None:
            return
        if now - self.outage_began > OUTAGE_SECONDS:
            entry.future.set_exception(OutageError(f"job {entry.job.name!r}: {problem}"))
        else:
            await self._queue(entry)

    async def status(self) -> FleetStatus:
        """See `Fleet.status`."""
        working = [lane for lane in self.lanes.values() if lane.held is not None]
        hung = [lane.hung for lane in self.lanes.values() if lane.hung] or [self.hang]
        return FleetStatus(
            waiting=len(self.waiting),
            running={lane.held.job.name: lane.row for lane in working if lane.held is not None},
            lanes=sum(lane.started for lane in self.lanes.values()),
            pending=sum(not lane.started for lane in self.lanes.values()),
            note="; ".join(filter(None, (self.outage, *hung))),
        )

    async def close(self) -> None:
        """End every lane, those that train once they have saved; wait until they have given their resources back."""
        self.closing = True
        self.waiting.clear()
        for lane in self.lanes.values():
            if lane.held is None:
                lane.cancel()
        if self.watchers:
            await asyncio.wait(self.watchers, timeout=SAVE_SECONDS)
        for lane in self.lanes.values():
            lane.cancel()
        # A trainer whose process dies before it has tidied up leaves its placement group behind.
        await asyncio.gather(*self.watchers)

    async def _queue(self, entry: Entry) -> None:
        async with self.changed:
            self.waiting.append(entry)
            # Longest first, so that the end is not one straggler; the sort is stable.
            self.waiting.sort(key=lambda e: -e.job.examples)
            self.changed.notify_all()
        self._staff()

    async def _wait_for_work(self, number: int, lane: LaneRecord) -> bool:
        """Whether a job came before the lane had been idle for too long; lanes of the minimum wait on.

        A lane may die while it waits. Its call here goes on, and must not take the next job with it.
        """
        async with self.changed:
            while self.lanes.get(number) is lane and not self.waiting:
                try:
                    await asyncio.wait_for(self.changed.wait(), self.spec.config.idle_seconds)
                except TimeoutError:
                    if not self.waiting and self._staying() > self.spec.config.min:
                        return False
        return self.lanes.get(number) is lane and not lane.hung

    def _claim(self, lane: LaneRecord) -> Entry:
        """Take the job that the lane has prepared for, else the longest that no other lane prepares for."""
        mine = lane.next if lane.next in self.waiting else None
        entry = mine or next(iter(self._unclaimed()), self.waiting[0])
        self.waiting.remove(entry)
        return entry

    def _unclaimed(self) -> list[Entry]:
        claimed = [id(lane.next) for lane in self.lanes.values() if lane.next is not None]
        return [entry for entry in self.waiting if id(entry) not in claimed]

    def _staying(self) -> int:
        return sum(not lane.leaving for lane in self.lanes.values())

    def _staff(self) -> None:
        """Start lanes while more jobs wait than lanes could take them, up to the configured number."""
        loop = asyncio.get_running_loop()
        if self.closing or not self.waiting:
            return
        if self.alarm is not None:
            self.alarm.cancel()
            self.alarm = None
        if loop.time() < self.quiet_until:
            self.alarm = loop.call_at(self.quiet_until, self._staff)
            return
        free = sum(lane.held is None and not lane.leaving for lane in self.lanes.values())
        for _ in range(min(self.spec.config.max - self._staying(), len(self.waiting) - free)):
            number, self.created = self.created, self.created + 1
            self.lanes[number] = LaneRecord(number, self._launch(number), self.spec.config)
            watcher = loop.create_task(self._watch(number))
            self.watchers.add(watcher)
            watcher.add_done_callback(self.watchers.discard)

    def _launch(self, number: int) -> LaneProcesses:
        """Start a lane."""
        import ray

        me = ray.get_runtime_context().current_actor
        options: dict[str, Any] = {"num_cpus": 0, "max_retries": 0}
        # Here first: without this node there is no study, and what is steered from another one ends with that one too.
        if len(self.steered_here) < room_here():
            self.steered_here.add(number)
            options["scheduling_strategy"] = on_this_node()
        else:
            options |= elsewhere()
        return RayLane(ray.remote(run_lane).options(**options).remote(me, number, self.spec))

    def _trim_later(self) -> None:
        idle = self.spec.config.idle_seconds
        if not self.waiting and idle is not None:
            asyncio.get_running_loop().call_later(idle, self._trim)

    def _trim(self) -> None:
        """Cancel lanes that still wait for their resources when no job is left for them."""
        pending = [lane for lane in self.lanes.values() if not lane.started and not lane.leaving]
        surplus = min(len(pending) - len(self.waiting), self._staying() - self.spec.config.min)
        for lane in pending[: max(0, surplus)]:
            lane.cancel()

    async def _watch(self, number: int) -> None:
        """Wait for a lane's end; give back what it held, and replace it if there is work."""
        error = await self.lanes[number].end()
        lane = self.lanes.pop(number)
        self.steered_here.discard(number)
        self.hang = lane.hung or self.hang
        entry, lane.held = lane.held, None
        if entry is not None and not self.closing:
            # Also of a lane that ended well: what it held and did not report on is not done.
            await self._return(entry, lane, error)
        if error is not None and not lane.leaving and not lane.started:
            self._stillborn(error)
        async with self.changed:
            # A call of the dead lane may still wait for work.
            self.changed.notify_all()
        self._staff()

    def _stillborn(self, error: BaseException) -> None:
        """A lane ended before it had come up: pause, and give up when none is up or starting after too many of them.

        A node that was taken away says nothing of the next one, so it is not counted.
        """
        lost = node_lost(error)
        self.stillborn += not lost
        pause = min(FIRST_PAUSE * 2 ** max(self.stillborn - 1, 0), LONGEST_PAUSE)
        self.quiet_until = asyncio.get_running_loop().time() + pause
        if not lost and self.stillborn > self.spec.config.max_failures and not self._staying():
            self._give_up(error)

    async def _return(self, entry: Entry, lane: LaneRecord, error: BaseException | None) -> None:
        """Put a dead lane's job back, or give it up when it has cost too many lanes without getting further."""
        step = 0 if lane.row is None else lane.row["step"]
        if error is None or not node_lost(error):
            entry.attempts = 1 if step > entry.reached else entry.attempts + 1
        entry.reached = max(entry.reached, step)
        if entry.attempts > self.spec.config.max_failures:
            entry.future.set_exception(
                TrainingError(f"job {entry.job.name!r} ended {entry.attempts} lanes; the last one by: {error}")
            )
        else:
            await self._queue(entry)

    def _give_up(self, error: BaseException) -> None:
        """No lane comes up: every waiting job fails with the reason."""
        kind = type(error) if isinstance(error, TaskPGMError) else ResourceError
        for entry in self.waiting:
            entry.future.set_exception(kind(f"no training lane could start: {error}"))
        self.waiting.clear()
        self.stillborn = 0

    def _release(self, number: int) -> Entry | None:
        """What a lane reports on; ``None`` of one that was taken for dead, whose job is another's by now."""
        lane = self.lanes.get(number)
        if lane is None:
            return None
        entry, lane.held = lane.held, None
        lane.heard(PATIENCE)
        return entry
