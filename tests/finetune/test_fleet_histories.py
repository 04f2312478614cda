"""Random histories of a fleet on a virtual clock: whatever dies and when, no job is lost, held twice or forgotten."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ray.exceptions import NodeDiedError

from taskpgm_ray.config import LaneConfig
from taskpgm_ray.errors import OutageError, TaskPGMError, TrainingError
from taskpgm_ray.finetune.fleet import LONGEST_PAUSE, OUTAGE_SECONDS, SAVE_SECONDS, FleetActor
from taskpgm_ray.finetune.lane_record import END_SECONDS
from tests.virtual_time import VirtualTime


class Lane:
    """One lane as the fleet sees it: a future for its end, and calls that outlive it."""

    def __init__(self, number, loop):
        self.number, self.ended = number, loop.create_future()
        self.call = None
        """Its pending (or answered) call of ``take``."""
        self.deaf = 0
        """How many of the ways to end it do not reach it."""

    @property
    def alive(self):
        return not self.ended.done()

    def cancel(self):
        if self.alive:
            self.ended.set_exception(RuntimeError("cancelled"))

    def kill_workers(self, workers):
        self.kill()

    def kill(self):
        self.deaf -= 1
        if self.deaf < 0 and self.alive:
            self.ended.set_exception(RuntimeError("killed"))

    @property
    def job(self):
        """What it was given, if it was."""
        answered = self.call is not None and self.call.done() and not self.call.cancelled()
        return self.call.result()[0] if answered and self.call.result() is not None else None


class Fleet(FleetActor):
    """The actor without Ray: lanes are futures."""

    def __init__(self, **config):
        super().__init__(SimpleNamespace(config=LaneConfig(**config)))
        self.started = []

    def _launch(self, number):
        self.started.append(Lane(number, asyncio.get_running_loop()))
        return self.started[-1]


class World:
    """A fleet and its lanes on a virtual clock."""

    def __init__(self, **config):
        self.loop = VirtualTime()
        self.fleet = Fleet(**config)
        self.results = {}
        self.submitted = 0

    def submit(self, size=8):
        name = f"job{self.submitted}"
        self.submitted += 1
        self.results[name] = self.loop.create_task(self.fleet.train(SimpleNamespace(name=name, examples=size)))
        self.loop.settle()
        return name

    @property
    def lanes(self):
        return [lane for lane in self.fleet.started if lane.alive]

    def ask(self, lane):
        """The lane is up, or through with a job, and asks for the next."""
        lane.call = self.loop.create_task(self.fleet.take(lane.number))
        self.loop.settle()

    def finish(self, lane):
        self.loop.run_until_complete(self.fleet.finished(lane.number, {"steps": 1}))
        lane.call = None
        self.loop.settle()

    def fail(self, lane):
        self.loop.run_until_complete(self.fleet.failed(lane.number, TrainingError("the loss became nan")))
        lane.call = None
        self.loop.settle()

    def interrupt(self, lane):
        """The storage fails under its job; the lane itself goes on."""
        self.loop.run_until_complete(self.fleet.interrupted(lane.number, "connection reset"))
        lane.call = None
        self.loop.settle()

    def die(self, lane, error):
        """The lane's process ends, now; what it has called in the fleet goes on."""
        lane.ended.set_exception(error)
        self.loop.settle()

    def step(self, lane, step, progress=0.5):
        self.loop.run_until_complete(self.fleet.progress(lane.number, {"step": step, "progress": progress}))
        self.loop.settle()

    def place(self, lane):
        self.loop.run_until_complete(self.fleet.placed(lane.number, object()))
        self.loop.settle()

    def end(self, lane):
        lane.ended.set_result(None)
        self.loop.settle()

    def serve(self):
        """Healthy lanes from now on, until nothing moves any more."""
        for _ in range(400):
            for lane in self.lanes:
                if lane.call is None:
                    self.ask(lane)
                elif sent_home(lane):
                    self.end(lane)
                elif lane.job is not None:
                    self.finish(lane)
            if all(result.done() for result in self.results.values()):
                return
            self.loop.elapse(LONGEST_PAUSE / 10)

    def check(self):
        """Every job waits, is held by exactly one live lane, or has ended."""
        waiting = [entry.job.name for entry in self.fleet.waiting]
        held = [record.held.job.name for record in self.fleet.lanes.values() if record.held is not None]
        ended = [name for name, result in self.results.items() if result.done()]
        assert sorted(waiting + held + ended) == sorted(self.results)
        live = {lane.number for lane in self.lanes}
        assert self.fleet.lanes.keys() == live
        assert sum(not record.leaving for record in self.fleet.lanes.values()) <= self.fleet.spec.config.max
        # What a lane was given is what the fleet believes it holds.
        for lane in self.lanes:
            record = self.fleet.lanes[lane.number]
            assert (lane.job.name if lane.job else None) == (record.held.job.name if record.held else None)

    def close(self):
        self.loop.run_until_complete(self.fleet.close())
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.settle()
        self.loop.close()


def silent(lane):
    """It starts, or is between two jobs."""
    return lane.call is None


def busy(lane):
    return lane.job is not None


def idle(lane):
    return lane.call is not None and not lane.call.done()


def sent_home(lane):
    return lane.call is not None and lane.call.done() and lane.call.result() is None


class Histories(RuleBasedStateMachine):
    """Jobs come, lanes start, work, idle, fail and die in every state; time passes."""

    @initialize(least=st.integers(0, 2), more=st.integers(1, 3), failures=st.integers(0, 2))
    def begin(self, least, more, failures):
        self.world = World(min=least, max=least + more, max_failures=failures)
        self.innocent = True

    def of(self, keep):
        return [lane for lane in self.world.lanes if keep(lane)]

    @rule(size=st.integers(1, 3))
    def submit(self, size):
        self.world.submit(size)

    @precondition(lambda self: self.of(silent))
    @rule(data=st.data())
    def a_lane_asks(self, data):
        self.world.ask(data.draw(st.sampled_from(self.of(silent))))

    @precondition(lambda self: self.of(busy))
    @rule(data=st.data())
    def a_job_is_done(self, data):
        self.world.finish(data.draw(st.sampled_from(self.of(busy))))

    @precondition(lambda self: self.of(busy))
    @rule(data=st.data())
    def a_job_fails(self, data):
        self.world.fail(data.draw(st.sampled_from(self.of(busy))))

    @precondition(lambda self: self.of(busy))
    @rule(data=st.data())
    def the_storage_fails(self, data):
        self.world.interrupt(data.draw(st.sampled_from(self.of(busy))))

    @precondition(lambda self: self.of(sent_home))
    @rule(data=st.data())
    def a_lane_ends(self, data):
        self.world.end(data.draw(st.sampled_from(self.of(sent_home))))

    @precondition(lambda self: self.world.lanes)
    @rule(data=st.data(), kind=st.sampled_from([silent, busy, idle]), lost=st.booleans())
    def a_lane_dies(self, data, kind, lost):
        lane = data.draw(st.sampled_from(self.of(kind) or self.world.lanes))
        self.innocent &= lost
        self.world.die(lane, NodeDiedError("its node has died") if lost else RuntimeError("killed"))

    @precondition(lambda self: self.of(busy))
    @rule(data=st.data())
    def a_lane_does_a_step(self, data):
        self.world.step(data.draw(st.sampled_from(self.of(busy))), 1)

    @precondition(lambda self: self.of(silent))
    @rule(data=st.data())
    def a_lane_gets_its_resources(self, data):
        self.world.place(data.draw(st.sampled_from(self.of(silent))))

    @rule(seconds=st.sampled_from([0.5, 6.0, 70.0]), deaf=st.integers(0, 1))
    def time_passes(self, seconds, deaf):
        # Who says nothing for so long hangs, and is ended, at once or only by the last means.
        for lane in self.world.lanes:
            lane.deaf = deaf
        self.innocent &= not (self.of(busy) or self.of(silent))
        self.world.loop.elapse(seconds)

    @precondition(lambda self: hasattr(self, "world"))
    @invariant()
    def nothing_is_lost(self):
        self.world.check()

    def teardown(self):
        if not hasattr(self, "world"):
            return
        self.world.serve()
        for name, result in self.world.results.items():
            assert result.done(), f"{name} waits for ever"
            if result.exception() is not None:
                assert isinstance(result.exception(), TaskPGMError)
                # Only what failed by itself, where no process died but those of lost nodes; or after half an hour.
                reasons = ("the loss became nan", "connection reset")
                assert not self.innocent or str(result.exception()).endswith(reasons)
        self.world.close()


Histories.TestCase.settings = settings(
    max_examples=200, stateful_step_count=50, suppress_health_check=list(HealthCheck)
)
TestHistories = Histories.TestCase


@pytest.fixture
def world():
    made = []

    def make(**config):
        made.append(World(**config))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_lane_that_dies_while_idle_takes_no_job_with_it(world):
    here = world(min=1, max=1)
    here.submit()
    (lane,) = here.lanes
    here.ask(lane)
    here.finish(lane)
    here.ask(lane)
    here.die(lane, RuntimeError("SIGKILL"))
    name = here.submit()
    here.check()
    assert lane.call.result() is None
    (another,) = here.lanes
    here.ask(another)
    assert another.job.name == name


def test_a_lane_that_trains_when_the_study_ends_may_save_first(world):
    here = world(max=3)
    for _ in range(3):
        here.submit()
    saves, deaf, _ = here.lanes
    here.ask(saves)
    here.ask(deaf)
    closing = here.loop.create_task(here.fleet.close())
    here.loop.settle()
    # Who holds no job has nothing to save.
    assert here.lanes == [saves, deaf]
    assert here.loop.run_until_complete(here.fleet.progress(saves.number, {"step": 5, "progress": 0.5}))
    here.end(saves)
    here.loop.elapse(SAVE_SECONDS / 2)
    assert here.lanes == [deaf]
    assert not closing.done()
    here.loop.elapse(SAVE_SECONDS)
    assert closing.done()
    assert here.lanes == []


def test_a_lane_that_finishes_its_job_as_the_study_ends_gets_no_other(world):
    here = world(max=1)
    done, waits = here.submit(), here.submit()
    (lane,) = here.lanes
    here.ask(lane)
    closing = here.loop.create_task(here.fleet.close())
    here.loop.settle()
    here.finish(lane)
    assert here.results[done].result() == {"steps": 1}
    here.ask(lane)
    assert lane.call.result() is None
    here.end(lane)
    assert closing.done()
    assert not here.results[waits].done()


def test_lanes_that_are_reclaimed_while_starting_fail_no_job(world):
    here = world(max=64, max_failures=2)
    names = [here.submit() for _ in range(100)]
    assert len(here.lanes) == 64
    for lane in here.lanes[:3]:
        here.die(lane, RuntimeError("the worker died"))
    assert len(here.fleet.waiting) == 100
    here.serve()
    assert all(here.results[name].result() == {"steps": 1} for name in names)


def test_preemption_alone_is_never_given_up(world):
    here = world(max=2, max_failures=0)
    name = here.submit()
    for _ in range(50):
        for lane in here.lanes:
            here.die(lane, NodeDiedError("its node has died"))
        here.loop.elapse(LONGEST_PAUSE)
    here.check()
    here.serve()
    assert here.results[name].result() == {"steps": 1}


def test_where_no_lane_comes_up_the_jobs_fail_with_the_reason_and_later_ones_are_tried(world):
    here = world(max=2, max_failures=2)
    names = [here.submit() for _ in range(2)]
    rounds = 0
    while not all(here.results[name].done() for name in names):
        assert here.lanes
        for lane in here.lanes:
            here.die(lane, RuntimeError("no space left on device"))
        here.loop.elapse(LONGEST_PAUSE)
        rounds += 1
    # Two lanes at a time: after the first round two had failed, which max_failures allows.
    assert rounds == 2
    for name in names:
        assert "no training lane could start: no space left" in str(here.results[name].exception())
    later = here.submit()
    here.loop.elapse(LONGEST_PAUSE)
    here.serve()
    assert here.results[later].result() == {"steps": 1}


def test_pauses_between_lanes_that_do_not_come_up_grow(world):
    here = world(max=1, max_failures=5)
    here.submit()
    starts = [here.loop.time()]
    for _ in range(4):
        (lane,) = here.lanes
        here.die(lane, RuntimeError("a slow hub"))
        while not here.lanes:
            here.loop.elapse(0.25)
        starts.append(here.loop.time())
    pauses = [later - earlier for earlier, later in pairwise(starts)]
    assert pauses == pytest.approx([1, 2, 4, 8], abs=0.3)


def note(here):
    return here.loop.run_until_complete(here.fleet.status()).note


def test_a_lane_that_falls_silent_between_two_steps_is_ended_and_its_job_goes_on(world):
    here = world(max=1, silent_seconds=10)
    name = here.submit()
    (lane,) = here.lanes
    here.ask(lane)
    for step in range(1, 4):
        here.step(lane, step)
        here.loop.elapse(2)
    # Its slowest step took two seconds, so it may take forty.
    here.loop.elapse(36)
    assert lane.alive
    here.loop.elapse(4)
    assert not lane.alive
    assert note(here) == "lane 0 said nothing for 41 s at job0 and was ended"
    (another,) = here.lanes
    here.ask(another)
    assert another.job.name == name
    # A second hang of the same job is waited for twice as long.
    here.step(another, 4)
    here.loop.elapse(19)
    assert another.alive
    here.loop.elapse(3)
    assert not another.alive


def test_a_lane_that_hangs_as_it_gets_a_job_is_noticed_at_once(world):
    here = world(min=1, max=1, silent_seconds=10)
    here.submit()
    (lane,) = here.lanes
    here.ask(lane)
    here.finish(lane)
    here.ask(lane)
    here.loop.elapse(10_000)
    assert lane.alive, "an idle lane of the minimum may wait for ever"
    name = here.submit()
    here.loop.elapse(12)
    assert not lane.alive
    (another,) = here.lanes
    here.ask(another)
    assert another.job.name == name


def test_a_lane_that_loads_or_stores_or_waits_for_the_storage_has_more_time(world):
    here = world(max=1, silent_seconds=10)
    here.submit()
    (lane,) = here.lanes
    here.loop.elapse(10_000)
    assert lane.alive, "resources are waited for as long as it takes"
    here.place(lane)
    here.loop.elapse(800)
    assert lane.alive
    here.ask(lane)
    for say in (lambda: here.fleet.working(0), lambda: here.fleet.confirm(0)):
        here.loop.run_until_complete(say())
        here.loop.elapse(45)
        assert lane.alive
    here.step(lane, 9, progress=1.0)
    here.loop.elapse(45)
    assert lane.alive
    here.loop.elapse(10)
    assert not lane.alive


def test_a_lane_that_does_not_come_up_is_ended(world):
    here = world(max=1, start_timeout=100, max_failures=5)
    here.submit()
    (lane,) = here.lanes
    here.place(lane)
    here.loop.elapse(102)
    assert not lane.alive
    assert "lane 0 said nothing for 101 s before it took a job" in note(here)
    here.serve()
    assert all(result.result() == {"steps": 1} for result in here.results.values())


def test_a_lane_that_nothing_reaches_is_given_up_and_may_not_store_what_is_anothers(world):
    here = world(max=1, silent_seconds=10)
    name = here.submit()
    (lane,) = here.lanes
    here.ask(lane)
    lane.deaf = 9
    here.loop.run_until_complete(here.fleet.confirm(lane.number))
    here.loop.elapse(102)
    with pytest.raises(RuntimeError, match="lane 0 was given up, and must not store anything"):
        here.loop.run_until_complete(here.fleet.confirm(lane.number))
    here.loop.elapse(2 * END_SECONDS + 5)
    (another,) = [one for one in here.fleet.started if one is not lane]
    here.ask(another)
    assert another.job.name == name
    with pytest.raises(RuntimeError, match="lane 0 was given up"):
        here.loop.run_until_complete(here.fleet.confirm(lane.number))
    here.loop.run_until_complete(here.fleet.confirm(another.number))
    here.finish(another)


def test_nobody_is_late_after_the_whole_machine_has_slept(world):
    here = world(max=1, silent_seconds=10)
    here.submit()
    (lane,) = here.lanes
    here.ask(lane)
    here.loop.run_until_complete(_sleep(here, 3_600))
    here.loop.elapse(5)
    assert lane.alive


async def _sleep(here, seconds):
    here.loop.now += seconds


def test_an_outage_of_the_storage_is_waited_for_and_said(world):
    here = world(max=2, max_failures=0)
    names = [here.submit() for _ in range(2)]
    for lane in here.lanes:
        here.ask(lane)
    for _ in range(5):
        for lane in here.lanes:
            if lane.job:
                here.interrupt(lane)
                here.ask(lane)
        here.check()
        here.loop.elapse(0.5)
        assert not any(lane.job for lane in here.lanes)
        assert "the storage fails (connection reset); trying again in" in note(here)
        here.loop.elapse(LONGEST_PAUSE)
    here.serve()
    assert all(here.results[name].result() == {"steps": 1} for name in names)
    assert note(here) == ""


def test_a_storage_that_stays_away_ends_the_jobs_with_its_error(world):
    here = world(max=1)
    name = here.submit()
    (lane,) = here.lanes
    began = here.loop.time()
    while not here.results[name].done():
        here.ask(lane)
        here.loop.elapse(LONGEST_PAUSE)
        here.interrupt(lane)
    assert isinstance(here.results[name].exception(), OutageError)
    assert here.loop.time() - began > OUTAGE_SECONDS


def test_a_report_of_a_lane_that_was_taken_for_dead_counts_for_nothing(world):
    here = world(max=1)
    here.submit()
    (lane,) = here.lanes
    here.ask(lane)
    here.die(lane, RuntimeError("partitioned"))
    here.loop.run_until_complete(here.fleet.finished(lane.number, {"steps": 9}))
    here.loop.run_until_complete(here.fleet.failed(lane.number, TrainingError("late")))
    here.check()
    here.serve()
    assert [result.result() for result in here.results.values()] == [{"steps": 1}]
