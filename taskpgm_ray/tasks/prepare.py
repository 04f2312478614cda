"""Prepared tasks: examples read, tokenised and split by content, one unit of the study per task.

Columns of ``examples.parquet``: ``id`` (content hash), ``split`` (``train`` or ``probe``), ``prompt`` and ``response``
(text), ``prompt_ids`` and ``response_ids`` (token ids), ``cut`` (prompt shortened on the left).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.errors import DataError, TaskPGMError
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.storage import Storage, Unit, fingerprint
from taskpgm_ray.tasks.sources import TaskSource, task_sources
from taskpgm_ray.tasks.tokens import encode, prompt_text

EXAMPLES = "examples.parquet"


@dataclass(frozen=True)
class Task:
    """A prepared task: its unit, and what the later stages ask of it."""

    name: str
    unit: Unit

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Counts and content hashes, see `prepare_one`."""
        return self.unit.manifest()

    def examples(self, split: str) -> list[tuple[list[int], list[int]]]:
        """(prompt_ids, response_ids) of the examples of one split, in the order of their content hash."""
        table = self.table(split)
        return list(zip(table["prompt_ids"].to_pylist(), table["response_ids"].to_pylist(), strict=True))

    def table(self, split: str) -> pa.Table:
        """All columns of one split."""
        table = self.unit.files.read_table(EXAMPLES)
        return table.filter(pa.compute.equal(table["split"], split))


def task_units(config: StudyConfig, model: BaseModelRef, storage: Storage) -> list[tuple[TaskSource, Unit]]:
    """Every task of the pool with the unit that holds, or will hold, its prepared examples."""
    relevant = (
        config.pool.max_examples,
        config.pool.probes_per_task,
        config.model.prompt_format,
        config.model.max_length,
        config.seed,
        model.fingerprint,
    )
    return [
        (source, Unit(storage, f"tasks/{source.name}-{fingerprint('task', source.name, source.identity(), *relevant)}"))
        for source in task_sources(config.pool)
    ]


def prepare_tasks(config: StudyConfig, model: BaseModelRef, storage: Storage) -> list[Task]:
    """Prepare every task that is not prepared yet, in parallel on Ray Data.

    Raises:
        DataError: One or more tasks are unusable; the message names them all, each with file and line.
    """
    units = task_units(config, model, storage)
    todo = [(source, unit) for source, unit in units if not unit.done()]
    if todo:
        import ray

        rows = [{"source": source, "unit": unit, "config": config, "model": model} for source, unit in todo]
        # One block a task: a pool of thousands spreads over the cluster, and a slow source holds up only itself.
        outcome = ray.data.from_items(rows, override_num_blocks=len(rows)).map(_prepare_row).take_all()
        errors = [row["error"] for row in outcome if row["error"]]
        if errors:
            raise DataError("\n".join(errors))
    return [Task(source.name, unit) for source, unit in units]


def prepare_one(source: TaskSource, unit: Unit, config: StudyConfig, model: BaseModelRef) -> None:
    """Read, tokenise, split and store one task.

    The split is by rank of the content hash: which examples are probes depends on their content alone, not on the
    order of a file, and no example (repeats are dropped) is on both sides.

    Raises:
        DataError: No usable example, or not more than probes are wanted.
    """
    rows, facts = _encode_all(source, config, model.tokenizer())
    probes = config.pool.probes_per_task
    if len(rows) <= probes:
        raise DataError(
            f"task {source.name!r} has {len(rows)} usable different examples ({facts['repeats']} repeats and "
            f"{facts['too_long']} over-long responses dropped), which is not more than the {probes} kept as probes; "
            "lower pool.probes_per_task, raise model.max_length, or drop the task"
        )
    rows.sort(key=lambda row: row["id"])
    for rank, row in enumerate(rows):
        row["split"] = "probe" if rank < probes else "train"
    train, probe = rows[probes:], rows[:probes]
    unit.files.write_table(EXAMPLES, pa.Table.from_pylist(rows))
    unit.finish(
        {
            "name": source.name,
            "source": type(source).__name__,
            "train": len(train),
            "probes": len(probe),
            "train_tokens": sum(len(r["prompt_ids"]) + len(r["response_ids"]) for r in train),
            "train_content": fingerprint([r["id"] for r in train]),
            "probe_content": fingerprint([r["id"] for r in probe]),
            **facts,
        }
    )


def _prepare_row(row: dict[str, Any]) -> dict[str, Any]:
    try:
        prepare_one(row["source"], row["unit"], row["config"], row["model"])
    except TaskPGMError as error:
        return {"error": str(error)}
    return {"error": ""}


def _encode_all(source: TaskSource, config: StudyConfig, tokenizer: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The different, fitting examples as rows, and how many were repeats, too long, or cut."""
    rows: dict[str, dict[str, Any]] = {}
    facts = {"read": 0, "repeats": 0, "too_long": 0, "cut": 0}
    style, longest = config.model.prompt_format, config.model.max_length
    for number, example in enumerate(source.examples(config.pool.max_examples, config.seed)):
        where = f"task {source.name!r}, example {number}"
        encoded = encode(example, tokenizer, style, longest, where)
        # Examples with the same prompt count as one: a probe must not repeat a question that was trained on.
        key = fingerprint(config.seed, example.turns)
        facts["read"] += 1
        facts["too_long"] += encoded is None
        facts["repeats"] += key in rows
        if encoded is None or key in rows:
            continue
        facts["cut"] += encoded.cut
        rows[key] = {
            "id": key,
            "prompt": prompt_text(example, style, where),
            "response": example.response,
            "prompt_ids": encoded.prompt,
            "response_ids": encoded.response,
            "cut": encoded.cut,
        }
    return list(rows.values()), facts
