"""How long a pool's examples are, by a few of each task: for plans that are made before any task is prepared."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Any

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.tasks.conversations import NoExample
from taskpgm_ray.tasks.sources import TaskSource, is_here, task_sources
from taskpgm_ray.tasks.tokens import encode

SAMPLED = 32
"""Examples of each task that are tokenised."""


@dataclass(frozen=True)
class Lengths:
    """Of the examples that were looked at."""

    mean: float
    """Tokens of an example, prompt and response; every task counts alike."""
    examples: int
    tasks: int
    absent: int
    """Tasks whose data are not on this machine."""


def sample_lengths(config: StudyConfig, tokenizer: Any) -> Lengths | None:
    """Tokenise the first examples of each task whose data are on this machine; ``None`` where there is none.

    Args:
        config: The study.
        tokenizer: Of its base model.

    Raises:
        DataError: A task cannot be read.
    """
    sources = task_sources(config.pool)
    counts = [lengths for source in sources if is_here(source) and (lengths := _lengths(source, config, tokenizer))]
    if not counts:
        return None
    mean = fmean(fmean(lengths) for lengths in counts)
    return Lengths(mean, sum(map(len, counts)), len(counts), len(sources) - len(counts))


def _lengths(source: TaskSource, config: StudyConfig, tokenizer: Any) -> list[int]:
    form, found = config.model, []
    for row in source.read(SAMPLED, config.seed).rows:
        where = f"task {source.name!r}, {row.where}"
        try:
            ids = encode(row.example, tokenizer, form.prompt_format, form.max_length, where, config.pool.separator)
        except NoExample:
            continue
        found.append(len(ids.prompt) + len(ids.response))
    return found
