"""The training examples of a finished study as it has trained them: nothing probed, held out or evaluated."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from taskpgm_ray.config import StudyConfig, load_config
from taskpgm_ray.errors import InputError, MissingFileError
from taskpgm_ray.export.mixture import load_mixture, take, weighted
from taskpgm_ray.mixture.constraints import USUAL_EPOCHS
from taskpgm_ray.models import resolve
from taskpgm_ray.storage import Storage, Unit
from taskpgm_ray.tasks.prepare import Task
from taskpgm_ray.tasks.separation import apart
from taskpgm_ray.tasks.separator import separator

MOST_NAMED = 5
"""Tasks that a remark names."""
FINISHED = "finished.yaml"
"""The resolved config of a study's results."""


@dataclass(frozen=True)
class Line:
    """One example. Where the study was trained on plain text its two sides follow each other as they stand."""

    prompt: str
    completion: str
    messages: list[dict[str, Any]] | None
    """Of a chat, with the reply last."""
    tools: list[Any] | None
    prompt_ids: list[int]
    completion_ids: list[int]
    """As trained, with the end of the sequence or of the turn."""
    cut: bool
    """Whether the ids of the prompt lack the middle of its text, which was too long."""

    @property
    def ids(self) -> list[int]:
        """What the study trained, prompt and completion."""
        return [*self.prompt_ids, *self.completion_ids]


class TaskExamples:
    """One task of the mixture: its share, its count, and its examples."""

    def __init__(self, entry: dict[str, Any], storage: Storage, config: StudyConfig) -> None:
        self.name: str = entry["name"]
        self.weight: float = entry["weight"]
        self.count: int = entry["count"]
        self._entry, self._storage, self._config = entry, storage, config

    @property
    def known(self) -> bool:
        """Whether the mixture says where its examples are; earlier versions did not."""
        return bool(self._entry.get("unit"))

    @cached_property
    def task(self) -> Task:
        """The prepared task, without what the study withholds.

        Raises:
            InputError: The study was made by a version that recorded less than is needed.
        """
        if not self.known:
            raise InputError(
                f"the mixture does not say where the examples of {self.name!r} are: run the study once more with this "
                "version (nothing is trained again), and export then"
            )
        task = Task(self.name, Unit(self._storage, self._entry["unit"]))
        if unit := self._entry.get("withheld"):
            (task,) = apart([task], Unit(self._storage, unit))
        return task

    @cached_property
    def lines(self) -> list[Line]:
        """Every example that the study trains, in the order of their content hashes.

        Raises:
            InputError: The study was made by a version that recorded less than is needed.
        """
        return [self._line(row) for row in self.task.table("train").to_pylist()]

    def _line(self, row: dict[str, Any]) -> Line:
        prompt, response = row["prompt"], row["response"]
        messages = tools = None
        if self._config.model.prompt_format == "chat":
            if not row.get("chat"):
                raise InputError(
                    f"the examples of {self.name!r} were prepared by a version that did not keep conversations: remove "
                    f"{self._entry['unit']} in the study, run it again, and export then"
                )
            chat = json.loads(row["chat"])
            messages, tools = chat["messages"], chat["tools"] or None
        else:
            response = completion(prompt, response, self._config.pool.separator)
        return Line(prompt, response, messages, tools, row["prompt_ids"], row["response_ids"], row["cut"])

    def drawn(self, seed: Sequence[int]) -> list[int]:
        """The examples that make up its count: whole epochs, and a random part of one more."""
        epochs, rest = divmod(self.count, len(self.lines))
        draw = np.random.default_rng(list(seed))
        return [*range(len(self.lines))] * epochs + draw.permutation(len(self.lines))[:rest].tolist()


def _first(said: list[str]) -> str:
    more = f" and {len(said) - MOST_NAMED} more" if len(said) > MOST_NAMED else ""
    return ", ".join(said[:MOST_NAMED]) + more


def completion(prompt: str, response: str, given: str | None) -> str:
    """The text that follows a plain prompt as it stands; ``given`` is ``pool.separator``."""
    return separator(prompt, response, given) + response


@dataclass(frozen=True)
class Bundle:
    """What a format is written from."""

    config: StudyConfig
    document: dict[str, Any]
    """A checked mixture; its tasks' weights and counts are those that are exported."""
    tasks: tuple[TaskExamples, ...]
    """Those that give examples: a sampler never comes to the end of a task of weight zero."""
    seed: int = 0
    tell: Callable[[str], None] = lambda text: None
    """Called with what a user has to know of the export."""

    @property
    def chat(self) -> bool:
        """Whether the study was trained on conversations."""
        return self.config.model.prompt_format == "chat"

    @cached_property
    def tokenizer(self) -> Any:
        """The base model's."""
        return resolve(self.config.model, Storage(self.config.storage)).tokenizer()

    @property
    def probabilities(self) -> list[float]:
        """Shares of the examples, which sum to 1: what a sampler of examples draws by."""
        by_tokens = self.document.get("share") == "tokens"
        shares = [task.count if by_tokens else task.weight for task in self.tasks]
        return [share / sum(shares) for share in shares]

    def repeats(self) -> str:
        """A sentence on the tasks that are repeated more often than the study's config allows; empty if there are none.

        The mixture keeps to the limit for the number of examples that it was made for, by all that the sources have;
        another number, other weights or a pool that was cut do not.
        """
        limit = self.config.mixture.constraints.max_epochs
        most = USUAL_EPOCHS if limit == "auto" else limit
        if isinstance(most, str):
            return ""
        sizes = {task.name: (task.count, task.task.facts.train) for task in self.tasks if task.known}
        # Counts are rounded: one example more is no epoch more.
        over = {name: count / size for name, (count, size) in sizes.items() if count > most * size + 1}
        if not over:
            return ""
        said = [f"{name} {over[name]:.1f} times" for name in sorted(over, key=lambda name: -over[name])]
        return (
            f"repeated more often than mixture.constraints.max_epochs ({most:g}) allows: {_first(said)}; "
            "fewer --examples repeat less"
        )

    def found(self, holds: Callable[[Line], bool]) -> str:
        """The tasks with examples for which this holds, and how many of theirs; empty if there are none."""
        counts = {task.name: sum(map(holds, task.lines)) for task in self.tasks}
        most = sorted((name for name in counts if counts[name]), key=lambda name: -counts[name])
        sizes = {task.name: len(task.lines) for task in self.tasks}
        return _first([f"{name} {counts[name]} of {sizes[name]}" for name in most])

    def counted(self) -> Iterator[tuple[str, Line]]:
        """(task, example) of the whole mixture with exactly its counts, shuffled; the same at every call."""
        drawn = [(task, i) for number, task in enumerate(self.tasks) for i in task.drawn([self.seed, number])]
        for k in np.random.default_rng([self.seed, len(self.tasks)]).permutation(len(drawn)):
            task, i = drawn[k]
            yield task.name, task.lines[i]


def read_bundle(study: str, mixture: str = "recommended", examples: int | None = None, seed: int = 0) -> Bundle:
    """The examples of a finished study.

    Args:
        study: Its folder, on a disk or a ``scheme://`` storage.
        mixture: ``recommended``, ``chosen``, or a file with weights of these tasks.
        examples: How many in all; by default as many as the mixture says.
        seed: Of the draw and the order.

    Raises:
        InputError: The folder holds no finished study, the file names other tasks, or the number is not positive.
        StorageError: A file cannot be read.
    """
    if examples is not None and examples < 1:
        raise InputError(f"an export holds at least one example: --examples (`examples`) is {examples}")
    study = study.removesuffix("/mixture.json").rstrip("/")
    storage = Storage(study)
    config = study_config(storage)
    document = mixture_of(study)
    if mixture in ("recommended", "chosen"):
        document = take(document, mixture)  # type: ignore[arg-type]  # one of the two, as was just seen
    else:
        document = weighted(document, mixture)
    if examples is not None:
        document = weighted(document, None, examples)
    tasks = tuple(TaskExamples(entry, storage, config) for entry in document["tasks"] if entry["count"])
    return Bundle(config, document, tasks, seed)


def study_config(storage: Storage) -> StudyConfig:
    """The resolved config that a study's results were made by.

    Raises:
        InputError: There is none.
    """
    import yaml

    with _finished(storage.uri):
        # A run that was ended, or has just begun, may have another: `config.yaml` is that of the last one.
        file = FINISHED if storage.exists(FINISHED) else "config.yaml"
        return load_config(yaml.safe_load(storage.read_bytes(file)))


def mixture_of(study: str) -> dict[str, Any]:
    """The checked mixture of a finished study.

    Raises:
        InputError: There is none, or it cannot be used.
    """
    with _finished(study):
        return load_mixture(f"{study.rstrip('/')}/mixture.json")


def of_finished(storage: Storage, file: str) -> Any:
    """A JSON file that a study leaves behind when it is finished.

    Raises:
        InputError: It is not there.
    """
    with _finished(storage.uri):
        return storage.read_json(file)


@contextmanager
def _finished(study: str) -> Iterator[None]:
    """What the body reads is there in every finished study."""
    try:
        yield
    except MissingFileError as error:
        raise InputError(f"{study} is not the folder of a finished study: {error}") from error
