"""Random histories of an engine pool on a virtual clock: whatever dies and when, no work is lost or forgotten."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ray.exceptions import NodeDiedError

from taskpgm_ray.config import EngineConfig
from taskpgm_ray.errors import OutageError, ResourceError, ScoringError, TaskPGMError
from taskpgm_ray.scoring.pool import LONGEST_PAUSE, OUTAGE_PAUSES, PoolActor
from tests.virtual_time import VirtualTime

KILLED = RuntimeError("killed")


class Method:
    """A remote method: each call is a future of the engine's."""

    def __init__(self, engine, name):
        self.engine, self.name = engine, name

    def remote(self, *arguments):
        return self.engine.call(self.name, arguments)


class Engine:
    """One engine as the pool sees it."""

    def __init__(self, loop):
        self.loop, self.error, self.killed = loop, None, False
        self.loaded = False
        self.calls = {}
        """Method -> its pending call."""

    def __getattr__(self, name):
        return Method(self, name)

    def call(self, name, arguments):
        future = self.loop.create_future()
        if self.error is not None:
            future.set_exception(self.error)
        elif name == "fetch":
            future.set_result(None)
        else:
            self.calls[name] = future
            future.arguments = arguments
        if name == "fetch" and self.error is not None:
            future.exception()
        return future

    def pending(self, name):
        found = self.calls.get(name)
        return found if found is not None and not found.done() else None

    def answer(self, name, result=None):
        self.calls.pop(name).set_result(result)

    def die(self, error):
        self.error = error
        for future in self.calls.values():
            if not future.done():
                future.set_exception(error)
        self.calls = {}


class Pool(PoolActor):
    """The actor without Ray."""

    def __init__(self, **config):
        super().__init__(SimpleNamespace(config=EngineConfig(**config)))
        self.started = []

    @staticmethod
    def _handle():
        return None

    def _launch(self):
        self.started.append(Engine(asyncio.get_running_loop()))
        return self.started[-1]

    @staticmethod
    def _kill(actor):
        actor.killed = True


class World:
    """A pool and its engines on a virtual clock."""

    def __init__(self, **config):
        self.loop = VirtualTime()
        self.pool = Pool(**config)
        self.results = {}

    def submit(self, tokens=1000):
        number = len(self.results)
        self.results[number] = self.loop.create_task(self.pool.call("score", (), tokens, number))
        self.loop.settle()
        return number

    @property
    def engines(self):
        """Those that the pool has not done with."""
        return [engine for engine in self.pool.started if not engine.killed]

    def answer(self, engine, name):
        call = engine.calls[name]
        engine.loaded |= name == "load"
        engine.answer(name, {"score": call.arguments[:1], "load": [0.001]}.get(name, [None])[0])
        self.loop.settle()

    def fail(self, engine):
        engine.calls.pop("score").set_exception(ScoringError("its adapter is damaged"))
        self.loop.settle()

    def die(self, engine, error):
        engine.die(error)
        self.loop.settle()

    def serve(self):
        """Healthy engines from now on, until all is done."""
        for _ in range(400):
            for engine in self.engines:
                for name in ("placed", "load", "score"):
                    if engine.pending(name) is not None:
                        self.answer(engine, name)
            if all(result.done() for result in self.results.values()):
                return
            self.loop.elapse(LONGEST_PAUSE / 10)

    def check(self):
        """Every piece of work waits, is with exactly one engine that can do it, or has ended."""
        waiting = [work.arguments[0] for work in self.pool.waiting]
        with_engines = [e.calls["score"].arguments[0] for e in self.engines if e.pending("score") is not None]
        ended = [number for number, result in self.results.items() if result.done()]
        assert sorted(waiting + with_engines + ended) == sorted(self.results)
        assert len(self.engines) <= self.pool.spec.config.max
        assert 0 <= self.pool.idle <= self.pool.spec.config.max
        for number, result in self.results.items():
            assert not result.done() or result.exception() is not None or result.result() == number
        # An engine that is up has something to do as long as something waits.
        free = [engine for engine in self.engines if engine.loaded and engine.pending("score") is None]
        assert not (waiting and free)

    def close(self):
        self.loop.run_until_complete(self.pool.close())
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.settle()
        self.loop.close()


class Histories(RuleBasedStateMachine):
    """Work comes, engines start, load, work, idle, fail and die in every state; time passes."""

    @initialize(most=st.integers(1, 3), failures=st.integers(0, 2), idle=st.sampled_from([10, None]))
    def begin(self, most, failures, idle):
        self.world = World(max=most, max_failures=failures, start_timeout=100, idle_seconds=idle)
        self.innocent = True

    def of(self, name):
        return [engine for engine in self.world.engines if engine.pending(name) is not None]

    @rule()
    def submit(self):
        self.world.submit()

    @precondition(lambda self: self.of("placed"))
    @rule(data=st.data())
    def an_engine_gets_its_resources(self, data):
        self.world.answer(data.draw(st.sampled_from(self.of("placed"))), "placed")

    @precondition(lambda self: self.of("load"))
    @rule(data=st.data())
    def an_engine_is_up(self, data):
        self.world.answer(data.draw(st.sampled_from(self.of("load"))), "load")

    @precondition(lambda self: self.of("placed"))
    @rule()
    def all_are_up(self):
        for name in ("placed", "load"):
            for engine in self.of(name):
                self.world.answer(engine, name)

    @precondition(lambda self: self.of("score"))
    @rule(data=st.data())
    def work_is_done(self, data):
        self.world.answer(data.draw(st.sampled_from(self.of("score"))), "score")

    @precondition(lambda self: self.of("score"))
    @rule(data=st.data())
    def work_fails(self, data):
        self.world.fail(data.draw(st.sampled_from(self.of("score"))))

    @precondition(lambda self: self.world.engines)
    @rule(data=st.data(), lost=st.booleans())
    def an_engine_dies(self, data, lost):
        self.innocent &= lost
        engine = data.draw(st.sampled_from(self.world.engines))
        self.world.die(engine, NodeDiedError("its node has died") if lost else KILLED)

    @rule(seconds=st.sampled_from([0.5, 11.0, 70.0]))
    def time_passes(self, seconds):
        # An engine that loads for too long is one that does not come up; one that scores for too long hangs.
        self.innocent &= not (self.of("load") or self.of("score"))
        self.world.loop.elapse(seconds)

    @precondition(lambda self: hasattr(self, "world"))
    @invariant()
    def nothing_is_lost(self):
        self.world.check()

    def teardown(self):
        if not hasattr(self, "world"):
            return
        self.world.serve()
        for number, result in self.world.results.items():
            assert result.done(), f"work {number} waits for ever"
            if result.exception() is not None:
                assert isinstance(result.exception(), TaskPGMError)
                assert not self.innocent or "its adapter is damaged" in str(result.exception())
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


def up(here, engine):
    here.answer(engine, "placed")
    here.answer(engine, "load")


def test_a_time_out_at_start_fails_nothing_while_another_engine_works(world):
    here = world(max=2, start_timeout=100)
    first, second = here.submit(), here.submit()
    works, slow = here.engines
    up(here, works)
    here.answer(slow, "placed")
    here.loop.elapse(101)
    assert slow.killed
    here.check()
    assert not here.results[second].done()
    here.answer(works, "score")
    here.serve()
    assert [here.results[n].result() for n in (first, second)] == [first, second]


def test_a_time_out_of_the_only_engine_fails_what_waits_with_advice(world):
    here = world(max=1, start_timeout=100)
    number = here.submit()
    (slow,) = here.engines
    here.answer(slow, "placed")
    here.loop.elapse(101)
    with pytest.raises(
        ResourceError, match=r"not up 100 s after it got its 1 CPUs .* raise scoring.engines.start_time"
    ):
        here.results[number].result()


def test_a_time_out_of_the_model_store_is_tried_again(world):
    here = world(max=1, start_timeout=100)
    number = here.submit()
    (engine,) = here.engines
    here.answer(engine, "placed")
    here.die(engine, TimeoutError("the hub did not answer"))
    here.loop.elapse(2)
    here.serve()
    assert here.results[number].result() == number


def test_an_idle_engine_takes_over_what_another_died_of(world):
    here = world(max=2, idle_seconds=None)
    here.submit()
    number = here.submit()
    idles, dies = here.engines
    up(here, idles)
    up(here, dies)
    here.answer(idles, "score")
    here.die(dies, KILLED)
    here.answer(idles, "score")
    assert here.results[number].result() == number


def test_an_outage_of_the_storage_is_nobodys_fault(world):
    here = world(max=1, max_failures=0, idle_seconds=1000)
    number = here.submit()
    (engine,) = here.engines
    up(here, engine)
    for pause in OUTAGE_PAUSES:
        engine.calls.pop("score").set_exception(OutageError("the bucket does not answer"))
        here.loop.settle()
        assert not here.results[number].done()
        here.loop.elapse(pause + 1)
        (engine,) = here.engines
    engine.calls.pop("score").set_exception(OutageError("the bucket does not answer"))
    here.loop.settle()
    assert isinstance(here.results[number].exception(), OutageError)


def test_an_engine_that_does_not_answer_is_ended_and_its_work_done_by_another(world):
    here = world(max=1, silent_seconds=100)
    number = here.submit(tokens=20_000)
    (engine,) = here.engines
    up(here, engine)
    # A token took a millisecond, so these may take ten times twenty seconds.
    here.loop.elapse(195)
    assert not engine.killed
    here.loop.elapse(10)
    assert engine.killed
    note = here.loop.run_until_complete(here.pool.note())
    assert note == "an engine did not answer for 201 s (score) and was ended"
    (another,) = here.engines
    up(here, another)
    # The second time it is waited for twice as long.
    here.loop.elapse(395)
    assert not another.killed
    here.answer(another, "score")
    assert here.results[number].result() == number


def test_an_engine_is_measured_by_the_slowest_that_was_seen(world):
    here = world(max=1, silent_seconds=100, idle_seconds=1000)
    first = here.submit(tokens=20_000)
    (engine,) = here.engines
    up(here, engine)
    here.loop.elapse(150)
    here.answer(engine, "score")
    assert here.results[first].result() == first
    here.submit(tokens=20_000)
    here.loop.elapse(1_490)
    assert not engine.killed
    here.loop.elapse(20)
    assert engine.killed


def test_an_engine_that_waits_for_the_storage_does_not_hang(world):
    here = world(max=1, silent_seconds=100)
    here.submit()
    (engine,) = here.engines
    up(here, engine)
    for _ in range(5):
        here.loop.elapse(90)
        here.loop.run_until_complete(here.pool.outage_at(0, "s3://x cannot be read; again in 60 s"))
        assert here.loop.run_until_complete(here.pool.note()) == "s3://x cannot be read; again in 60 s"
    assert not engine.killed
    here.answer(engine, "score")
    assert here.loop.run_until_complete(here.pool.note()) == ""


def test_work_under_which_every_engine_hangs_is_given_up(world):
    here = world(max=1, silent_seconds=100, max_failures=2)
    number = here.submit()
    while not here.results[number].done():
        for engine in here.engines:
            if engine.pending("placed"):
                up(here, engine)
        here.loop.elapse(50)
    with pytest.raises(ScoringError, match=r"3 engines failed at this work \(score\).*did not answer for 40\d s"):
        here.results[number].result()


def test_preemption_alone_is_never_given_up(world):
    here = world(max=1, max_failures=0)
    number = here.submit()
    for _ in range(30):
        for engine in here.engines:
            here.die(engine, NodeDiedError("its node has died"))
        here.loop.elapse(LONGEST_PAUSE)
        for engine in here.engines:
            up(here, engine)
    here.check()
    here.serve()
    assert here.results[number].result() == number


def test_where_no_engine_comes_up_the_work_fails_with_the_reason_and_later_work_is_tried(world):
    here = world(max=2, max_failures=2)
    numbers = [here.submit() for _ in range(3)]
    for _ in range(2):
        for engine in here.engines:
            here.die(engine, KILLED)
        here.loop.elapse(LONGEST_PAUSE)
    for number in numbers:
        with pytest.raises(ScoringError, match="the scoring engine failed: RuntimeError: killed"):
            here.results[number].result()
    later = here.submit()
    here.serve()
    assert here.results[later].result() == later


def test_an_engine_that_cannot_even_be_asked_for_fails_the_work(world, monkeypatch):
    here = world(max=1, max_failures=0)

    def refuse():
        raise ValueError("num_gpus must be a whole number")

    monkeypatch.setattr(here.pool, "_launch", refuse)
    number = here.submit()
    here.loop.elapse(1)
    with pytest.raises(ScoringError, match="num_gpus must be a whole number"):
        here.results[number].result()
