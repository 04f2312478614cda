"""Task sources: what a task is called, what identifies its data, and its examples.

One class per scheme; a further scheme is one more class in ``SCHEMES``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from taskpgm_ray.config import NAME_PATTERN, PoolConfig, TaskSpec
from taskpgm_ray.errors import DataError


@dataclass(frozen=True)
class Example:
    """One training example: the turns of the prompt, and the response to be learned."""

    turns: tuple[tuple[str, str], ...]
    """(role, content) of each turn before the response."""
    response: str


class TaskSource(Protocol):
    """One task of the pool."""

    @property
    def name(self) -> str:
        """The task's name, unique in the pool."""

    def identity(self) -> dict[str, Any]:
        """JSON that changes whenever the examples would change; cheap, no download and no generation."""

    def examples(self, limit: int, seed: int) -> Iterator[Example]:
        """At most ``limit`` examples. Raises `DataError` naming file and line."""


def task_sources(pool: PoolConfig) -> list[TaskSource]:
    """The pool's tasks in the order of the config, folders expanded.

    Raises:
        DataError: A source does not exist, a name appears twice or is unusable, or ``pool.include`` names a task
            that is not there.
    """
    found: dict[str, TaskSource] = {}
    for spec in pool.tasks:
        for source in _expand(spec):
            if source.name in found:
                raise DataError(f"two tasks are called {source.name!r}; give one of them another `name` in pool.tasks")
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
    return sources


@dataclass(frozen=True)
class JsonLines:
    """A file of JSON lines: ``{"prompt", "response"}``, or chat ``{"messages": [...]}``, or templated columns."""

    name: str
    file: str
    spec: TaskSpec

    @classmethod
    def expand(cls, spec: TaskSpec, target: str) -> list[JsonLines]:
        """One task for a file, one per ``*.jsonl`` file for a folder."""
        path = Path(target).expanduser()
        if path.is_dir():
            files = sorted(path.glob("*.jsonl"))
            if not files:
                raise DataError(f"the folder {target!r} holds no .jsonl file")
            if spec.name and len(files) > 1:
                raise DataError(f"`name: {spec.name}` is for one task, but {target!r} holds {len(files)} files")
        elif path.is_file():
            files = [path]
        else:
            raise DataError(f"there is no file or folder {target!r} (pool.tasks source jsonl:{target})")
        return [cls(spec.name or file.stem, str(file), spec) for file in files]

    def identity(self) -> dict[str, Any]:
        """The file's content hash and the templates."""
        digest = hashlib.sha256()
        with self._open() as stream:
            # In pieces: the file may be larger than the memory.
            while piece := stream.read(1 << 20):
                digest.update(piece)
        return {"jsonl": digest.hexdigest(), "prompt": self.spec.prompt, "response": self.spec.response}

    def examples(self, limit: int, seed: int) -> Iterator[Example]:
        """The first ``limit`` lines, in the file's order."""
        with self._open() as stream:
            lines = (entry for entry in enumerate(stream, start=1) if entry[1].strip())
            for number, line in islice(lines, limit):
                yield _example(self._record(number, line), self.spec, f"{self.file}, line {number}")

    def _open(self) -> BinaryIO:
        try:
            return Path(self.file).open("rb")
        except OSError as error:
            raise DataError(f"task {self.name!r}: {self.file} cannot be read: {error}") from error

    def _record(self, number: int, line: bytes) -> dict[str, Any]:
        where = f"{self.file}, line {number}"
        try:
            record = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: not UTF-8 ({error.reason} at byte {error.start}); re-encode the file") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not JSON ({error})") from None
        if not isinstance(record, dict):
            raise DataError(f"{where}: a JSON object is expected, not {type(record).__name__}")
        return record


@dataclass(frozen=True)
class HubDataset:
    """A data set of the Hugging Face hub, or a local folder that ``datasets.load_dataset`` understands."""

    name: str
    dataset: str
    spec: TaskSpec

    @classmethod
    def expand(cls, spec: TaskSpec, target: str) -> list[HubDataset]:
        """One task."""
        default = target.rstrip("/").rpartition("/")[2] + (f"-{spec.subset}" if spec.subset else "")
        return [cls(spec.name or default, target, spec)]

    def identity(self) -> dict[str, Any]:
        """Name, subset, split, revision and templates. Pin ``revision``: an unpinned set may change unseen."""
        return self.spec.model_dump(mode="json", exclude={"name", "parts"})

    def examples(self, limit: int, seed: int) -> Iterator[Example]:
        """A seeded draw of ``limit`` records."""
        from datasets import load_dataset

        where = f"hf:{self.dataset}"
        try:
            data = load_dataset(self.dataset, self.spec.subset, split=self.spec.split, revision=self.spec.revision)
        except Exception as error:  # the hub client raises many unrelated classes
            raise DataError(f"{where}: cannot be loaded ({type(error).__name__}: {error})") from error
        data = data.shuffle(seed=seed).select(range(min(limit, len(data))))
        for number, record in enumerate(data):
            yield _example(record, self.spec, f"{where}, record {number}")


@dataclass(frozen=True)
class ReasoningGym:
    """A generator of verifiable problems from the package reasoning-gym."""

    name: str
    dataset: str
    spec: TaskSpec

    @classmethod
    def expand(cls, spec: TaskSpec, target: str) -> list[ReasoningGym]:
        """One task."""
        return [cls(spec.name or target, target, spec)]

    def identity(self) -> dict[str, Any]:
        """The package's version and the generator's parameters."""
        try:
            release = version("reasoning_gym")
        except PackageNotFoundError:
            raise DataError(
                f"the source reasoning_gym:{self.dataset} needs a package that is not installed: "
                "pip install reasoning-gym"
            ) from None
        return {"version": release, **self.spec.model_dump(mode="json", exclude={"name", "parts"})}

    def examples(self, limit: int, seed: int) -> Iterator[Example]:
        """``limit`` problems generated from ``seed``."""
        import reasoning_gym

        where = f"reasoning_gym:{self.dataset}"
        try:
            problems = reasoning_gym.create_dataset(self.dataset, size=limit, seed=seed, **self.spec.params)
        except (ValueError, TypeError, AssertionError) as error:
            raise DataError(f"{where}: {error}; check the generator's name and `params`") from error
        templated = self.spec.model_copy(
            update={"prompt": self.spec.prompt or "{question}", "response": self.spec.response or "{answer}"}
        )
        for number, record in enumerate(problems):
            yield _example(record, templated, f"{where}, problem {number}")


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

    def identity(self) -> dict[str, Any]:
        """The whole's, and which part of it."""
        return {"whole": self.whole.identity(), "part": [self.number, self.of]}

    def examples(self, limit: int, seed: int) -> Iterator[Example]:
        """This part of the whole's first ``limit`` examples."""
        for example in self.whole.examples(limit, seed):
            digest = hashlib.sha256(repr(example.turns).encode()).digest()
            if int.from_bytes(digest[:8], "big") % self.of == self.number - 1:
                yield example


def data_set(source: TaskSource) -> TaskSource:
    """The data set that a task comes from: of a part its whole, else the task itself."""
    return source.whole if isinstance(source, Part) else source


SCHEMES: dict[str, Any] = {"jsonl": JsonLines, "hf": HubDataset, "reasoning_gym": ReasoningGym}


def _expand(spec: TaskSpec) -> Iterator[TaskSource]:
    """The tasks of one entry of the pool."""
    scheme, _, target = spec.source.partition(":")
    for source in SCHEMES[scheme].expand(spec, target):
        if spec.parts is None:
            yield source
        else:
            yield from (Part(source, number, spec.parts) for number in range(1, spec.parts + 1))


def _example(record: dict[str, Any], spec: TaskSpec, where: str) -> Example:
    """One record as an example, by the spec's templates or by the default columns."""
    if spec.prompt is None and "messages" in record:
        example = _conversation(record["messages"], where)
    else:
        prompt = _field(record, spec.prompt, "prompt", where)
        response = _field(record, spec.response, "response", where).strip()
        for name, text in (("prompt", prompt), ("response", response)):
            if not text.strip():
                raise DataError(f"{where}: the {name} is empty; remove the example")
        example = Example((("user", prompt),), response)
    try:
        "".join([*(content for _, content in example.turns), example.response]).encode()
    except UnicodeEncodeError:
        # In JSON, \ud800 to \udfff may stand alone, but then they are no character and cannot be tokenised.
        raise DataError(f"{where}: half of a surrogate pair, which is no character; re-encode the file") from None
    return example


def _field(record: dict[str, Any], template: str | None, column: str, where: str) -> str:
    try:
        value = record[column] if template is None else template.format_map(record)
    except (KeyError, IndexError) as error:
        have = ", ".join(sorted(map(str, record)))
        raise DataError(f"{where}: no column {error}; it has: {have}. Set the task's `{column}` template") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: the task's `{column}` template {template!r} does not fit: {error}") from None
    if not isinstance(value, str):
        raise DataError(f"{where}: {column!r} must be a string, not {type(value).__name__}")
    return value


def _conversation(messages: Any, where: str) -> Example:
    """A chat record: everything before the last message is the prompt, the last (assistant's) is the response."""
    try:
        turns = [(str(m["role"]), str(m["content"])) for m in messages]
    except (TypeError, KeyError) as error:
        raise DataError(f"{where}: `messages` must be a list of {{role, content}} ({error!r})") from None
    if len(turns) < 2 or turns[-1][0] != "assistant" or not turns[-1][1].strip():
        raise DataError(f"{where}: `messages` must end with a non-empty assistant message after at least one other")
    return Example(tuple(turns[:-1]), turns[-1][1].strip())
