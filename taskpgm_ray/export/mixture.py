"""``mixture.json``: the document that a study hands over, written and checked here."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import InputError, StorageError
from taskpgm_ray.mixture import counts, mean_length, read_given, token_counts
from taskpgm_ray.numerics.types import FloatArray, IntArray

VERSION = 1
"""Version of the document's schema."""
WEIGHT_TOLERANCE = 1e-9
"""How far the weights' sum may be from 1."""


@dataclass(frozen=True, kw_only=True)
class MixtureTask:
    """One task of a mixture."""

    name: str
    """Unique in its mixture."""
    weight: float
    """Share of the mixture; non-negative."""
    count: int
    """Examples that it gives."""
    available: int
    """Training examples that it has."""
    source: str
    """Where it comes from."""
    tokens: float | None = None
    """Mean tokens of its examples; needed where weights are shares of tokens."""
    held_by: tuple[str, ...] = ()
    """The user's constraints that its weight is held by."""
    low: float | None = None
    """Interval of the weight (95 %), were the probes drawn anew; ``None``: not known."""
    high: float | None = None
    inclusion: float | None = None
    """How probable it is then that the task has weight."""
    unit: str = ""
    """The folder of the study that holds its prepared examples."""
    withheld: str = ""
    """The folder that lists the training examples that are not trained, if there are such."""

    @property
    def epochs(self) -> float | None:
        """How often each of its examples is used; ``None`` where it has none."""
        return int(self.count) / int(self.available) if self.available else None


@dataclass(frozen=True, kw_only=True, eq=False)
class MixtureDocument:
    """What ``mixture.json`` says; everything else in it follows from these."""

    study: str
    """Name of the study."""
    fingerprint: str
    """What the mixture depends on."""
    tasks: tuple[MixtureTask, ...]
    """The weights sum to 1, the counts to the size of the mixture."""
    tau: float | None
    """The balance n * beta / lambda; ``None`` when a baseline was chosen."""
    energy: float | None = None
    gap: float | None = None
    """Certified duality gap of the energy."""
    affinity: str = "jsd"
    """The family that the mixture comes from, for example ``jsd`` or ``pmi``."""
    gamma: float | None = None
    """Bandwidth of the kernel per nat (JSD) or squared nat (PMI)."""
    noise_floor: float | None = None
    """What was taken off every divergence before the kernel, in the same unit."""
    repair: Mapping[str, Any] | None = None
    """How an indefinite S was mended: ``method``, ``lambda_min``, ``relative_change``, ``clipped``."""
    merges: Mapping[str, Any] | None = None
    """What a search by merges found, see `taskpgm_ray.search.merge_search.MergeFinding`."""
    beta: float | None = None
    """The balance as the user gave it, where given as beta and lambda."""
    lambda_: float | None = None
    """The same for lambda."""
    chosen: str = "taskpgm"
    """``taskpgm``, or the name of the baseline that was chosen instead."""
    recommended: str = "taskpgm"
    """What to train on: the chosen mixture, or the baseline that it is not shown to be better than."""
    recommended_weights: FloatArray | None = None
    """Weights [n] of what is recommended; ``None``: those of ``tasks``."""
    share: str = "examples"
    """What weights are shares of: ``examples`` or ``tokens``."""
    prompt_format: str = "plain"
    """``plain`` or ``chat``: how the study has put the examples to the model; with the next it decides what exported
    lines say."""
    separator: str | None = None
    """``pool.separator``."""

    def as_json(self) -> dict[str, Any]:
        """The content of ``mixture.json``, checked.

        Raises:
            InputError: It is no valid mixture, see `check_mixture`.
        """
        better = [(task.weight, task.count) for task in self.tasks]
        if self.recommended_weights is not None:
            own = [{"count": task.count, "available": task.available, "tokens": task.tokens} for task in self.tasks]
            whole = _counts(self.recommended_weights, own, self.share)
            better = list(zip(self.recommended_weights.tolist(), whole, strict=True))
        tasks = [
            {
                "name": task.name,
                "weight": float(task.weight),
                "count": int(task.count),
                "available": int(task.available),
                "epochs": task.epochs,
                "source": task.source,
                "recommended_weight": float(weight),
                "recommended_count": int(count),
                "tokens": _number(task.tokens),
                "held_by": list(task.held_by),
                "low": _number(task.low),
                "high": _number(task.high),
                "inclusion": _number(task.inclusion),
                "unit": task.unit or None,
                "withheld": task.withheld or None,
            }
            for task, (weight, count) in zip(self.tasks, better, strict=True)
        ]
        document = {
            "version": VERSION,
            "study": self.study,
            "fingerprint": self.fingerprint,
            "chosen": self.chosen,
            "recommended": self.recommended,
            "tau": _number(self.tau),
            "beta_over_lambda": float(self.tau) / len(tasks) if tasks and self.tau is not None else None,
            "beta": _number(self.beta),
            "lambda": _number(self.lambda_),
            "energy": _number(self.energy),
            "gap": _number(self.gap),
            "affinity": self.affinity,
            "gamma": _number(self.gamma),
            "noise_floor": _number(self.noise_floor),
            **({"repair": dict(self.repair)} if self.repair else {}),
            **({"merges": dict(self.merges)} if self.merges else {}),
            "share": self.share,
            "prompt_format": self.prompt_format,
            "separator": self.separator,
            "examples": sum(int(task.count) for task in self.tasks),
            "tasks": tasks,
        }
        check_mixture(document, "the mixture")
        return document


def load_mixture(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and check a ``mixture.json``.

    Args:
        path: A local path or a ``scheme://`` URI.

    Raises:
        StorageError: The file is missing, cannot be read, or is not JSON.
        InputError: It is JSON but no valid mixture.
    """
    from taskpgm_ray.storage import Storage

    folder, _, name = os.fspath(path).rpartition("/")
    storage = Storage(folder or ("/" if os.fspath(path).startswith("/") else "."))
    try:
        document = json.loads(storage.read_bytes(name))
    except ValueError as error:
        raise StorageError(f"{os.fspath(path)} is not JSON: {error}; export the mixture again") from error
    check_mixture(document, os.fspath(path))
    return document


def take(document: dict[str, Any], which: Literal["recommended", "chosen"]) -> dict[str, Any]:
    """The document with the weights and counts of one of its two mixtures as the tasks' own.

    Documents that know no recommendation hold the chosen mixture only.
    """
    if which == "chosen" or document.get("recommended", document.get("chosen")) == document.get("chosen"):
        return document
    tasks = [
        task
        | {
            "weight": task["recommended_weight"],
            "count": task["recommended_count"],
            "epochs": task["recommended_count"] / task["available"] if task["available"] else None,
        }
        for task in document["tasks"]
    ]
    return document | {"tasks": tasks}


def weighted(document: dict[str, Any], path: str | None, examples: int | None = None) -> dict[str, Any]:
    """The document with the weights of another file, or with another number of examples.

    Args:
        document: Of the study.
        path: A ``mixture.json`` or a table of task and weight, see `read_given`; ``None``: the weights stay.
        examples: In all, of the pool's mean length where weights are shares of tokens; ``None``: as many examples (or
            tokens) as before.

    Raises:
        InputError: The file cannot be read, or names a task that is not one of the study's.
    """
    names = [task["name"] for task in document["tasks"]]
    given = [task["weight"] for task in document["tasks"]] if path is None else read_given(path, names)
    whole = _counts(given, document["tasks"], document.get("share"), examples)
    tasks = [
        task
        | {
            "weight": float(weight),
            "count": int(count),
            "epochs": int(count) / task["available"] if task["available"] else None,
        }
        for task, weight, count in zip(document["tasks"], given, whole, strict=True)
    ]
    return document | {"tasks": tasks, "examples": int(whole.sum())}


def _counts(
    weights: npt.ArrayLike, tasks: Sequence[Mapping[str, Any]], share: str | None, examples: int | None = None
) -> IntArray:
    """Examples of each task: as many in all as these tasks have, or as many tokens where weights are shares of them."""
    own = [int(task["count"]) for task in tasks]
    if share != "tokens":
        return counts(weights, sum(own) if examples is None else examples)
    lengths = np.array([task["tokens"] for task in tasks], dtype=np.float64)
    if examples is not None:
        return token_counts(weights, examples * mean_length([task["available"] for task in tasks], lengths), lengths)
    return token_counts(weights, float(np.dot(own, lengths)), lengths)


def check_mixture(document: Any, where: str) -> None:
    """Check a document against the schema.

    Args:
        document: The content of a ``mixture.json``.
        where: How messages call it.

    Raises:
        InputError: A field is missing or of the wrong kind, a weight or count is negative, a name occurs twice, the
            weights do not sum to 1 within 1e-9, or the counts do not sum to ``examples``.
    """
    if not isinstance(document, dict):
        raise InputError(f"{where}: a mixture is a JSON object, not a {type(document).__name__}")
    if document.get("version") != VERSION:
        raise InputError(f"{where}: schema version {document.get('version')!r}; this program reads version {VERSION}")
    for key in ("study", "fingerprint", "affinity"):
        if not isinstance(document.get(key), str):
            raise InputError(f"{where}: {key} must be a string, not {document.get(key)!r}")
    for key in ("tau", "beta_over_lambda", "energy", "gap"):
        if key not in document or not (document[key] is None or _is_number(document[key])):
            raise InputError(f"{where}: {key} must be a number or null, not {document.get(key)!r}")
    tasks = document.get("tasks")
    if not isinstance(tasks, list) or not tasks:
        raise InputError(f"{where}: tasks must be a list with at least one task")
    seen: set[str] = set()
    for i, task in enumerate(tasks):
        _check_task(task, f"{where}: tasks[{i}]")
        if task["name"] in seen:
            raise InputError(f"{where}: the task {task['name']!r} occurs twice")
        seen.add(task["name"])
    total = math.fsum(task["weight"] for task in tasks)
    if abs(total - 1) > WEIGHT_TOLERANCE:
        raise InputError(
            f"{where}: the weights sum to {total!r}, not to 1 (`taskpgm export --mixture FILE` divides by the sum)"
        )
    if "recommended" in document:
        _check_recommended(tasks, where)
    examples = sum(task["count"] for task in tasks)
    if examples != document.get("examples"):
        raise InputError(f"{where}: the counts sum to {examples}, but examples is {document.get('examples')!r}")


def _check_recommended(tasks: list[dict[str, Any]], where: str) -> None:
    for task in tasks:
        weight, count = task.get("recommended_weight"), task.get("recommended_count")
        if not (_is_number(weight) and weight >= 0 and type(count) is int and count >= 0):
            raise InputError(
                f"{where}: the recommended weight and count of {task['name']!r} must be numbers >= 0, not {weight!r} "
                f"and {count!r}"
            )
    total = math.fsum(task["recommended_weight"] for task in tasks)
    if abs(total - 1) > WEIGHT_TOLERANCE:
        raise InputError(f"{where}: the recommended weights sum to {total!r}, not to 1")


def _check_task(task: Any, where: str) -> None:
    if not isinstance(task, dict):
        raise InputError(f"{where} must be an object, not {task!r}")
    if not isinstance(task.get("name"), str) or not task["name"]:
        raise InputError(f"{where}.name must be a non-empty string, not {task.get('name')!r}")
    if not _is_number(task.get("weight")) or task["weight"] < 0:
        raise InputError(f"{where}.weight of {task['name']!r} must be a number >= 0, not {task.get('weight')!r}")
    for key in ("count", "available"):
        value = task.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise InputError(f"{where}.{key} of {task['name']!r} must be a whole number >= 0, not {value!r}")
    if task["count"] and not task["available"]:
        raise InputError(f"{where}: {task['name']!r} is to give {task['count']} examples but has none")
    if task["count"] and not task["weight"]:
        raise InputError(f"{where}: {task['name']!r} has weight 0 but is to give {task['count']} examples")


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)
