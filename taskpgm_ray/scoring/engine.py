"""What a scoring engine does, and what it is built from. Two engines implement it: vLLM, and Hugging Face + PEFT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.config import EngineConfig, LoraSection
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.storage import Unit

MAX_TOKEN_IDS = 127
"""Token ids that one query may ask for; vLLM takes 128, and its own sampled token needs no place among them."""


@dataclass(frozen=True)
class Query:
    """Log-probabilities of given next tokens after a prompt."""

    prompt: list[int]
    tokens: list[int]
    """At most `MAX_TOKEN_IDS`."""
    adapter: Unit | None = None
    """The adapter's unit; ``None`` is the base model."""


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
    lora: LoraSection
    config: EngineConfig


class Engine(Protocol):
    """A base model in memory that scores prompts under any adapter.

    An adapter is named by its unit, whose path ends with the fingerprint of everything it depends on: an engine may
    keep adapters by that name for its whole life.
    """

    def next_token(self, queries: list[Query]) -> list[Answer]:
        """Answer every query, in order; queries of several adapters and of the base model may be mixed."""

    def top_tokens(self, prompts: list[list[int]], k: int) -> NDArray[np.int32]:
        """The base model's ``k`` most likely next tokens, most likely first: int32 [len(prompts), k]."""

    def generate(self, adapter: Unit | None, prompts: list[list[int]], max_tokens: int, stop: list[str]) -> list[str]:
        """Greedy continuations, ended before the first stop string."""


def before_stop(text: str, stop: list[str]) -> str:
    """The text up to the first of the stop strings."""
    return text[: min((text.find(s) for s in stop if s in text), default=len(text))]


def build_engine(spec: EngineSpec) -> Engine:
    """Load the engine that ``spec`` asks for into this process."""
    if spec.kind == "hf":
        from taskpgm_ray.scoring.hf_engine import HFEngine

        return HFEngine(spec)
    from taskpgm_ray.scoring.vllm_engine import VLLMEngine

    return VLLMEngine(spec)
