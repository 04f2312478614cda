"""A mixture that the user has already, from a file: ``mixture.json`` of a study, or a table of task and weight."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from taskpgm_ray.errors import InputError
from taskpgm_ray.numerics.types import FloatArray


def read_given(path: str, names: Sequence[str]) -> FloatArray:
    """The weights [n] of the tasks ``names`` in this file, divided by their sum; tasks that it does not name get 0.

    Args:
        path: ``*.json`` with ``tasks: [{"name", "weight"}]``, or CSV with a line ``task,weight`` each, header or none.
        names: The pool's tasks.

    Raises:
        InputError: The file cannot be read, names a task that is not in the pool or one twice, or has a weight that is
            no number >= 0, or nothing but zeros.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        found = _of_json(json.loads(text)) if path.lower().endswith(".json") else _of_table(text)
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise InputError(f"the mixture {path} cannot be read: {type(error).__name__}: {error}") from error
    weights = dict.fromkeys(names, 0.0)
    seen: set[str] = set()
    for name, weight in found:
        if name not in weights:
            raise InputError(f"the mixture {path} names {name!r}, which is not among the tasks: {', '.join(names)}")
        if name in seen:
            raise InputError(f"the mixture {path} names {name!r} twice")
        if not math.isfinite(weight) or weight < 0:
            raise InputError(f"the mixture {path}: the weight of {name!r} must be a number >= 0, not {weight}")
        seen.add(name)
        weights[name] = weight
    total = math.fsum(weights.values())
    if not total > 0:
        raise InputError(f"the mixture {path} gives every task 0")
    return np.array([weight / total for weight in weights.values()])


def _of_json(document: Any) -> list[tuple[str, float]]:
    return [(str(task["name"]), float(task["weight"])) for task in document["tasks"]]


def _of_table(text: str) -> list[tuple[str, float]]:
    rows = [row for row in csv.reader(text.splitlines()) if any(cell.strip() for cell in row)]
    if rows and len(rows[0]) > 1 and not _is_number(rows[0][1]):
        rows = rows[1:]
    return [(row[0].strip(), float(row[1])) for row in rows]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
