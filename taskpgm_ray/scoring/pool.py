"""The engine pool: the one owner of a study's scoring engines.

The pool actor reserves nothing itself. Engines come when work waits and end when none does; work whose engine died is
handed out again. Results small enough to look at come back; distributions are written by the engine that made them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from taskpgm_ray.errors import OutageError, ResourceError, ScoringError, TaskPGMError
from taskpgm_ray.runtime.cluster import MOST_CALLS, node_lost, on_this_node, root_cause, thread_environment, threads_of
from taskpgm_ray.runtime.silence import Silence, outlasts, settled
from taskpgm_ray.scoring.engine import EngineSpec, Query
from taskpgm_ray.scoring.engine_actor import EngineActor
from taskpgm_ray.scoring.score import ScoreWork, SegmentWork
from taskpgm_ray.scoring.vllm_engine import engine_environment
from taskpgm_ray.storage import Unit

CLOSE_SECONDS = 60.0
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before an engine that did not come up is tried again; doubled each time."""
OUTAGE_PAUSES = (2.0, 5.0, 15.0, 60.0, 120.0, 300.0, 600.0, 600.0)
"""Seconds before work under which the storage failed is done again."""
WRITTEN = 32
"""Tokens that are read in the time in which one is written."""
SLOWER = 10
"""An engine has hung when it takes so many times as long for its tokens as the slowest one did before."""


class EnginePool:
    """Handle of a study's engine pool; may be passed to any task or actor of the cluster.

    Every method but `close` returns an object reference.
    """

    def __init__(self, spec: EngineSpec) -> None:
        import ray

        options = {"num_cpus": 0, "max_concurrency": MOST_CALLS, "scheduling_strategy": on_this_node()}
        self._actor: Any = ray.remote(PoolActor).options(**options).remote(spec)

    def build_segment(self, work: SegmentWork, tokens: int) -> Any:
        """Fix the supports of a new segment by a pass of the base model; becomes its manifest.

        Args:
            work: The segment.
            tokens: About as many has the engine to read; from their number it is known when it hangs.
        """
        return self._actor.call.remote("build_segment", (), tokens, work)

    def score(self, works: Sequence[ScoreWork], tokens: int) -> Any:
        """Score units of different adapters in one batch; becomes a manifest or a `TaskPGMError` for each."""
        return self._actor.call.remote("score", [work.adapter for work in works if work.adapter], tokens, list(works))

    def next_token(self, queries: list[Query]) -> Any:
        """Becomes (logprobs: list of float32 arrays, greedy: list of int), one entry per query."""
        return self._actor.call.remote("next_token", _adapters(queries), _tokens(queries), queries)

    def measure(self, queries: list[Query]) -> Any:
        """Score the queries twice; becomes (logprobs, seconds of the second time)."""
        return self._actor.call.remote("measure", _adapters(queries), 2 * _tokens(queries), queries)

    def generate(self, adapter: Unit | None, prompts: list[list[int]], max_tokens: int, stop: list[str]) -> Any:
        """Becomes a list of greedy continuations."""
        adapters = [adapter] if adapter else []
        tokens = sum(len(prompt) + WRITTEN * max_tokens for prompt in prompts)
        return self._actor.call.remote("generate", adapters, tokens, adapter, prompts, max_tokens, stop)

    def note(self) -> str:
        """What holds the engines up, if something does."""
        import ray

        return ray.get(self._actor.note.remote())

    def close(self) -> None:
        """End all engines and the pool."""
        import ray

        # Waited for, not asked: an error of closing would hide the one for which a study closes.
        ray.wait([self._actor.close.remote()], timeout=CLOSE_SECONDS)
        ray.kill(self._actor)


class _Late(Exception):
    """An engine had its resources and was not up in time."""


@dataclass
class _Work:
    method: str
    adapters: frozenset[Unit]
    """Adapters that the work needs."""
    tokens: int
    """About as many has the engine to read or to write."""
    arguments: tuple[Any, ...]
    future: asyncio.Future[Any]
    attempts: int = 0
    hangs: int = 0
    """Engines that fell silent over it."""
    outages: int = 0
    """Times that the storage failed under it."""


class PoolActor:
    """Queue and engines; every method runs on the actor's one event loop, so no lock is needed."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.waiting: list[_Work] = []
        self.changed = asyncio.Condition()
        self.engines: set[asyncio.Task[None]] = set()
        self.at_work: list[frozenset[Unit]] = []
        """Adapters of the work that engines do at present."""
        self.idle = 0
        self.live = 0
        """Engines that are up or starting; the others of `engines` pause before their end."""
        self.stillborn = 0
        """Engines in a row that did not come up, those of lost nodes apart."""
        self.pace = 0.0
        """Seconds that a token took in the slowest engine and its slowest work."""
        self.silences: list[Silence] = []
        """Of every engine that was started, by its number."""
        self.outage = ""
        """What is said of the storage, while it fails."""
        self.hang = ""
        """What was said of the engine that hung last."""

    async def call(self, method: str, adapters: Sequence[Unit], tokens: int, *arguments: Any) -> Any:
        """Run a method of `EngineActor` on some engine."""
        work = _Work(method, frozenset(adapters), tokens, arguments, asyncio.get_running_loop().create_future())
        await self._queue(work)
        return await work.future

    async def outage_at(self, number: int, line: str) -> None:
        """An engine waits for a storage that does not answer; it says so each time that it tries again."""
        self.outage = line
        self.silences[number].broken()

    async def note(self) -> str:
        """What holds the engines up, if something does."""
        return "; ".join(filter(None, (self.outage, self.hang)))

    async def close(self) -> None:
        """Cancel all work and end every engine."""
        self.waiting.clear()
        for engine in list(self.engines):
            engine.cancel()
        await asyncio.gather(*self.engines, return_exceptions=True)

    async def _queue(self, work: _Work, first: bool = False) -> None:
        """Let the work wait, and every idle engine look at it: nobody else would wake one that may idle for ever."""
        async with self.changed:
            self.waiting.insert(0 if first else len(self.waiting), work)
            self.changed.notify_all()
        self._staff()

    def _staff(self) -> None:
        """Start engines while more work waits than engines are idle, up to the configured number."""
        for _ in range(min(self.spec.config.max - len(self.engines), len(self.waiting) - self.idle)):
            engine = asyncio.get_running_loop().create_task(self._run_engine())
            self.engines.add(engine)
            self.idle += 1
            engine.add_done_callback(self._ended)

    def _ended(self, engine: asyncio.Task[None]) -> None:
        self.engines.discard(engine)
        if not engine.cancelled():
            self._staff()

    async def _run_engine(self) -> None:
        """One engine from its start to its end: serve waiting work one piece at a time."""
        ended: Exception | None = None
        self.live += 1
        number = len(self.silences)
        self.silences.append(Silence())
        try:
            actor = await self._up(number)
            if actor is not None:
                await self._serve_until_idle(actor, self.silences[number])
        except Exception as error:  # whatever kept the engine from starting, the waiting work must hear of it
            ended = error
        finally:
            self.live -= 1
        if ended is not None:
            await self._stillborn(ended)

    async def _up(self, number: int) -> Any:
        """An engine whose model is loaded; ``None`` where nothing is left for it to do."""
        actor: Any = None
        try:
            actor = self._launch()
            if not await self._placed(actor):
                return None
            try:
                async with asyncio.timeout(self.spec.config.start_timeout) as limit:
                    pace = await actor.load.remote(self.spec, self._handle(), number)
            except TimeoutError as error:
                # The model store's own time-outs look the same, and are worth another try.
                raise (_Late() if limit.expired() else error) from None
            self.pace = max(self.pace, pace)
            self.stillborn, loaded, actor = 0, actor, None
            return loaded
        finally:
            self.idle -= 1
            if actor is not None:
                self._kill(actor)

    def _launch(self) -> Any:
        """Start an engine's process; it is up once its model is loaded."""
        import ray

        config = self.spec.config
        environment = thread_environment(threads_of(config.cpus, config.threads)) | engine_environment(self.spec)
        return (
            ray.remote(EngineActor)
            .options(
                num_cpus=config.cpus,
                num_gpus=config.gpus,
                accelerator_type=config.accelerator_type,
                runtime_env={"env_vars": environment},
            )
            .remote()
        )

    @staticmethod
    def _handle() -> Any:
        """Of this actor."""
        import ray

        return ray.get_runtime_context().current_actor

    @staticmethod
    def _kill(actor: Any) -> None:
        import ray

        ray.kill(actor)

    async def _serve_until_idle(self, actor: Any, silence: Silence) -> None:
        """Have the engine do one piece of waiting work after the other."""
        resident: frozenset[Unit] = frozenset()
        try:
            while (work := await self._take(resident)) is not None:
                self.at_work.append(work.adapters)
                try:
                    if not await self._serve(actor, silence, work):
                        return
                finally:
                    self.at_work.remove(work.adapters)
                resident = work.adapters
        finally:
            self._kill(actor)

    async def _placed(self, actor: Any) -> bool:
        """Wait for the engine's resources; no longer, once other engines have done the work that it was meant for."""
        placed = asyncio.ensure_future(settled(actor.placed.remote()))
        while not placed.done():
            await asyncio.wait({placed}, timeout=self.spec.config.idle_seconds)
            if not placed.done() and not self.waiting:
                placed.cancel()
                return False
        await placed
        return True

    async def _take(self, resident: frozenset[Unit]) -> _Work | None:
        """The next piece of work for an engine with these adapters, or ``None`` after the idle time."""
        self.idle += 1
        try:
            async with self.changed:
                await asyncio.wait_for(self.changed.wait_for(lambda: self.waiting), self.spec.config.idle_seconds)
                return self.waiting.pop(preferred(self.waiting, resident, self.at_work))
        except TimeoutError:
            return None
        finally:
            self.idle -= 1

    async def _serve(self, actor: Any, silence: Silence, work: _Work) -> bool:
        """Have the engine do one piece of work; whether the engine can go on."""
        wanted = [work.adapters]
        if self.waiting:
            wanted.append(self.waiting[preferred(self.waiting, work.adapters, self.at_work)].adapters)
        # Returns at once; the engine fetches what follows while it does this work.
        actor.fetch.remote([unit for units in wanted for unit in sorted(units, key=lambda unit: unit.path)])
        try:
            work.future.set_result(await self._answer(actor, silence, work))
            self.outage = ""
        except Exception as error:
            cause = _told(error)
            if isinstance(root_cause(error), OutageError) and work.outages < len(OUTAGE_PAUSES):
                # Nobody's fault: the engine waits, and the work is there for whoever is free then.
                await asyncio.sleep(OUTAGE_PAUSES[work.outages])
                work.outages += 1
                await self._queue(work)
                return True
            if isinstance(root_cause(error), TaskPGMError):
                # The work's own fault: its owner hears of it, the engine goes on.
                work.future.set_exception(cause)
                return True
            # The process died, or the engine broke down in the middle of its work and cannot be trusted any more.
            work.attempts += not node_lost(error)
            if work.attempts > self.spec.config.max_failures:
                work.future.set_exception(
                    ScoringError(f"{work.attempts} engines failed at this work ({work.method}); the last: {cause}")
                )
            else:
                await self._queue(work, first=True)
            return False
        return True

    async def _answer(self, actor: Any, silence: Silence, work: _Work) -> Any:
        """What the engine answers; a `TimeoutError` when it takes far longer than engines took before."""
        began = asyncio.get_running_loop().time()
        least = self.spec.config.silent_seconds
        silence.broken(max(least, SLOWER * self.pace * work.tokens) * 2**work.hangs)
        answer = asyncio.ensure_future(settled(getattr(actor, work.method).remote(*work.arguments)))
        try:
            answered = await outlasts(answer, silence)
        finally:
            answer.cancel()
        if not answered:
            work.hangs += 1
            self.hang = f"an engine did not answer for {silence.seconds:.0f} s ({work.method}) and was ended"
            raise TimeoutError(self.hang)
        seconds = asyncio.get_running_loop().time() - began
        if seconds > least / SLOWER:
            # Shorter calls are mostly not about tokens.
            self.pace = max(self.pace, seconds / max(work.tokens, 1))
        return answer.result()

    async def _stillborn(self, error: BaseException) -> None:
        """An engine did not come up: pause, or where none is up or starting after too many of them, fail what waits.

        A node that was taken away says nothing of the next one, so it is not counted.
        """
        config, lost = self.spec.config, node_lost(error)
        self.stillborn += not lost
        late = isinstance(error, _Late)
        if lost or self.live or not (late or self.stillborn > config.max_failures):
            # A hub or a disk that fails now may be there again soon; what waits may be done by those that are up.
            await asyncio.sleep(min(FIRST_PAUSE * 2 ** max(self.stillborn - 1, 0), LONGEST_PAUSE))
            return
        cause = _told(error)
        if late:
            cause = ResourceError(
                f"an engine was not up {config.start_timeout:.0f} s after it got its {config.cpus:g} CPUs and "
                f"{config.gpus:g} GPUs; raise scoring.engines.start_timeout, or look for a slow model store"
            )
        for work in self.waiting:
            work.future.set_exception(cause)
        self.waiting.clear()
        self.stillborn = 0


def preferred(waiting: Sequence[_Work], resident: frozenset[Unit], at_work: Sequence[frozenset[Unit]]) -> int:
    """Index of the work for an engine that holds ``resident``.

    First what needs adapters that it has, then what needs none of those that other engines are busy with, so that each
    adapter is loaded by as few engines as possible; else the oldest.
    """
    for index, work in enumerate(waiting):
        if work.adapters and work.adapters <= resident:
            return index
    busy = frozenset().union(*at_work) - resident
    return next((index for index, work in enumerate(waiting) if not work.adapters & busy), 0)


def _adapters(queries: Sequence[Query]) -> list[Unit]:
    return list(dict.fromkeys(query.adapter for query in queries if query.adapter))


def _tokens(queries: Sequence[Query]) -> int:
    return sum(len(query.prompt) for query in queries)


def _told(error: BaseException) -> Exception:
    """The error as the work's owner shall see it."""
    cause = root_cause(error)
    if isinstance(cause, TaskPGMError):
        return cause
    return ScoringError(f"the scoring engine failed: {type(cause).__name__}: {cause}")
