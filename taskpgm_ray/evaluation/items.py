"""Evaluation items: what a question is, when two are the same, and how records become items.

MMLU and BBH come from one of `sources`; other items are documents of lm-eval's tasks (`harness`) or held-out examples
of the pool (`pool_items`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from taskpgm_ray.errors import DataError
from taskpgm_ray.storage import fingerprint
from taskpgm_ray.tasks.json_text import once
from taskpgm_ray.tasks.separation import plain

LETTERS = ("A", "B", "C", "D")
POOL = "pool"
"""The benchmark of the pool's own held-out examples, a task for each data set."""


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
        return fingerprint(self.benchmark, plain(self.question), sorted(plain(choice) for choice in self.choices))

    @property
    def answer(self) -> int:
        """MMLU: index of the right choice."""
        return LETTERS.index(self.target)

    @property
    def right_answer(self) -> str:
        """The right answer as a text, not as a letter of MMLU's."""
        return self.choices[self.answer] if self.benchmark == "mmlu" else self.target

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
                yield json.loads(line, object_pairs_hook=once), where
            except ValueError as error:
                raise DataError(f"{where} is not JSON: {error}") from error


def record_field(record: Any, name: str, where: str) -> Any:
    """A field of a JSON object that must have it; `DataError` otherwise."""
    if not isinstance(record, dict):
        raise DataError(f"{where} must be a JSON object, not {type(record).__name__}")
    if name not in record:
        raise DataError(f"{where} lacks {name!r}; it has {', '.join(sorted(map(str, record))) or 'nothing'}")
    return record[name]
