"""What ``taskpgm tasks`` shows: each task's counts, and its first examples as the model sees them. No Ray."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from rich.markup import escape

from taskpgm_ray import models
from taskpgm_ray.config import StudyConfig
from taskpgm_ray.errors import TaskPGMError, raise_all
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.runtime.fitted_table import FittedTable
from taskpgm_ray.tasks import unread
from taskpgm_ray.tasks.example import BadRow, few
from taskpgm_ray.tasks.separation import question_key
from taskpgm_ray.tasks.separator import shown
from taskpgm_ray.tasks.sources import survey
from taskpgm_ray.tasks.split import split_task


@dataclass(frozen=True)
class Shown:
    """An example as the model sees it."""

    prompt: str
    response: str
    text: str
    """All of its tokens as text, special ones as well."""
    prompt_ids: list[int]
    response_ids: list[int]


@dataclass(frozen=True)
class TaskPreview:
    """A task before it is prepared."""

    name: str
    source: str
    layout: str
    size: int
    """Rows that its data set has."""
    bad: int
    """Rows that are skipped."""
    repeats: int
    train: int
    """Examples that no task of the pool probes or holds out."""
    probe: int
    heldout: int
    examples: list[Shown]
    """In the order of the file, of all splits."""


@dataclass(frozen=True)
class PoolPreview:
    """The pool before it is prepared."""

    tasks: list[TaskPreview]
    notes: list[str]
    """Files that are not read, and names that were made."""
    bad: list[BadRow]

    def as_json(self) -> list[dict[str, Any]]:
        """The tasks as ``taskpgm tasks --json`` prints them."""
        return [asdict(task) for task in self.tasks]


def preview(config: StudyConfig, model: BaseModelRef, examples: int) -> PoolPreview:
    """Read, tokenise and split every task as a study would, and keep the first ``examples`` of each.

    Repeats of evaluation items are not looked for, and data sets of the hub are downloaded.

    Raises:
        TaskPGMError: A task is not usable; `Problems` when several are not.
    """
    sources, notes = survey(config.pool)
    models.prepare(model)
    tokenizer = model.tokenizer()
    tasks, bad = list[TaskPreview](), list[BadRow]()
    trained, asked = list[list[str]](), set[str]()
    problems: list[TaskPGMError] = []
    for source in sources:
        try:
            made = split_task(source, config, tokenizer)
        except TaskPGMError as error:
            problems.append(error)
            continue
        counts = {split: len(made.of(split)) for split in ("train", "probe", "heldout")}
        keys = {split: [question_key(row["prompt"]) for row in made.of(split)] for split in counts}
        trained.append(keys["train"])
        asked.update(keys["probe"], keys["heldout"])
        by_id = {row["id"]: row for row in made.rows}
        # Further answers to what is probed or held out are not in the task.
        first = islice((by_id[one] for one in made.order if one in by_id), examples)
        examples_shown = [
            Shown(
                prompt=row["prompt"],
                response=row["response"],
                text=tokenizer.decode([*row["prompt_ids"], *row["response_ids"]], skip_special_tokens=False),
                prompt_ids=row["prompt_ids"],
                response_ids=row["response_ids"],
            )
            for row in first
        ]
        tasks.append(
            TaskPreview(
                name=source.name,
                source=source.shown,
                layout=made.layout,
                size=made.size,
                bad=len(made.bad),
                repeats=made.dropped["repeats"],
                examples=examples_shown,
                **counts,
            )
        )
        bad += made.bad
        if told := unread.note(source.name, made.unread, made.layout):
            notes.append(told)
        between = ", ".join(f"{shown(text)} ({count})" for text, count in made.separators.most_common())
        if config.model.prompt_format == "plain":
            notes.append(f"{source.name}: between prompt and response: {between}")
    raise_all(problems)
    for number, task in enumerate(tasks):
        withheld = sum(key in asked for key in trained[number])
        if withheld:
            tasks[number] = replace(task, train=task.train - withheld)
            notes.append(
                f"{task.name}: {withheld} examples not trained, because the pool probes them or holds them out"
            )
    return PoolPreview(tasks, notes, bad)


def print_preview(pool: PoolPreview) -> None:
    """Tables and examples on the terminal."""
    from rich.console import Console

    console = Console()
    table = FittedTable()
    for name, stays in (("task", 9), ("source", 1), ("layout", 5)):
        table.column(name, stays, text=True)
    numbers = {"size": 8, "bad": 6, "repeats": 2, "train": 7, "probe": 4, "heldout": 3}
    for name, stays in numbers.items():
        table.column(name, stays)
    for task in pool.tasks:
        counts = (f"{getattr(task, name):,}" for name in numbers)
        table.row(task.name, task.source, task.layout, *counts)
    console.print(table)
    for note in pool.notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    if pool.bad:
        console.print(f"bad rows, which are skipped: {few(pool.bad)}", markup=False, highlight=False)
    for task in pool.tasks:
        for number, example in enumerate(task.examples, start=1):
            tokens = f"{len(example.prompt_ids)} + {len(example.response_ids)} tokens"
            console.print(f"\n[bold]{escape(task.name)}[/bold], example {number} ({tokens})", highlight=False)
            # As it is: the model reads white space and line ends, and a wrapped line would hide them.
            console.print(example.text, markup=False, highlight=False, soft_wrap=True)
