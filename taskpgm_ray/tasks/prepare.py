"""Prepared tasks: examples read, tokenised and split by content, one unit of the study per task.

Columns of ``examples.parquet``: ``id`` (content hash), ``split`` (``train``, ``probe`` or ``heldout``), ``prompt`` and
``response`` (text), ``prompt_ids`` and ``response_ids`` (token ids), ``cut`` (prompt shortened on the left).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property, partial
from typing import Any

import pyarrow as pa

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.errors import DataError, TaskPGMError
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.runtime.missing import missing
from taskpgm_ray.runtime.run import Run
from taskpgm_ray.storage import Storage, Unit, fingerprint
from taskpgm_ray.tasks.contamination import NOTHING, EvaluationTexts
from taskpgm_ray.tasks.sources import TaskSource, data_set, task_sources
from taskpgm_ray.tasks.tokens import encode, prompt_text

EXAMPLES = "examples.parquet"


@dataclass(frozen=True)
class TaskFacts:
    """What is known of a prepared task: the content of its manifest."""

    name: str
    source: str
    """Kind of its source."""
    group: str
    """The data set that it comes from; the parts of one data set share it."""
    train: int
    """Examples to train on."""
    probes: int
    train_tokens: int
    """Tokens of all examples to train on, prompt and response."""
    train_content: str
    """Fingerprint of the examples to train on, their answers included; the next two likewise."""
    probe_content: str
    heldout_content: str
    read: int
    """Examples that were read; the next four say what became of those that are not in the task."""
    repeats: int
    too_long: int
    evaluated: int
    """Dropped, because they repeat evaluation items."""
    cut: int
    """Prompts that lost tokens on their left."""

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> TaskFacts:
        """From a manifest, which may hold more than this version reads."""
        return cls(**{field.name: manifest[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class Task:
    """A prepared task: its unit, and what the later stages ask of it."""

    name: str
    unit: Unit

    @cached_property
    def facts(self) -> TaskFacts:
        """Counts and content hashes."""
        return TaskFacts.of(self.unit.manifest())

    def examples(self, split: str) -> list[tuple[list[int], list[int]]]:
        """(prompt_ids, response_ids) of the examples of one split, in the order of their content hash."""
        table = self.table(split)
        return list(zip(table["prompt_ids"].to_pylist(), table["response_ids"].to_pylist(), strict=True))

    def table(self, split: str) -> pa.Table:
        """All columns of one split."""
        import pyarrow.compute as pc

        table = self.unit.files.read_table(EXAMPLES)
        return table.filter(pc.equal(table["split"], split))


def task_units(
    config: StudyConfig, model: BaseModelRef, storage: Storage, evaluated: EvaluationTexts = NOTHING
) -> list[tuple[TaskSource, Unit]]:
    """Every task of the pool with the unit that holds, or will hold, its prepared examples."""
    relevant = (
        config.pool.max_examples,
        config.pool.probes_per_task,
        config.pool.heldout_per_task,
        evaluated.identity,
        config.model.prompt_format,
        config.model.max_length,
        config.seed,
        model.fingerprint,
    )
    return [
        (source, Unit(storage, f"tasks/{source.name}-{fingerprint('task', source.name, source.identity(), *relevant)}"))
        for source in task_sources(config.pool)
    ]


def prepare_tasks(run: Run, evaluated: EvaluationTexts = NOTHING) -> list[Task]:
    """Prepare every task that is not prepared yet, in parallel on Ray Data.

    Args:
        run: Its config says what the pool is, its model has the tokenizer.
        evaluated: Texts of the evaluation's items; examples that repeat them are dropped.

    Raises:
        DataError: One or more tasks are unusable; the message names them all, each with file and line.
    """
    planned = [_Planned(*pair) for pair in task_units(run.config, run.model, run.storage, evaluated)]
    with missing(run, "tasks", planned) as (stage, todo):
        errors = _prepare_on_ray_data(todo, run.config, run.model, evaluated) if todo else []
        if errors:
            raise DataError("\n".join(errors))
        for one in todo:
            facts = Task(one.source.name, one.unit).facts
            stage.finished(
                f"{facts.name}: {facts.train} to train on, {facts.probes} probes, {facts.repeats} repeats and "
                f"{facts.too_long} over-long dropped, {facts.cut} prompts cut"
                + (f", {facts.evaluated} dropped that repeat evaluation items" if facts.evaluated else "")
            )
    return [Task(one.source.name, one.unit) for one in planned]


@dataclass(frozen=True)
class _Planned:
    """A task of the pool, and where it lies once it is prepared."""

    source: TaskSource
    unit: Unit


def prepare_one(
    source: TaskSource, unit: Unit, config: StudyConfig, model: BaseModelRef, evaluated: EvaluationTexts = NOTHING
) -> None:
    """Read, tokenise, split and store one task.

    The split is by rank of the content hash: which examples are probes depends on their content alone, not on the
    order of a file, and no example (repeats are dropped) is on both sides.

    Raises:
        DataError: No usable example, or not more than probes are wanted.
    """
    rows, dropped = _encode_all(source, config, model.tokenizer(), evaluated)
    probes, kept = config.pool.probes_per_task, config.pool.probes_per_task + config.pool.heldout_per_task
    if len(rows) <= kept:
        raise DataError(
            f"task {source.name!r} has {len(rows)} usable different examples ({dropped['repeats']} repeats, "
            f"{dropped['too_long']} over-long responses and {dropped['evaluated']} that repeat evaluation items "
            f"dropped), which is not more than the {kept} kept as probes or held out; lower pool.probes_per_task or "
            "heldout_per_task, raise model.max_length, or drop the task"
        )
    rows.sort(key=lambda row: row["id"])
    for rank, row in enumerate(rows):
        row["split"] = "probe" if rank < probes else "heldout" if rank < kept else "train"
    train, probe, heldout = rows[kept:], rows[:probes], rows[probes:kept]
    unit.files.write_table(EXAMPLES, pa.Table.from_pylist(rows))
    facts = TaskFacts(
        name=source.name,
        source=type(data_set(source)).__name__,
        group=data_set(source).name,
        train=len(train),
        probes=len(probe),
        train_tokens=sum(len(r["prompt_ids"]) + len(r["response_ids"]) for r in train),
        train_content=_content(train),
        probe_content=_content(probe),
        heldout_content=_content(heldout),
        **dropped,
    )
    unit.finish(asdict(facts))


def _content(rows: list[dict[str, Any]]) -> str:
    """What is trained on or asked for: the token ids of prompts and responses, so that a mended answer is another."""
    return fingerprint([[row["id"], row["prompt_ids"], row["response_ids"]] for row in rows])


def _prepare_on_ray_data(
    todo: list[_Planned], config: StudyConfig, model: BaseModelRef, evaluated: EvaluationTexts
) -> list[str]:
    """Prepare the given tasks; returns what was wrong with those that could not be."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Ray Data reports its own execution on the terminal; all of it is in its log files as well.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # The rows are only numbers: sources and units are objects, which Arrow cannot hold.
    shared = ray.put((todo, config, model, evaluated))
    # One block a task: a pool of thousands spreads over the cluster, and a slow source holds up only itself.
    rows = ray.data.range(len(todo), override_num_blocks=len(todo))
    outcome = rows.map(partial(_prepare_row, shared)).take_all()
    return [row["error"] for row in sorted(outcome, key=lambda row: row["id"]) if row["error"]]


def _prepare_row(shared: Any, row: dict[str, Any]) -> dict[str, Any]:
    import ray

    todo, config, model, evaluated = ray.get(shared)
    one = todo[row["id"]]
    try:
        prepare_one(one.source, one.unit, config, model, evaluated)
    except TaskPGMError as error:
        return {"id": row["id"], "error": str(error)}
    return {"id": row["id"], "error": ""}


def _encode_all(
    source: TaskSource, config: StudyConfig, tokenizer: Any, evaluated: EvaluationTexts
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The different, fitting examples as rows, and how many were repeats, too long, evaluation items, or cut."""
    rows: dict[str, dict[str, Any]] = {}
    facts = {"read": 0, "repeats": 0, "too_long": 0, "evaluated": 0, "cut": 0}
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
        if evaluated.shares_a_run_with(" ".join(content for _, content in example.turns)):
            facts["evaluated"] += 1
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
