"""Ray Data: a module that yields the mixture as a ``ray.data.Dataset``."""

from __future__ import annotations

import json
from pathlib import Path

from taskpgm_ray.export.examples import Bundle
from taskpgm_ray.export.registry import exporter, write_tasks

TEMPLATE = '''"""A mixture of fine-tuning tasks for Ray Data (2.40 or later).

    from mixture_ray import mixture
"""

import json
from pathlib import Path

import ray

DATA = Path(__file__).parent / "data"
TASKS = @TASKS@


def _read(file):
    # Not by read_json, which makes points in time of texts that are dates.
    with open(DATA / file, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    names = dict.fromkeys(name for row in rows for name in row)
    return ray.data.from_items([{name: row.get(name) for name in names} for row in rows])


def mixture(seed=0):
    """A ray.data.Dataset in which every task gives exactly its count, shuffled; small tasks repeat."""
    parts = []
    for task in TASKS.values():
        examples = _read(task["file"])
        epochs, rest = divmod(task["count"], task["examples"])
        parts += [examples] * epochs
        if rest:
            parts.append(examples.random_shuffle(seed=seed).limit(rest))
    first, *others = parts
    return (first.union(*others) if others else first).random_shuffle(seed=seed)
'''


@exporter("ray", "mixture_ray.py for Ray Data, and the tasks' examples", text=True)
def _ray(bundle: Bundle, folder: Path) -> list[Path]:
    files = write_tasks(bundle, folder)
    tasks = {
        task.name: {"file": file.name, "count": task.count, "examples": len(task.lines)}
        for task, file in zip(bundle.tasks, files, strict=True)
    }
    path = folder / "mixture_ray.py"
    path.write_text(TEMPLATE.replace("@TASKS@", json.dumps(tasks, indent=4)), encoding="utf-8")
    return [path, *files]
