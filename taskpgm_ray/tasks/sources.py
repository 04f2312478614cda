"""Task sources: what a task is called, what identifies its data, and its examples.

One class per scheme, each in a file of its own; a further scheme is one more entry in ``SCHEMES``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from taskpgm_ray.config import NAME_PATTERN, PoolConfig, TaskSpec
from taskpgm_ray.errors import DataError
from taskpgm_ray.tasks.example import Example, Reading
from taskpgm_ray.tasks.files import Files
from taskpgm_ray.tasks.generators import ReasoningGym
from taskpgm_ray.tasks.hub import HubDataset

__all__ = [
    "SCHEMES",
    "Example",
    "Files",
    "HubDataset",
    "Part",
    "TaskSource",
    "data_set",
    "is_here",
    "source_of",
    "survey",
    "task_sources",
]


class TaskSource(Protocol):
    """One task of the pool."""

    @property
    def name(self) -> str:
        """The task's name, unique in the pool."""

    @property
    def shown(self) -> str:
        """Where it comes from, for a reader: a path, or scheme and name."""

    def identity(self) -> dict[str, Any]:
        """JSON that changes whenever the examples would change; cheap, no download and no generation."""

    def read(self, limit: int, seed: int) -> Reading:
        """The examples of at most ``limit`` rows, and the rows that are none.

        Raises:
            DataError: It cannot be read at all; names file and line.
        """


def survey(pool: PoolConfig) -> tuple[list[TaskSource], list[str]]:
    """The pool's tasks in the order of the config, folders expanded; and what of these was left out or renamed.

    Raises:
        DataError: A source does not exist, a name appears twice or is unusable, or ``pool.include`` names a task
            that is not there.
    """
    found: dict[str, TaskSource] = {}
    notes: list[str] = []
    for spec in pool.tasks:
        for source in _expand(spec, notes):
            if source.name in found:
                raise DataError(
                    f"two tasks are called {source.name!r} ({found[source.name].shown}, {source.shown}); give one of "
                    "them another `name` in pool.tasks, or name the files of a folder that you mean"
                )
            if not re.fullmatch(NAME_PATTERN, source.name):
                raise DataError(f"{source.name!r} is no usable task name (letters, digits, . _ -); set `name`")
            found[source.name] = source
    if pool.include is not None:
        absent = [name for name in pool.include if name not in found]
        if absent:
            raise DataError(
                f"pool.include names {absent[0]!r}, which is not among the tasks: {', '.join(sorted(found))}"
            )
        found = {name: found[name] for name in pool.include}
    sources = list(found.values())[: pool.max_tasks]
    if len(sources) < 2:
        raise DataError(f"a mixture needs at least two tasks, the pool has {len(sources)}")
    return sources, notes


def task_sources(pool: PoolConfig) -> list[TaskSource]:
    """The tasks of `survey` alone."""
    return survey(pool)[0]


@dataclass(frozen=True)
class Part:
    """A share of another task's examples, by their content: the parts of a task share no example."""

    whole: TaskSource
    number: int
    of: int

    @property
    def name(self) -> str:
        """The whole's name with the part's number, from 1."""
        return f"{self.whole.name}.{self.number}"

    @property
    def shown(self) -> str:
        """The whole's place."""
        return f"{self.whole.shown}, part {self.number} of {self.of}"

    def identity(self) -> dict[str, Any]:
        """The whole's, and which part of it."""
        return {"whole": self.whole.identity(), "part": [self.number, self.of]}

    def read(self, limit: int, seed: int) -> Reading:
        """This part of what is read of the whole; its size is in proportion."""
        return self.whole.read(limit, seed).part(self.number, self.of)


def data_set(source: TaskSource) -> TaskSource:
    """The data set that a task comes from: of a part its whole, else the task itself."""
    return source.whole if isinstance(source, Part) else source


def is_here(source: TaskSource) -> bool:
    """Whether a task can be read without a download."""
    whole = data_set(source)
    return not isinstance(whole, HubDataset) or whole.local


SCHEMES: dict[str, Any] = {"files": Files, "jsonl": Files, "hf": HubDataset, "reasoning_gym": ReasoningGym}


def source_of(text: str) -> str:
    """A source as the config has it: a plain path is one of files."""
    scheme = text.partition(":")[0]
    return text if scheme in SCHEMES else f"files:{text}"


def _expand(spec: TaskSpec, notes: list[str]) -> Iterator[TaskSource]:
    """The tasks of one entry of the pool."""
    scheme, _, target = spec.source.partition(":")
    for source in SCHEMES[scheme].expand(spec, target, notes):
        if spec.parts is None:
            yield source
        else:
            yield from (Part(source, number, spec.parts) for number in range(1, spec.parts + 1))
