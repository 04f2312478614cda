"""Evaluation items: what a question is, when two are the same, and reading them from a local folder.

MMLU and BBH come from the exemplars in lm-eval's wheel (`exemplars`), the data sets on the hub (`hub`), or a folder
with ``mmlu/<subject>.<dev|val|test>.jsonl`` (``{"question", "choices": [4], "answer": 0-3}``) and ``bbh/<task>.jsonl``
(``{"input", "target"}``). Other items are documents of lm-eval's tasks (`harness`) or held-out examples of the pool
(`own`).
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from taskpgm_ray.errors import DataError, EvaluationError
from taskpgm_ray.storage import fingerprint

LETTERS = ("A", "B", "C", "D")
MMLU_SPLITS = ("dev", "val", "test")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Item:
    """One question with its answer."""

    benchmark: str
    """``mmlu``, ``bbh``, ``pool`` (held-out examples of the pool), or the name of an lm-eval task or group."""
    task: str
    """MMLU subject, BBH task, data set of the pool, or task of an lm-eval group."""
    question: str
    target: str
    """The right answer: a letter (MMLU), or the text to be given."""
    choices: tuple[str, ...] = ()
    """The possible answers; MMLU: four, in the order of their letters."""
    doc: dict[str, Any] | None = None
    """lm-eval tasks by name: the document that the task's own templates read."""
    tokens: tuple[list[int], list[int]] | None = None
    """Examples of the pool: the (prompt, response) token ids that a fine-tune would train on."""

    @cached_property
    def id(self) -> str:
        """Content hash, 16 hex digits: equal for questions that differ in case, white space or order of choices only.

        Neither the task nor the answer enters, so a question repeated under another subject is the same item.
        """
        return fingerprint(self.benchmark, _plain(self.question), sorted(_plain(choice) for choice in self.choices))

    @property
    def answer(self) -> int:
        """MMLU: index of the right choice."""
        return LETTERS.index(self.target)

    def to_record(self) -> dict[str, Any]:
        """The item as a JSON object, with its id."""
        body: dict[str, Any] = {"question": self.question, "target": self.target}
        if self.benchmark == "mmlu":
            body = {"question": self.question, "choices": list(self.choices), "answer": self.answer}
        elif self.benchmark == "bbh":
            body = {"input": self.question, "target": self.target}
        elif self.tokens is not None:
            body |= {"prompt_ids": self.tokens[0], "response_ids": self.tokens[1]}
        else:
            body |= {"choices": list(self.choices), "doc": self.doc}
        return {"item": self.id, "task": self.task, **body}


@dataclass
class TaskItems:
    """All items of one task of a benchmark, by the use that they may be put to."""

    benchmark: str
    task: str
    search: list[Item] = field(default_factory=list)
    """Items for the search split only (MMLU validation)."""
    report: list[Item] = field(default_factory=list)
    """Items for the report split only (MMLU test)."""
    shared: list[Item] = field(default_factory=list)
    """Items of a task without splits of its own: to be halved."""
    dev: list[Item] = field(default_factory=list)
    """Items that are shown before a question, never asked (MMLU dev, an lm-eval task's few-shot documents)."""


@dataclass
class Items:
    """Everything that a source holds."""

    tasks: list[TaskItems]
    skipped: list[str] = field(default_factory=list)
    """Records that the source is known to hold in an unusable form, each with its place and reason."""


def source_identity(data: str) -> dict[str, str]:
    """What the items of a source depend on. Cheap: reads a local folder, touches neither network nor lm-eval.

    Raises:
        EvaluationError: There is no such folder.
    """
    from taskpgm_ray.evaluation import exemplars, hub

    if data == "exemplars":
        return exemplars.identity()
    if data == "hub":
        return hub.identity()
    digest = hashlib.sha256()
    for file in _folder_files(data):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.parent.name}/{file.name} {content}\n".encode())
    return {"source": "folder", "content": digest.hexdigest()[:16]}


def load_items(data: str, *, mmlu: bool = True, bbh: bool = True) -> Items:
    """Read every item of a source (`EvaluationConfig.data`).

    Raises:
        DataError: A record is damaged; the message names file and line.
        EvaluationError: The source does not exist or lacks a benchmark that was asked for.
    """
    from taskpgm_ray.evaluation import exemplars, hub

    if data == "exemplars":
        return exemplars.load(mmlu=mmlu, bbh=bbh)
    if data == "hub":
        return hub.load(mmlu=mmlu, bbh=bbh)
    tasks = []
    if mmlu:
        tasks += _mmlu_folder(data)
    if bbh:
        tasks += _bbh_folder(data)
    return Items(tasks)


def stored_item(benchmark: str, record: Any, where: str) -> Item:
    """The item that `Item.to_record` wrote; ``where`` names its place in messages."""
    task = record_field(record, "task", where)
    if benchmark == "mmlu":
        return mmlu_item(task, record, where)
    if benchmark == "bbh":
        return bbh_item(task, record, where)
    question, target = record_field(record, "question", where), record_field(record, "target", where)
    if "prompt_ids" in record:
        tokens = (record["prompt_ids"], record_field(record, "response_ids", where))
        return Item(benchmark, task, question, target, tokens=tokens)
    choices, doc = record_field(record, "choices", where), record_field(record, "doc", where)
    return Item(benchmark, task, question, target, tuple(choices), doc)


def mmlu_item(subject: str, record: Any, where: str) -> Item:
    """A checked MMLU item from ``{"question", "choices", "answer"}``; ``where`` names its place in messages."""
    question, choices, answer = (record_field(record, name, where) for name in ("question", "choices", "answer"))
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{where}: 'question' must be a text that is not empty")
    if not isinstance(choices, list) or len(choices) != 4 or not all(isinstance(c, str) for c in choices):
        raise DataError(f"{where}: 'choices' must be a list of exactly 4 texts")
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < 4:
        raise DataError(f"{where}: 'answer' must be the index of the right choice, 0 to 3, not {answer!r}")
    return Item("mmlu", subject, question, LETTERS[answer], tuple(choices))


def bbh_item(task: str, record: Any, where: str) -> Item:
    """A checked BBH item from ``{"input", "target"}``; ``where`` names its place in messages."""
    question, target = record_field(record, "input", where), record_field(record, "target", where)
    for name, text in (("input", question), ("target", target)):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{where}: {name!r} must be a text that is not empty")
    return Item("bbh", task, question, target.strip())


def parse_lines(text: str, file: str) -> Iterator[tuple[Any, str]]:
    """(object, ``file:line``) of each line of JSON Lines; empty lines are passed over. `DataError` on a bad one."""
    # Not splitlines(): it also breaks at characters that may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{file}:{number}"
            try:
                yield json.loads(line), where
            except ValueError as error:
                raise DataError(f"{where} is not JSON: {error}") from error


def record_field(record: Any, name: str, where: str) -> Any:
    """A field of a JSON object that must have it; `DataError` otherwise."""
    if not isinstance(record, dict):
        raise DataError(f"{where} must be a JSON object, not {type(record).__name__}")
    if name not in record:
        raise DataError(f"{where} lacks {name!r}; it has {', '.join(sorted(map(str, record))) or 'nothing'}")
    return record[name]


def _mmlu_folder(data: str) -> list[TaskItems]:
    subjects: dict[str, dict[str, Path]] = {}
    for file in _folder_files(data, "mmlu"):
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


def _bbh_folder(data: str) -> list[TaskItems]:
    tasks = []
    for file in _folder_files(data, "bbh"):
        task = file.name.removesuffix(".jsonl")
        if not _NAME.fullmatch(task):
            raise DataError(f"{file}: a BBH file is named <task>.jsonl with letters, digits, - and _ only; rename it")
        tasks.append(TaskItems("bbh", task, shared=[bbh_item(task, record, at) for record, at in _records(file)]))
    return tasks


def _folder_files(data: str, benchmark: str | None = None) -> list[Path]:
    """The JSONL files of the folder, of one benchmark (which must be there) or of both."""
    folder = Path(data)
    if not folder.is_dir():
        raise EvaluationError(
            f"evaluation.data {data!r} is no folder; give one with mmlu/ and bbh/ in it, or 'exemplars', or 'hub'"
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


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
