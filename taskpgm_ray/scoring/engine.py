"""What a scoring engine does, and what it is built from. Two engines implement it: vLLM, and Hugging Face + PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.config import EngineConfig, LoraSection
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.storage import Unit

_AGREEMENT = {"float32": 1e-4, "bfloat16": 0.02}
"""By the model's precision: in bfloat16 the same prompt in other company is predicted 0.005 otherwise, at most 0.06."""


@dataclass(frozen=True)
class Query:
    """Log-probabilities of given next tokens after a prompt."""

    prompt: list[int]
    tokens: list[int]
    """At most `taskpgm_ray.config.MOST_TOKENS`."""
    adapter: Unit | None = None
    """The unit of the adapter, or of the model where all weights were trained; ``None`` is the base model."""


@dataclass(frozen=True)
class Answer:
    """An engine's answer to one query."""

    logprobs: NDArray[np.float32]
    """[len(query.tokens)], nats, normalised over the whole vocabulary."""
    greedy: int
    """The most likely next token."""


@dataclass(frozen=True)
class EngineSpec:
    """What every engine of a pool is made of."""

    kind: Literal["vllm", "hf"]
    model: BaseModelRef
    lora: LoraSection | None
    """Of the adapters that it scores; ``None``: it scores whole models of the base model's kind."""
    config: EngineConfig


class Engine(Protocol):
    """A base model in memory that scores prompts under any adapter.

    An adapter is named by its unit, whose path ends with the fingerprint of everything it depends on: an engine may
    keep adapters by that name for its whole life.
    """

    method: str
    """How `score` works in this engine; recorded beside the scores."""

    def fetch(self, adapters: Sequence[Unit]) -> None:
        """Bring adapters that will be asked for soon to this node, in the background."""

    def check(self, adapter: Unit) -> None:
        """Raise `ModelError` when the adapter is not usable: missing, damaged, of another base model or rank."""

    def score(self, queries: list[Query]) -> list[NDArray[np.float32]]:
        """Log-probabilities of every query's tokens in nats, in order; what is not finite is the caller's to refuse.

        Queries whose prompt begins the next query's prompt may share a forward pass. Queries of several adapters and of
        the base model may be mixed, of at most as many adapters as are resident at one time.
        """

    def next_token(self, queries: list[Query]) -> list[Answer]:
        """Answer every query, in order, one prompt at a time: exact whatever the queries have in common."""

    def top_tokens(self, prompts: list[list[int]], k: int) -> NDArray[np.int32]:
        """The base model's ``k`` most likely next tokens, most likely first: int32 [len(prompts), k]."""

    def generate(self, adapter: Unit | None, prompts: list[list[int]], max_tokens: int, stop: list[str]) -> list[str]:
        """Greedy continuations, ended before the first stop string."""


def chains(queries: Sequence[Query]) -> list[list[int]]:
    """Runs of consecutive queries of one adapter of which each prompt begins the next: [[0, 1, 2], [3], ...]."""
    found: list[list[int]] = []
    for index, query in enumerate(queries):
        before = queries[found[-1][-1]] if found else None
        if (
            before is not None
            and before.adapter == query.adapter
            and len(before.prompt) < len(query.prompt)
            and query.prompt[: len(before.prompt)] == before.prompt
        ):
            found[-1].append(index)
        else:
            found.append([index])
    return found


def agree(one: Sequence[NDArray[np.float32]], other: Sequence[NDArray[np.float32]], dtype: str) -> bool:
    """Whether two ways of scoring give the same log-probabilities, as far as this precision knows them.

    Measured by the mean of the total variation distances over what was asked.
    """
    distances = [np.abs(np.exp(a) - np.exp(b)).sum() / 2 for a, b in zip(one, other, strict=True)]
    return bool(np.mean(distances) <= _AGREEMENT[dtype])


def before_stop(text: str, stop: list[str]) -> str:
    """The text up to the first of the stop strings."""
    return text[: min((text.find(s) for s in stop if s in text), default=len(text))]
