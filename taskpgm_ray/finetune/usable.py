"""What a task's questions say about their answers, to its own adapter: usable information, by exchanged questions.

How much better an answer is foretold from its own question than from another example's, in nats (Xu et al. 2020, "A
theory of usable information under computational constraints"). An adapter that learned only what answers look like
foretells an answer as well from any question: its answers are wrong or drawn at random, or the task is too hard for the
model and the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from taskpgm_ray.finetune.batching import tokens_of
from taskpgm_ray.tasks.padding import Pair

ONE_SIDED = 1.645
"""Standard errors above zero that chance leaves to one in twenty."""


@dataclass(frozen=True)
class Usable:
    """Of one adapter on its own task's held-out examples, nats per answer."""

    information: float
    """Of two unrelated things it is 0 in the mean; below that by chance alone."""
    error: float
    """Standard error, over answers."""
    surprise: float
    """An answer's mean negative log-likelihood under another question: what there was to be known."""

    @property
    def share(self) -> float:
        """How much of that the question settles, at most 1."""
        return self.information / self.surprise if self.surprise > 0 else 0.0

    @property
    def share_error(self) -> float:
        """Standard error of the share, with what there was to be known as it is."""
        return self.error / self.surprise if self.surprise > 0 else 0.0

    @property
    def shown(self) -> bool:
        """Whether there is any, by more than chance: one-sided, 5 %."""
        return self.information > ONE_SIDED * self.error


def exchanged(examples: Sequence[Pair]) -> list[Pair | None]:
    """Each answer under the question of the next example that fits [n]; ``None``: none does.

    A pair is no longer than the longest example, so that it needs no more memory and no more positions.
    """
    n, longest = len(examples), max(map(tokens_of, examples), default=0)
    found: list[Pair | None] = []
    for i, (_, answer) in enumerate(examples):
        others = (examples[(i + shift) % n][0] for shift in range(1, n))
        fitting = (question for question in others if len(question) + len(answer) <= longest)
        question = next(fitting, None)
        found.append(None if question is None else (question, answer))
    return found


def usable(own: Sequence[float], other: Sequence[float]) -> Usable | None:
    """From the answers' negative log-likelihoods under their own and another question [n each]; of one, nothing."""
    if len(own) < 2:
        return None
    gained = np.asarray(other) - np.asarray(own)
    return Usable(float(gained.mean()), float(gained.std(ddof=1) / np.sqrt(len(gained))), float(np.mean(other)))
