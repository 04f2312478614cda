"""Prepared tasks: examples read, tokenised and split by content, one unit of the study per task.

Columns of ``examples.parquet``: ``id`` (content hash), ``split`` (``train``, ``probe`` or ``heldout``), ``prompt`` and
``response`` (text), ``prompt_ids`` and ``response_ids`` (token ids), ``cut`` (prompt shortened on the left).
``bad_rows.jsonl`` beside it lists the rows that were skipped: ``where`` (file and line) and ``why``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
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
from taskpgm_ray.tasks.example import BadRow, check_bad, few
from taskpgm_ray.tasks.sources import TaskSource, data_set, survey, task_sources
from taskpgm_ray.tasks.tokens import encode, prompt_text

EXAMPLES = "examples.parquet"
BAD_ROWS = "bad_rows.jsonl"


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
    """Prompts that lost tokens on their left."""
    bad: int = 0
    """Rows that are no examples; with those that are too long they are listed in ``bad_rows.jsonl``."""
    size: int | None = None
    """Rows that the data set has; ``None`` in what was prepared before this was recorded."""
    layout: str = ""
    """How its rows hold prompt and response."""
    withheld: int = 0
    """Training examples that are not trained, because they are probed, held out or evaluated; 0 in the manifest."""

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
        DataError: See `split_task`.
    """
    made = split_task(source, config, model.tokenizer(), evaluated)
    unit.files.write_table(EXAMPLES, pa.Table.from_pylist(made.rows))
    if made.bad:
        unit.files.write_bytes(BAD_ROWS, "".join(f"{json.dumps(asdict(row))}\n" for row in made.bad).encode())
    train, probe, heldout = made.of("train"), made.of("probe"), made.of("heldout")
    facts = TaskFacts(
        name=source.name,
        source=type(data_set(source)).__name__,
        group=data_set(source).name,
        train=len(train),
        probes=len(probe),
        train_tokens=sum(len(r["prompt_ids"]) + len(r["response_ids"]) for r in train),
        train_content=content_of(train),
        probe_content=content_of(probe),
        heldout_content=content_of(heldout),
        size=made.size,
        layout=made.layout,
        **made.dropped,
    )
    unit.finish(asdict(facts))


def bad_rows(unit: Unit) -> list[BadRow]:
    """The rows that were skipped when a task was prepared, in the order of its file."""
    if not unit.files.exists(BAD_ROWS):
        return []
    return [BadRow(**json.loads(line)) for line in unit.files.read_bytes(BAD_ROWS).splitlines()]


@dataclass(frozen=True)
class Split:
    """A task's examples, encoded and divided, before they are stored."""

    rows: list[dict[str, Any]]
    """As in ``examples.parquet``."""
    dropped: dict[str, int]
    """The counts of `TaskFacts`: ``read``, ``repeats``, ``too_long``, ``evaluated``, ``cut``, ``bad``."""
    bad: list[BadRow]
    """Rows that are no examples, and rows with over-long responses."""
    size: int
    layout: str
    order: list[str]
    """Ids of the rows as the file has them."""

    def of(self, split: str) -> list[dict[str, Any]]:
        """The rows of one split."""
        return [row for row in self.rows if row["split"] == split]


def split_task(source: TaskSource, config: StudyConfig, tokenizer: Any, evaluated: EvaluationTexts = NOTHING) -> Split:
    """Read, tokenise and split one task.

    Raises:
        DataError: It cannot be read, has too many bad rows, no usable example, or not more than probes are wanted.
    """
    prompts, made = _encode_all(source, config, tokenizer, evaluated)
    probes, kept = config.pool.probes_per_task, config.pool.probes_per_task + config.pool.heldout_per_task
    if len(prompts) <= kept:
        raise DataError(
            f"task {source.name!r} has {len(prompts)} usable different examples ({made.dropped['repeats']} repeats, "
            f"{made.dropped['too_long']} over-long responses and {made.dropped['evaluated']} that repeat evaluation "
            f"items dropped), which is not more than the {kept} kept as probes or held out; examples with the same "
            "prompt count as one. Lower pool.probes_per_task or heldout_per_task, raise model.max_length, or drop the "
            "task"
        )
    for rank, key in enumerate(sorted(prompts)):
        split = "probe" if rank < probes else "heldout" if rank < kept else "train"
        # Of a prompt with several answers all are learned; probing or holding out asks each prompt once.
        chosen = prompts[key] if split == "train" else prompts[key][:1]
        made.dropped["repeats"] += len(prompts[key]) - len(chosen)
        made.rows.extend({**row, "split": split} for row in chosen)
    return made


def content_of(rows: list[dict[str, Any]]) -> str:
    """What is learned or asked: prompts and responses as the model sees them."""
    return fingerprint([(row["id"], row["prompt_ids"], row["response_ids"]) for row in rows])


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
) -> tuple[dict[str, list[dict[str, Any]]], Split]:
    """Content hash of a prompt -> rows of its answers; and what became of all rows that were read."""
    style, longest = config.model.prompt_format, config.model.max_length
    reading = source.read(config.pool.max_examples, config.seed)
    prompts: dict[str, list[dict[str, Any]]] = {}
    facts = {"read": len(reading.bad), "repeats": 0, "too_long": 0, "evaluated": 0, "cut": 0, "bad": len(reading.bad)}
    bad = list(reading.bad)
    order: list[str] = []
    latest = ""
    for row in reading.rows:
        example, where = row.example, f"task {source.name!r}, {row.where}"
        encoded = encode(example, tokenizer, style, longest, where)
        # Examples with the same prompt count as one: a probe must not repeat a question that was trained on.
        key = fingerprint(config.seed, *example.prompt_key())
        facts["read"] += 1
        if encoded is None:
            facts["too_long"] += 1
            bad.append(BadRow(row.where, f"the response is longer than model.max_length ({longest})"))
            continue
        # Further answers of the same row are no repeats, unless its first is.
        if key in prompts and not (example.answer and key == latest):
            facts["repeats"] += 1
            latest = ""
            continue
        if evaluated.shares_a_run_with(" ".join(content for _, content in example.turns)):
            facts["evaluated"] += 1
            continue
        facts["cut"] += encoded.cut
        latest = key
        answers = prompts.setdefault(key, [])
        order.append(fingerprint(key, len(answers)) if answers else key)
        answers.append(
            {
                "id": order[-1],
                "prompt": prompt_text(example, style, where),
                "response": example.response,
                "prompt_ids": encoded.prompt,
                "response_ids": encoded.response,
                "cut": encoded.cut,
            }
        )
    check_bad(source.name, bad, facts["read"], config.pool.bad_rows == "stop", config.pool.max_bad_share)
    return prompts, Split([], facts, bad, reading.size, reading.layout, order)
