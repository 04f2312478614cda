"""`exporter`: a format is a function that writes a few files; and what such functions share."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from taskpgm_ray.errors import InputError, StorageError
from taskpgm_ray.export.examples import Bundle, Line, TaskExamples, read_bundle

Write = Callable[[Bundle, Path], list[Path]]


@dataclass(frozen=True)
class Exporter:
    """One format."""

    name: str
    what: str
    """What it writes, in one line."""
    write: Write
    text: bool
    """Whether it holds the examples as text, which a trainer turns into tokens by a rule of its own."""


SAME_TOKENS = ("axolotl", "llamafactory", "swift", "trl")
"""Formats that hand over the study's own token ids, of which the completion's are learned."""

EXPORTERS: dict[str, Exporter] = {}


def exporter(name: str, what: str, *, text: bool = False) -> Callable[[Write], Write]:
    """Register a function ``(bundle, folder) -> paths written, the one to start from first`` under a name.

    Args:
        name: Of the format.
        what: It writes, in one line.
        text: Whether it holds the examples as text.
    """

    def register(write: Write) -> Write:
        EXPORTERS[name] = Exporter(name, what, write, text)
        return write

    return register


def export(
    trainer: str,
    study: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    mixture: str = "recommended",
    examples: int | None = None,
    seed: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Write what a finished study has decided for one trainer, from the study's own training examples.

    Args:
        trainer: Name of a format in ``EXPORTERS``.
        study: The study's folder, or its ``mixture.json``.
        folder: Where to write; made when it is not there.
        mixture: What the study recommends (``recommended``), what its search ``chosen``, or a file with weights.
        examples: Number of examples in all; by default the mixture's.
        seed: Of the draw and the order of examples.
        tell: Called with what a user has to know of the result, such as examples that are repeated very often.

    Returns:
        The files written, the one to start from first.

    Raises:
        InputError: The format is unknown, the folder is no finished study or not on a disk, the weights cannot be used,
            or the trainer would not train what the study has trained.
        StorageError: A file is missing, or the folder cannot be written.
    """
    if trainer not in EXPORTERS:
        raise InputError(f"no exporter for {trainer!r}; there are: {', '.join(sorted(EXPORTERS))}")
    target = local_folder(folder)
    bundle = replace(read_bundle(os.fspath(study), mixture, examples, seed), tell=tell)
    if repeats := bundle.repeats():
        tell(repeats)
    if EXPORTERS[trainer].text and (cut := bundle.found(lambda line: line.cut)):
        tell(
            f"the study cut the middle out of prompts that were longer than model.max_length "
            f"({bundle.config.model.max_length} tokens) leaves room for: {cut}; {trainer} holds them whole, and who "
            f"trains them cuts or drops them in another way (to train the same tokens: {', '.join(SAME_TOKENS)})"
        )
    try:
        target.mkdir(parents=True, exist_ok=True)
        return EXPORTERS[trainer].write(bundle, target)
    except OSError as error:
        raise StorageError(f"{target} cannot be written: {error}") from error


def local_folder(folder: str | os.PathLike[str]) -> Path:
    """A folder to write to.

    Raises:
        InputError: It is a ``scheme://`` address, which would become a folder of that name here.
    """
    if "://" in os.fspath(folder):
        raise InputError(
            f"{os.fspath(folder)}: exports and models are written to a folder on a disk; write one and copy it there"
        )
    return Path(folder)


def plain_or_chat(line: Line) -> dict[str, Any]:
    """An example for trainers: texts that follow each other as they stand, or the messages of a chat."""
    if line.messages is None:
        return {"prompt": line.prompt, "completion": line.completion}
    tools = {"tools": line.tools} if line.tools else {}
    return {"prompt": line.messages[:-1], "completion": line.messages[-1:]} | tools


def messages(line: Line) -> dict[str, Any]:
    """An example as messages; of a plain one the prompt is the user's and the completion the assistant's."""
    said = line.messages or [
        {"role": "user", "content": line.prompt},
        {"role": "assistant", "content": line.completion},
    ]
    return {"messages": said} | ({"tools": json.dumps(line.tools, ensure_ascii=False)} if line.tools else {})


def write_counted(bundle: Bundle, path: Path, form: Callable[[Line], dict[str, Any]] = plain_or_chat) -> Path:
    """The whole mixture with exactly its counts, shuffled: one JSON object a line, with the task's name."""
    with path.open("w", encoding="utf-8") as stream:
        for task, line in bundle.counted():
            stream.write(json.dumps(form(line) | {"task": task}, ensure_ascii=False) + "\n")
    return path


def write_tasks(bundle: Bundle, folder: Path, form: Callable[[Line], dict[str, Any]] = plain_or_chat) -> list[Path]:
    """Each task's examples once, in a file of its own under ``data``; in the order of the tasks."""
    (folder / "data").mkdir(exist_ok=True)
    paths = []
    for number, task in enumerate(bundle.tasks):
        path = folder / "data" / f"{file_name(task, number)}.jsonl"
        with path.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(form(line), ensure_ascii=False) + "\n" for line in task.lines)
        paths.append(path)
    return paths


def file_name(task: TaskExamples, number: int) -> str:
    """A task's name as that of a file, unique by its number."""
    return f"{number:04d}-{re.sub(r'[^A-Za-z0-9._-]+', '-', task.name)[:60]}"


def write_yaml(path: Path, settings: dict[str, Any], *comments: str) -> Path:
    """A settings file with comments in front."""
    # Unlimited width: a long list of data sets stays one plain line.
    content = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=math.inf)
    path.write_text("".join(f"# {comment}\n" for comment in comments) + content, encoding="utf-8")
    return path
