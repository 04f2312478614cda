"""The evaluator: lm-eval in one process of its own, with the engine pool behind it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.evaluation.run import evaluate
from taskpgm_ray.evaluation.scores import ItemScore
from taskpgm_ray.evaluation.splits import Split
from taskpgm_ray.evaluation.token_scorer import NextToken
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.runtime.cluster import on_this_node
from taskpgm_ray.scoring.engine import Query
from taskpgm_ray.scoring.pool import EnginePool
from taskpgm_ray.scoring.shared_prefix import shared
from taskpgm_ray.storage import Unit

Side = Literal["search", "report"]
PIECE = 8
"""Forward passes that an engine makes of what it is given at a time."""


class Evaluator:
    """Handle of a study's evaluator; may be passed to any task or actor of the cluster.

    It computes nothing heavy itself, so it reserves nothing, and it ends with the last handle on it.
    """

    def __init__(self, model: BaseModelRef, pool: EnginePool, config: StudyConfig) -> None:
        import ray

        options = {"num_cpus": 0, "max_concurrency": 1, "scheduling_strategy": on_this_node()}
        self._actor: Any = ray.remote(EvaluatorActor).options(**options).remote(model, pool, config, os.getcwd())

    def evaluate(self, adapter: Unit | None, split: Split, seed: int, side: Side) -> Any:
        """Score an adapter on a split; the object reference becomes a list of `ItemScore`, one per item.

        The caller says which ``side`` it may read: a split of the other one is an `EvaluationError`.
        """
        return self._actor.evaluate.remote(adapter, split, seed, side)

    def answers(self, adapter: Unit | None, split: Split, items: Sequence[str], most_tokens: int) -> Any:
        """What an adapter writes when it is asked items of the report split; becomes (question, answer) of each."""
        return self._actor.answers.remote(adapter, split, items, most_tokens)


class PoolClient:
    """The engine pool under one adapter, as lm-eval's bridge calls it.

    About ``piece_tokens`` go to an engine at a time, so that several engines share an evaluation. The pieces do not
    depend on how many there are: whoever answers, the same prompts meet in a batch.
    """

    def __init__(self, pool: EnginePool, adapter: Unit | None, piece_tokens: int) -> None:
        self.pool, self.adapter, self.piece_tokens = pool, adapter, piece_tokens

    def next_token(self, prompts: list[list[int]], tokens: list[list[int]]) -> NextToken:
        """Log-probabilities of the given next tokens, see `taskpgm_ray.evaluation.token_scorer.TokenScorer`."""
        import ray

        queries = [Query(prompt, wanted, self.adapter) for prompt, wanted in zip(prompts, tokens, strict=True)]
        answers = ray.get([self.pool.next_token(queries[piece]) for piece in pieces(prompts, self.piece_tokens)])
        return NextToken(
            logprobs=[np.asarray(row) for logprobs, _ in answers for row in logprobs],
            greedy=[token for _, greedy in answers for token in greedy],
        )

    def generate(self, prompts: list[list[int]], max_tokens: int, stop: list[str]) -> list[str]:
        """Greedy continuations."""
        import ray

        parts = pieces(prompts, self.piece_tokens)
        answers = ray.get([self.pool.generate(self.adapter, prompts[part], max_tokens, stop) for part in parts])
        return [text for texts in answers for text in texts]


def pieces(prompts: Sequence[list[int]], most: int) -> list[slice]:
    """Cuts a list of prompts after about ``most`` tokens each, but not between neighbours that begin alike."""
    cuts, size = [0], 0
    for index, prompt in enumerate(prompts):
        if size >= most and 2 * shared(prompts[index - 1], prompt) < len(prompt):
            cuts.append(index)
            size = 0
        size += len(prompt)
    return [slice(start, end) for start, end in zip(cuts, [*cuts[1:], len(prompts)], strict=True)]


class EvaluatorActor:
    """Scores adapters on a split. One process for all trials: lm-eval is imported, and tasks are built, once."""

    def __init__(self, model: BaseModelRef, pool: EnginePool, config: StudyConfig, folder: str = ".") -> None:
        # The folder of the driver: lm-eval's files and their data may be named by relative paths.
        if os.path.isdir(folder):
            os.chdir(folder)
        self.tokenizer = model.tokenizer()
        self.pool = pool
        self.config = config.evaluation
        self.chat = config.model.prompt_format == "chat"
        self.window = model.window(config.scoring.engines.max_model_length)
        self.piece_tokens = PIECE * config.scoring.engines.max_batched_tokens

    def evaluate(self, adapter: Unit | None, split: Split, seed: int, side: Side) -> list[ItemScore]:
        """One row per item of the split; ``seed`` of the fine-tune goes into the rows.

        Raises:
            EvaluationError: The split is not the ``side`` that the caller is allowed to read.
        """
        split.require(side)
        client = PoolClient(self.pool, adapter, self.piece_tokens)
        return evaluate(
            split,
            client,
            self.tokenizer,
            config=self.config,
            apply_chat_template=self.chat,
            # The window has to hold the predicted token as well.
            max_length=self.window - 1,
            seed=seed,
        )

    def answers(
        self, adapter: Unit | None, split: Split, items: Sequence[str], most_tokens: int
    ) -> list[tuple[str, str]]:
        """The (prompt, greedy continuation) of each of these items, as texts without special tokens.

        Args:
            adapter: ``None`` for the base model.
            split: The report split: what the search may read is not to be looked at.
            items: Ids of items of it.
            most_tokens: Length of an answer at most; it ends earlier at the end of text.
        """
        from taskpgm_ray.evaluation.bridge import EngineLM
        from taskpgm_ray.evaluation.prompts import prompts

        split.require("report")
        by_id = {item.id: item for item in split.items()}
        client = PoolClient(self.pool, adapter, self.piece_tokens)
        model = EngineLM(client, self.tokenizer, max_length=self.window - 1)
        asked = prompts(split, [by_id[one] for one in items], self.config, model, self.chat)
        ids = [model.prompt_ids(one, most_tokens) if isinstance(one, str) else one for one in asked]
        written = model.client.generate(ids, most_tokens, [])
        questions = [
            one if isinstance(one, str) else self.tokenizer.decode(one, skip_special_tokens=True) for one in asked
        ]
        return list(zip(questions, written, strict=True))
