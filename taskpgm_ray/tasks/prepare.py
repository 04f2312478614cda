"""Prepared tasks: examples read, tokenised and split by content, one unit of the study per task.

Columns of ``examples.parquet``: ``id`` (content hash), ``split`` (``train``, ``probe`` or ``heldout``), ``prompt`` and
``response`` (text), ``prompt_ids`` and ``response_ids`` (token ids), ``cut`` (the prompt lost its middle).
``bad_rows.jsonl`` beside it lists the rows that were skipped: ``where`` (file and line) and ``why``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
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
from taskpgm_ray.tasks.example import BadRow, few
from taskpgm_ray.tasks.sources import TaskSource, data_set, survey, task_sources
from taskpgm_ray.tasks.split import Split, content_of, split_task

EXAMPLES = "examples.parquet"
BAD_ROWS = "bad_rows.jsonl"
READING = 3
"""Version of what becomes of a row, from file to token ids. With another one tasks are prepared anew; what was made of
them stays where the ids are the same."""


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
    """Fingerprint of the token ids of the examples to train on; the next two likewise."""
    probe_content: str
    heldout_content: str
    read: int
    """Rows that were read; those of the next that are counts say what became of the ones that are not in the task."""
    repeats: int
    too_long: int
    evaluated: int
    """Dropped, because they repeat evaluation items."""
    cut: int
    """Prompts that lost their middle."""
    bad: int = 0
    """Rows that are no examples; with those that are too long they are listed in ``bad_rows.jsonl``."""
    size: int | None = None
    """Rows that the data set has; ``None`` in what was prepared before this was recorded."""
    layout: str = ""
    """How its rows hold prompt and response."""
    withheld: int = 0
    """Training examples that are not trained, because they are probed, held out or evaluated; 0 in the manifest."""

    @property
    def available(self) -> int:
        """Examples to train on that the source has: those here, and the rows that `pool.max_examples` left out."""
        return self.train if self.size is None or self.size <= self.read else self.size - self.read + self.train

    @property
    def tokens_per_example(self) -> float:
        """Mean tokens of an example to train on, prompt and response."""
        return self.train_tokens / self.train

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> TaskFacts:
        """From a manifest, which may hold more than this version reads, or less where a field has a default."""
        needed = (f.name for f in fields(cls) if f.default is MISSING or f.name in manifest)
        return cls(**{name: manifest[name] for name in needed})


@dataclass(frozen=True)
class Withheld:
    """Training examples of a task that are not trained, and what is left: see `separation`."""

    ids: frozenset[str]
    train: int
    """Of what is left; the next two likewise, as in `TaskFacts`."""
    train_tokens: int
    train_content: str
    unit: str = field(default="", compare=False)
    """The folder of the study that lists them."""


@dataclass(frozen=True)
class Task:
    """A prepared task: its unit, and what the later stages ask of it."""

    name: str
    unit: Unit
    withheld: Withheld | None = None
    """``None``: everything of its split ``train`` is trained."""

    @cached_property
    def facts(self) -> TaskFacts:
        """Counts and content hashes, of training examples those that are trained."""
        facts, apart = TaskFacts.of(self.unit.manifest()), self.withheld
        if apart is None:
            return facts
        return replace(
            facts,
            train=apart.train,
            train_tokens=apart.train_tokens,
            train_content=apart.train_content,
            withheld=len(apart.ids),
        )

    def examples(self, split: str) -> list[tuple[list[int], list[int]]]:
        """(prompt_ids, response_ids) of the examples of one split, in the order of their content hash."""
        table = self.table(split)
        return list(zip(table["prompt_ids"].to_pylist(), table["response_ids"].to_pylist(), strict=True))

    def table(self, *splits: str) -> pa.Table:
        """All columns of one split or several; of ``train`` what is trained."""
        import pyarrow.compute as pc

        table = self.unit.files.read_table(EXAMPLES)
        table = table.filter(pc.is_in(table["split"], value_set=pa.array(splits, pa.string())))
        if "train" in splits and self.withheld is not None:
            apart = pa.array(sorted(self.withheld.ids), pa.string())
            table = table.filter(pc.invert(pc.is_in(table["id"], value_set=apart)))
        return table


def task_units(
    config: StudyConfig, model: BaseModelRef, storage: Storage, evaluated: EvaluationTexts = NOTHING
) -> list[tuple[TaskSource, Unit]]:
    """Every task of the pool with the unit that holds, or will hold, its prepared examples."""
    return [(source, _now(source, storage, config, model, evaluated)) for source in task_sources(config.pool)]


def _now(
    source: TaskSource, storage: Storage, config: StudyConfig, model: BaseModelRef, evaluated: EvaluationTexts
) -> Unit:
    """Where a task lies as it is read now."""
    now = (config.pool.separator, config.pool.duplicates, READING)
    return _unit(source, storage, config, model, evaluated, *now)


def _unit(
    source: TaskSource,
    storage: Storage,
    config: StudyConfig,
    model: BaseModelRef,
    evaluated: EvaluationTexts,
    *now: Any,
) -> Unit:
    relevant = (
        config.pool.max_examples,
        config.pool.probes_per_task,
        config.pool.heldout_per_task,
        evaluated.identity,
        config.model.prompt_format,
        config.model.max_length,
        config.seed,
        model.fingerprint,
        *now,
    )
    return Unit(storage, f"tasks/{source.name}-{fingerprint('task', source.name, source.identity(), *relevant)}")


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
        for note in survey(run.config.pool)[1] if todo else []:
            stage.note(note)
        errors = _prepare_on_ray_data(todo, run.config, run.model, evaluated) if todo else []
        if errors:
            raise DataError("\n".join(errors))
        for one in todo:
            facts = Task(one.source.name, one.unit).facts
            stage.finished(
                f"{facts.name}: {facts.train} to train on, {facts.probes} probes, {facts.repeats} repeats and "
                f"{facts.too_long} over-long dropped, {facts.cut} prompts cut"
                + (f", {facts.evaluated} dropped that repeat evaluation items" if facts.evaluated else "")
                + (f", {facts.read} of {facts.size} rows drawn" if facts.size and facts.size > facts.read else "")
                + (f", skipped {few(bad_rows(one.unit))}" if facts.bad or facts.too_long else "")
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
        DataError: See `split_task`; or what was read is not what the unit is named by.
    """
    made = split_task(source, config, model.tokenizer(), evaluated)
    if _now(source, unit.storage, config, model, evaluated).path != unit.path:
        raise DataError(
            f"task {source.name!r}: its data are not those that this run started with (changed since, or another "
            "node's copy differs); put the same data on all nodes, and start the command again"
        )
    earlier = _unit(source, unit.storage, config, model, evaluated)
    content = partial(_content, made, earlier=Task(source.name, earlier) if earlier.done() else None)
    unit.files.write_table(EXAMPLES, pa.Table.from_pylist(made.rows))
    if made.bad:
        unit.files.write_bytes(BAD_ROWS, "".join(f"{json.dumps(asdict(row))}\n" for row in made.bad).encode())
    train, probe = made.of("train"), made.of("probe")
    facts = TaskFacts(
        name=source.name,
        source=type(data_set(source)).__name__,
        group=data_set(source).name,
        train=len(train),
        probes=len(probe),
        train_tokens=sum(len(r["prompt_ids"]) + len(r["response_ids"]) for r in train),
        train_content=content("train"),
        probe_content=content("probe"),
        heldout_content=content("heldout"),
        size=made.size,
        layout=made.layout,
        **made.dropped,
    )
    unit.finish(asdict(facts))


def _content(made: Split, split: str, earlier: Task | None) -> str:
    """The content of a split: that of the ``earlier`` reading where it gave the same ids.

    Its fingerprint, which may have been made otherwise, names what was made of the task.
    """
    rows = made.of(split)
    if earlier and earlier.examples(split) == [(row["prompt_ids"], row["response_ids"]) for row in rows]:
        return str(getattr(earlier.facts, f"{split}_content"))
    return content_of(rows)


def bad_rows(unit: Unit) -> list[BadRow]:
    """The rows that were skipped when a task was prepared, in the order of its file."""
    if not unit.files.exists(BAD_ROWS):
        return []
    return [BadRow(**json.loads(line)) for line in unit.files.read_bytes(BAD_ROWS).splitlines()]


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
