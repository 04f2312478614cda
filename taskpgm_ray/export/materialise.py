"""The mixture as one JSONL file with exactly its counts, for trainers that cannot sample by weight themselves."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from taskpgm_ray.errors import DataError, StorageError
from taskpgm_ray.tasks.marks import without_begin, without_end
from taskpgm_ray.tasks.separator import separator

Files = Mapping[str, str | os.PathLike[str]]
"""Task name to the JSONL file of its training examples (``prompt`` and ``response`` in each line)."""


def materialise(document: dict[str, Any], files: Files, target: Path, *, seed: int = 0) -> int:
    """Draw every task's count of examples, shuffle all of them, and write them as the study has trained them.

    A task that gives more than it has repeats whole epochs and draws only the rest; no example occurs twice more than
    another.

    Args:
        document: A checked mixture document.
        files: The training examples of every task with a positive count.
        target: File to write: ``{"prompt", "completion", "task"}`` in each line, see `line`.
        seed: Of the draw and the order; the same seed gives the same file.

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
            written = line(prompt, response, document.get("prompt_format", "plain"), document.get("separator"))
            lines.append(json.dumps(written | {"task": task["name"]}, ensure_ascii=False) + "\n")
    order = np.random.default_rng([seed, len(document["tasks"])]).permutation(len(lines))
    try:
        with target.open("w", encoding="utf-8") as stream:
            stream.writelines(lines[i] for i in order)
    except OSError as error:
        raise StorageError(f"{target} cannot be written: {error}") from error
    return len(lines)


def line(prompt: str, response: str, prompt_format: str, given: str | None) -> dict[str, Any]:
    """An example for trainers: texts that follow each other as they stand, or the two messages of a chat.

    Args:
        prompt: As the file has it; marks of begin and end are left to the trainer.
        response: The same.
        prompt_format: ``model.prompt_format`` of the study.
        given: Its ``pool.separator``.
    """
    prompt, response = without_begin(prompt, None), without_end(response)
    if prompt_format == "plain":
        return {"prompt": prompt, "completion": separator(prompt, response, given) + response}
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": response}],
    }


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
