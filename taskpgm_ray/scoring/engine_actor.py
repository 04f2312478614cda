"""One engine in a process of its own, as the pool starts it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from taskpgm_ray.errors import TaskPGMError
from taskpgm_ray.runtime import scratch
from taskpgm_ray.runtime.cluster import threads_of
from taskpgm_ray.scoring.engine import Answer, Engine, EngineSpec, Query
from taskpgm_ray.scoring.score import ScoreWork, SegmentWork, build_segment, score_units
from taskpgm_ray.storage import Unit, on_outage

PACE_TOKENS = 256


class EngineActor:
    """One engine in a process of its own."""

    engine: Engine

    def placed(self) -> None:
        """Returns once this actor has its resources; a study may wait for that as long as its lanes are at work."""

    def load(self, spec: EngineSpec, pool: Any, number: int) -> float:
        """Bring the engine up.

        Args:
            spec: What it is made of.
            pool: Handle of the pool actor, which is told when the storage does not answer.
            number: The engine's number in the pool.

        Returns:
            Seconds that a token of a prompt takes.
        """
        import torch

        on_outage(lambda line: pool.outage_at.remote(number, line))
        # An engine is ended by killing it: what it had fetched to this node stays until the next one comes.
        scratch.remove_abandoned()
        torch.set_num_threads(threads_of(spec.config.cpus, spec.config.threads))
        spec.model.check_files()
        self.engine = build_engine(spec)
        return self._pace(spec)

    def _pace(self, spec: EngineSpec) -> float:
        size = min(PACE_TOKENS, spec.model.window(spec.config.max_model_length) - 2)
        # The second prompt has no token in common with the first, so that nothing of it is in a cache.
        for token in (1, 2):
            started = time.perf_counter()
            self.engine.next_token([Query([token] * size, [token])])
        return (time.perf_counter() - started) / size

    def fetch(self, adapters: Sequence[Unit]) -> None:
        """Bring adapters to this node that will be asked for next."""
        self.engine.fetch(adapters)

    def build_segment(self, work: SegmentWork) -> dict[str, Any]:
        """See `EnginePool.build_segment`."""
        return build_segment(self.engine, work)

    def score(self, works: Sequence[ScoreWork]) -> list[dict[str, Any] | TaskPGMError]:
        """See `EnginePool.score`."""
        return score_units(self.engine, works)

    def next_token(self, queries: list[Query]) -> tuple[list[np.ndarray], list[int]]:
        """See `EnginePool.next_token`."""
        answers: list[Answer] = self.engine.next_token(queries)
        return [answer.logprobs for answer in answers], [answer.greedy for answer in answers]

    def measure(self, queries: list[Query]) -> tuple[list[np.ndarray], float]:
        """See `EnginePool.measure`."""
        # Other prompts of the same length, so that nothing of the measured ones is in a cache, but all is warmed up.
        self.engine.score([Query(q.prompt[::-1], q.tokens, q.adapter) for q in queries])
        started = time.perf_counter()
        return self.engine.score(queries), time.perf_counter() - started

    def generate(self, adapter: Unit | None, prompts: list[list[int]], max_tokens: int, stop: list[str]) -> list[str]:
        """See `EnginePool.generate`."""
        return self.engine.generate(adapter, prompts, max_tokens, stop)


def build_engine(spec: EngineSpec) -> Engine:
    """Load the engine that ``spec`` asks for into this process."""
    if spec.kind == "hf":
        from taskpgm_ray.scoring.hf_engine import HFEngine

        return HFEngine(spec)
    from taskpgm_ray.scoring.vllm_engine import VLLMEngine

    return VLLMEngine(spec)
