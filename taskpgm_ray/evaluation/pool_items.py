"""The pool's own tasks as a benchmark: examples that no fine-tune trained on, by underlying data set."""

from __future__ import annotations

from collections.abc import Sequence

from taskpgm_ray.errors import EvaluationError
from taskpgm_ray.evaluation.items import POOL, Item, Items, TaskItems
from taskpgm_ray.storage import fingerprint
from taskpgm_ray.tasks.prepare import Task


def identity(tasks: Sequence[Task]) -> str | None:
    """What the items depend on: the tasks' held-out examples and the data sets that they belong to."""
    return fingerprint([(task.facts.group, task.facts.heldout_content) for task in tasks]) if tasks else None


def load(tasks: Sequence[Task]) -> Items:
    """The held-out examples, to be halved into search and report.

    Tasks that were made from one data set (``group``) are one task here, so that a data set which the pool holds in
    several parts counts once. The token ids are those that a fine-tune would see.

    Raises:
        EvaluationError: A task has no held-out examples.
    """
    groups: dict[str, TaskItems] = {}
    for task in tasks:
        table = task.table("heldout")
        if not len(table):
            raise EvaluationError(f"task {task.name!r} has no held-out examples; set pool.heldout_per_task")
        group = groups.setdefault(task.facts.group, TaskItems(POOL, task.facts.group))
        group.shared += [
            Item(POOL, group.task, row["prompt"], row["response"], tokens=(row["prompt_ids"], row["response_ids"]))
            for row in table.to_pylist()
        ]
    return Items(list(groups.values()))
