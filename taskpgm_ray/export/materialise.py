"""The mixture as one JSONL file with exactly its counts, for trainers that cannot sample by weight themselves."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from taskpgm_ray.errors import DataError, StorageError

Files = Mapping[str, str | os.PathLike[str]]
"""Task name to the JSONL file of its training examples (``prompt`` and ``response`` in each line)."""


def materialise(document: dict[str, Any], files: Files, target: Path, *, seed: int = 0, separator: str = " ") -> int:
    """Draw every task's count of examples, shuffle all of them, and write them as prompt and completion.

    A task that gives more than it has repeats whole epochs and draws only the rest; no example occurs twice more than
    another.

    Args:
        document: A checked mixture document.
        files: The training examples of every task with a positive count.
        target: File to write: ``{"prompt", "completion", "task"}`` in each line.
        seed: Of the draw and the order; the same seed gives the same file.
        separator: Put before the response, as between prompt and response in the study's training.

    Returns:
        The number of lines written.

    Raises:
        DataError: A line is not a JSON object with the strings ``prompt`` and ``response``, or a file is empty.
        StorageError: A file cannot be read, or the target not written.
    """
    lines: list[str] = []
    for position, task in enumerate(document["tasks"]):
        if not task["count"]:
            continue
        examples = _read(task["name"], files[task["name"]])
        draw = np.random.default_rng([seed, position])
        epochs, rest = divmod(task["count"], len(examples))
        chosen = [*range(len(examples))] * epochs + draw.permutation(len(examples))[:rest].tolist()
        for i in chosen:
            prompt, response = examples[i]
            line = {"prompt": prompt, "completion": separator + response, "task": task["name"]}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    order = np.random.default_rng([seed, len(document["tasks"])]).permutation(len(lines))
    try:
        with target.open("w", encoding="utf-8") as stream:
            stream.writelines(lines[i] for i in order)
    except OSError as error:
        raise StorageError(f"{target} cannot be written: {error}") from error
    return len(lines)


def _read(name: str, file: str | os.PathLike[str]) -> list[tuple[str, str]]:
    examples = []
    try:
        with Path(file).open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    examples.append(_parse(line, f"task {name!r}, {os.fspath(file)}, line {number}"))
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"task {name!r}: {os.fspath(file)} cannot be read: {error}") from error
    if not examples:
        raise DataError(f"task {name!r}: {os.fspath(file)} holds no examples")
    return examples


def _parse(line: str, where: str) -> tuple[str, str]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}") from error
    if not isinstance(record, dict) or not all(isinstance(record.get(key), str) for key in ("prompt", "response")):
        raise DataError(f"{where}: needs a JSON object with the strings 'prompt' and 'response'")
    return record["prompt"], record["response"]
