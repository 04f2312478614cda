"""Nothing that is probed, held out or asked by the evaluation is trained, in any task of the pool.

The split of a task keeps its own probes and held-out examples apart from its training examples, prompt for prompt. But
tasks overlap: a mix contains its parts, and the same question comes with another case or another line break. So what
is trained of a task is what no task of the pool asks. Short questions of the evaluation are looked for here as well;
long ones are dropped before the split (`contamination`).
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

from taskpgm_ray.errors import DataError
from taskpgm_ray.runtime.run import Run
from taskpgm_ray.storage import Unit, fingerprint
from taskpgm_ray.tasks.contamination import NOTHING, EvaluationTexts
from taskpgm_ray.tasks.prepare import Task, Withheld
from taskpgm_ray.tasks.split import content_of

WITHHELD = "withheld.json"
COLUMNS = ["id", "prompt", "response", "prompt_ids", "response_ids"]
READERS = 8
"""Tables that are read at the same time; the wait for the storage is what costs."""


def separate(run: Run, tasks: Sequence[Task], evaluated: EvaluationTexts = NOTHING) -> list[Task]:
    """The same tasks, each without the training examples that a task of the pool or the evaluation asks.

    Prompts are compared by `plain`. A task that trains nothing of this kind is returned as it is; another has the
    counts and the fingerprint of what is left, so that its adapter is made anew once the pool asks what it had learned.

    Args:
        run: Its storage holds, or will hold, the unit that lists what is withheld.
        tasks: The whole pool, prepared.
        evaluated: What the evaluation asks.

    Raises:
        DataError: Nothing is left to train of one or more tasks; the message names the tasks that ask it.
    """
    identity = ["separation", sorted(task.unit.path for task in tasks), evaluated.short_identity]
    unit = Unit(run.storage, f"separation/{fingerprint(*identity)}")
    with run.progress.stage("separate", 1, int(unit.done())) as stage:
        if not unit.done():
            found = _overlaps(tasks, evaluated)
            _refuse_empty(tasks, found)
            written = {name: asdict(withheld) | {"ids": sorted(withheld.ids)} for name, (withheld, _) in found.items()}
            for entry in written.values():
                # Where it lies is known to who reads it.
                del entry["unit"]
            unit.files.write_bytes(WITHHELD, json.dumps(written).encode())
            unit.finish({"tasks": len(tasks), "withheld": sum(len(withheld.ids) for withheld, _ in found.values())})
            stage.finished(_told(found))
    return apart(tasks, unit)


def apart(tasks: Sequence[Task], unit: Unit) -> list[Task]:
    """The tasks without the training examples that a finished unit lists."""
    stored = unit.files.read_json(WITHHELD)

    def withheld(task: Task) -> Withheld | None:
        if task.name not in stored:
            return task.withheld
        return Withheld(**stored[task.name] | {"ids": frozenset(stored[task.name]["ids"]), "unit": unit.path})

    return [replace(task, withheld=withheld(task)) for task in tasks]


def plain(text: str) -> str:
    """A text without what two spellings of one question differ in: case, white space and compatibility characters."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def question_key(prompt: str) -> str:
    """Equal for prompts that `plain` makes equal, and short: a pool may ask a million, some of them pages long."""
    return fingerprint(plain(prompt))


def _overlaps(tasks: Sequence[Task], evaluated: EvaluationTexts) -> dict[str, tuple[Withheld, Counter[str]]]:
    """Of each task that trains what is asked: what is withheld, and how much of it who asks."""
    with ThreadPoolExecutor(READERS, thread_name_prefix="separation") as readers:
        asked: dict[str, str] = {}
        for task, keys in zip(tasks, readers.map(_asked, tasks), strict=True):
            for key in keys:
                asked.setdefault(key, task.name)
        found = readers.map(lambda task: _withheld(task, asked, evaluated), tasks)
        return {task.name: one for task, one in zip(tasks, found, strict=True) if one}


def _asked(task: Task) -> list[str]:
    """The keys of a task's probes and held-out examples."""
    return [question_key(prompt) for prompt in task.table("probe", "heldout")["prompt"].to_pylist()]


def _withheld(task: Task, asked: dict[str, str], evaluated: EvaluationTexts) -> tuple[Withheld, Counter[str]] | None:
    rows = task.table("train").select(COLUMNS).to_pylist()
    askers = [
        asked.get(question_key(row["prompt"]))
        or ("the evaluation" if evaluated.holds_short(row["prompt"], row["response"]) else None)
        for row in rows
    ]
    if not any(askers):
        return None
    left: list[dict[str, Any]] = [row for row, asker in zip(rows, askers, strict=True) if asker is None]
    withheld = Withheld(
        ids=frozenset(row["id"] for row, asker in zip(rows, askers, strict=True) if asker is not None),
        train=len(left),
        train_tokens=sum(len(row["prompt_ids"]) + len(row["response_ids"]) for row in left),
        train_content=content_of(left),
    )
    return withheld, Counter(asker for asker in askers if asker is not None)


def _refuse_empty(tasks: Sequence[Task], found: dict[str, tuple[Withheld, Counter[str]]]) -> None:
    empty = [
        f"task {task.name!r}: all {task.facts.train} training examples are asked by "
        f"{_counted(found[task.name][1])}. Drop one of the tasks, or lower pool.probes_per_task or heldout_per_task"
        for task in tasks
        if task.name in found and not found[task.name][0].train
    ]
    if empty:
        raise DataError("\n".join(empty))


def _told(found: dict[str, tuple[Withheld, Counter[str]]]) -> str:
    if not found:
        return "no task trains what the pool or the evaluation asks"
    parts = [f"{name} {len(withheld.ids)} ({_counted(askers)})" for name, (withheld, askers) in found.items()]
    return f"not trained, because it is probed, held out or evaluated: {', '.join(parts)}"


def _counted(askers: Counter[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in askers.most_common())
