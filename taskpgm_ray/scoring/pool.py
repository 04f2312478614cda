"""The engine pool: the one owner of a study's scoring engines.

The pool actor reserves nothing itself. Engines come when work waits and end when none does; work whose engine died is
handed out again. Results small enough to look at come back; distributions are written by the engine that made them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np

from taskpgm_ray.cluster import root_cause, thread_environment, threads_of
from taskpgm_ray.errors import ResourceError, ScoringError, TaskPGMError
from taskpgm_ray.scoring.engine import Answer, Engine, EngineSpec, Query, build_engine
from taskpgm_ray.scoring.score import ScoreWork, SegmentWork, build_segment, score_unit
from taskpgm_ray.scoring.vllm_engine import engine_environment
from taskpgm_ray.storage import Unit


class EnginePool:
    """Handle of a study's engine pool; may be passed to any task or actor of the cluster.

    Every method but `close` returns an object reference.
    """

    def __init__(self, spec: EngineSpec) -> None:
        import ray

        self._actor: Any = ray.remote(PoolActor).options(num_cpus=0, max_concurrency=10_000).remote(spec)

    def build_segment(self, work: SegmentWork) -> Any:
        """Fix the supports of a new segment by a pass of the base model; becomes its manifest."""
        return self._actor.call.remote("build_segment", work)

    def score(self, work: ScoreWork) -> Any:
        """Score one adapter (or the base model) on one segment; becomes the unit's manifest."""
        return self._actor.call.remote("score", work)

    def next_token(self, queries: list[Query]) -> Any:
        """Becomes (logprobs: list of float32 arrays, greedy: list of int), one entry per query."""
        return self._actor.call.remote("next_token", queries)

    def generate(self, adapter: Unit | None, prompts: list[list[int]], max_tokens: int, stop: list[str]) -> Any:
        """Becomes a list of greedy continuations."""
        return self._actor.call.remote("generate", adapter, prompts, max_tokens, stop)

    def close(self) -> None:
        """End all engines and the pool."""
        import ray

        try:
            ray.get(self._actor.close.remote(), timeout=60)
        finally:
            ray.kill(self._actor)


class EngineActor:
    """One engine in a process of its own."""

    engine: Engine

    def placed(self) -> None:
        """Returns once this actor has its resources; a study may wait for that as long as its lanes are at work."""

    def load(self, spec: EngineSpec) -> None:
        """Bring the engine up."""
        import torch

        torch.set_num_threads(threads_of(spec.config.cpus, spec.config.threads))
        self.engine = build_engine(spec)

    def build_segment(self, work: SegmentWork) -> dict[str, Any]:
        """See `EnginePool.build_segment`."""
        return build_segment(self.engine, work)

    def score(self, work: ScoreWork) -> dict[str, Any]:
        """See `EnginePool.score`."""
        return score_unit(self.engine, work)

    def next_token(self, queries: list[Query]) -> tuple[list[np.ndarray], list[int]]:
        """See `EnginePool.next_token`."""
        answers: list[Answer] = self.engine.next_token(queries)
        return [answer.logprobs for answer in answers], [answer.greedy for answer in answers]

    def generate(self, adapter: Unit | None, prompts: list[list[int]], max_tokens: int, stop: list[str]) -> list[str]:
        """See `EnginePool.generate`."""
        return self.engine.generate(adapter, prompts, max_tokens, stop)


@dataclass
class _Work:
    method: str
    arguments: tuple[Any, ...]
    future: asyncio.Future[Any]
    attempts: int = 0


class PoolActor:
    """Queue and engines; every method runs on the actor's one event loop, so no lock is needed."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.waiting: list[_Work] = []
        self.changed = asyncio.Condition()
        self.engines: set[asyncio.Task[None]] = set()
        self.idle = 0
        self.stillborn = 0

    async def call(self, method: str, *arguments: Any) -> Any:
        """Run a method of `EngineActor` on some engine."""
        work = _Work(method, arguments, asyncio.get_running_loop().create_future())
        await self._queue(work)
        return await work.future

    async def close(self) -> None:
        """Cancel all work and end every engine."""
        self.waiting.clear()
        for engine in list(self.engines):
            engine.cancel()
        await asyncio.gather(*self.engines, return_exceptions=True)

    async def _queue(self, work: _Work) -> None:
        async with self.changed:
            self.waiting.append(work)
            self.changed.notify()
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
        import ray

        config = self.spec.config
        environment = thread_environment(threads_of(config.cpus, config.threads)) | engine_environment(self.spec)
        actor: Any = (
            ray.remote(EngineActor)
            .options(
                num_cpus=config.cpus,
                num_gpus=config.gpus,
                accelerator_type=config.accelerator_type,
                runtime_env={"env_vars": environment},
            )
            .remote()
        )
        try:
            try:
                await actor.placed.remote()
                await asyncio.wait_for(_settled(actor.load.remote(self.spec)), config.start_timeout)
            finally:
                self.idle -= 1
            self.stillborn = 0
            while (work := await self._take()) is not None:
                if not await self._serve(actor, work):
                    return
        except Exception as error:  # whatever kept the engine from starting, the waiting work must hear of it
            self._stillborn(error)
        finally:
            ray.kill(actor)

    async def _take(self) -> _Work | None:
        """The next piece of work, or ``None`` after the idle time."""
        self.idle += 1
        try:
            async with self.changed:
                await asyncio.wait_for(self.changed.wait_for(lambda: self.waiting), self.spec.config.idle_seconds)
                return self.waiting.pop(0)
        except TimeoutError:
            return None
        finally:
            self.idle -= 1

    async def _serve(self, actor: Any, work: _Work) -> bool:
        """Have the engine do one piece of work; whether the engine can go on."""
        import ray

        try:
            work.future.set_result(await getattr(actor, work.method).remote(*work.arguments))
        except ray.exceptions.RayActorError as error:
            work.attempts += 1
            if work.attempts > self.spec.config.max_failures:
                work.future.set_exception(ScoringError(f"{work.attempts} engines died of this work; the last: {error}"))
            else:
                self.waiting.insert(0, work)
            return False
        except Exception as error:  # the work's own fault: its owner hears of it, the engine goes on
            work.future.set_exception(_told(error))
        return True

    def _stillborn(self, error: BaseException) -> None:
        """An engine did not come up. After too many in a row, all waiting work fails with the reason."""
        self.stillborn += 1
        cause = _told(error)
        config = self.spec.config
        if isinstance(error, TimeoutError):
            cause = ResourceError(
                f"an engine was not up {config.start_timeout:.0f} s after it got its {config.cpus:g} CPUs and "
                f"{config.gpus:g} GPUs; raise scoring.engines.start_timeout, or look for a slow model store"
            )
        elif self.stillborn <= config.max_failures and not isinstance(cause, TaskPGMError):
            return
        for work in self.waiting:
            work.future.set_exception(cause)
        self.waiting.clear()


async def _settled(reference: Any) -> Any:
    return await reference


def _told(error: BaseException) -> Exception:
    """The error as the work's owner shall see it."""
    cause = root_cause(error)
    if isinstance(cause, TaskPGMError):
        return cause
    return ScoringError(f"the scoring engine failed: {type(cause).__name__}: {cause}")
