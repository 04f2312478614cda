"""The evaluator: lm-eval in one process of its own, with the engine pool behind it."""

from __future__ import annotations

from typing import Any

import numpy as np

from taskpgm_ray.evaluation.client import NextToken
from taskpgm_ray.evaluation.run import ItemScore, evaluate
from taskpgm_ray.evaluation.splits import Split
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.scoring.engine import Query
from taskpgm_ray.scoring.pool import EnginePool
from taskpgm_ray.storage import Unit


class PoolClient:
    """The engine pool under one adapter, as lm-eval's bridge calls it."""

    def __init__(self, pool: EnginePool, adapter: Unit | None) -> None:
        self.pool, self.adapter = pool, adapter

    def next_token(self, prompts: list[list[int]], tokens: list[list[int]]) -> NextToken:
        """Log-probabilities of the given next tokens, see `taskpgm_ray.evaluation.client`."""
        import ray

        queries = [Query(prompt, wanted) for prompt, wanted in zip(prompts, tokens, strict=True)]
        logprobs, greedy = ray.get(self.pool.next_token(self.adapter, queries))
        return NextToken(logprobs=[np.asarray(row) for row in logprobs], greedy=greedy)

    def generate(self, prompts: list[list[int]], max_tokens: int, stop: list[str]) -> list[str]:
        """Greedy continuations."""
        import ray

        return ray.get(self.pool.generate(self.adapter, prompts, max_tokens, stop))


class EvaluatorActor:
    """Scores adapters on a split. One process for all trials: lm-eval is imported, and tasks are built, once."""

    def __init__(self, model: BaseModelRef, pool: EnginePool, num_fewshot: int) -> None:
        self.tokenizer = model.tokenizer()
        self.pool, self.num_fewshot = pool, num_fewshot

    def evaluate(self, adapter: Unit | None, split: Split) -> list[ItemScore]:
        """One row per item of the split."""
        return evaluate(split, PoolClient(self.pool, adapter), self.tokenizer, num_fewshot=self.num_fewshot)


def start_evaluator(model: BaseModelRef, pool: EnginePool, num_fewshot: int) -> Any:
    """Handle of a new evaluator. It computes nothing heavy itself, so it reserves nothing."""
    import ray

    return ray.remote(EvaluatorActor).options(num_cpus=0, max_concurrency=1).remote(model, pool, num_fewshot)
