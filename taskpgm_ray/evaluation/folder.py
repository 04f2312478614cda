"""MMLU and BBH from a local folder.

``mmlu/<subject>.<dev|val|test>.jsonl`` holds ``{"question", "choices": [4], "answer": 0-3}``, ``bbh/<task>.jsonl``
holds ``{"input", "target"}``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from taskpgm_ray.errors import DataError, EvaluationError
from taskpgm_ray.evaluation.items import Items, TaskItems, bbh_item, mmlu_item, parse_lines
from taskpgm_ray.paths import looked_in

MMLU_SPLITS = ("dev", "val", "test")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def identity(data: str) -> dict[str, str]:
    """The content of the folder's files.

    Raises:
        EvaluationError: There is no such folder.
    """
    digest = hashlib.sha256()
    for file in _files(data):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.parent.name}/{file.name} {content}\n".encode())
    return {"source": "folder", "content": digest.hexdigest()[:16]}


def load(data: str, *, mmlu: bool = True, bbh: bool = True) -> Items:
    """Every item of the folder.

    Raises:
        DataError: A record is damaged; the message names file and line.
        EvaluationError: There is no such folder, or it lacks a benchmark that was asked for.
    """
    return Items((_mmlu(data) if mmlu else []) + (_bbh(data) if bbh else []))


def _mmlu(data: str) -> list[TaskItems]:
    subjects: dict[str, dict[str, Path]] = {}
    for file in _files(data, "mmlu"):
        subject, _, split = file.name.removesuffix(".jsonl").rpartition(".")
        if split not in MMLU_SPLITS or not _NAME.fullmatch(subject):
            raise DataError(f"{file}: MMLU files are named <subject>.<dev|val|test>.jsonl; rename or remove it")
        subjects.setdefault(subject, {})[split] = file
    tasks = []
    for subject, files in sorted(subjects.items()):
        for split in ("val", "test"):
            if split not in files:
                missing = next(iter(files.values())).with_name(f"{subject}.{split}.jsonl")
                raise EvaluationError(f"{missing} is missing: the search split reads val, the report split test")
        read = {
            split: [mmlu_item(subject, record, where) for record, where in _records(file)]
            for split, file in files.items()
        }
        tasks.append(TaskItems("mmlu", subject, search=read["val"], report=read["test"], dev=read.get("dev", [])))
    return tasks


def _bbh(data: str) -> list[TaskItems]:
    tasks = []
    for file in _files(data, "bbh"):
        task = file.name.removesuffix(".jsonl")
        if not _NAME.fullmatch(task):
            raise DataError(f"{file}: a BBH file is named <task>.jsonl with letters, digits, - and _ only; rename it")
        tasks.append(TaskItems("bbh", task, shared=[bbh_item(task, record, at) for record, at in _records(file)]))
    return tasks


def _files(data: str, benchmark: str | None = None) -> list[Path]:
    """The JSONL files of the folder, of one benchmark (which must be there) or of both."""
    folder = Path(data)
    if not folder.is_dir():
        raise EvaluationError(
            f"evaluation.data {data!r} is no folder{looked_in(data)}; give one with mmlu/ and bbh/ in it, or "
            "'exemplars', or 'hub'"
        )
    found = {name: sorted((folder / name).glob("*.jsonl")) for name in ("mmlu", "bbh")}
    if benchmark is None:
        return found["mmlu"] + found["bbh"]
    if not found[benchmark]:
        raise EvaluationError(
            f"{folder / benchmark} holds no .jsonl files; add them or set evaluation.{benchmark}=false"
        )
    return found[benchmark]


def _records(file: Path) -> Iterator[tuple[Any, str]]:
    """(object, ``file:line``) of each line of a file."""
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 (byte {error.start}); convert it") from error
    return parse_lines(text, str(file))
