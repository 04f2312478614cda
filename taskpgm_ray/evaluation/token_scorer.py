"""What evaluation asks of an engine: next-token log-probabilities and greedy text, for token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray


@dataclass(frozen=True)
class NextToken:
    """Answers to next-token requests, in the order of the requests."""

    logprobs: list[NDArray[Any]]
    """One float32 array [number of ids asked for] per request, nats, normalised over the whole vocabulary."""
    greedy: list[int]
    """The most likely token of the whole vocabulary, one per request."""


class TokenScorer(Protocol):
    """One model (the base or one adapter on it), as the bridge to lm-eval sees it."""

    def next_token(self, prompts: list[list[int]], tokens: list[list[int]]) -> NextToken:
        """Log-probabilities of the ids ``tokens[i]`` as the token after ``prompts[i]``.

        Of one prompt at most `taskpgm_ray.config.MOST_TOKENS` ids are asked for.
        """
        ...

    def generate(self, prompts: list[list[int]], max_tokens: int, stop: list[str]) -> list[str]:
        """Greedy text after each prompt: up to ``max_tokens`` tokens, the end of text or one of ``stop``."""
        ...
