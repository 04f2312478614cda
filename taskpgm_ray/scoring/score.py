"""Units of scoring: the supports of a segment (one base pass), and one adapter on one segment.

The format of the files is described in docs/storage.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from taskpgm_ray.config import ScoringConfig
from taskpgm_ray.errors import ScoringError, StorageError, TaskPGMError
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.scoring.engine import Engine, Query
from taskpgm_ray.scoring.segments import POSITIONS, SCHEMA, SegmentPlan, frequent_answers, positions, support
from taskpgm_ray.storage import Storage, Unit, fingerprint

LOGPROBS = "logprobs.parquet"
BASE = "base"
ROW_GROUP = 256
"""Positions in one row group: the affinity job reads whole row groups of every adapter's file."""


@dataclass(frozen=True)
class SegmentWork:
    """Build this segment."""

    plan: SegmentPlan
    config: ScoringConfig


@dataclass(frozen=True)
class ScoreWork:
    """Score this adapter (``None``: the base model) on this segment."""

    name: str
    """Whose scores they are: the adapter's task, or `BASE`."""
    segment: Unit
    adapter: Unit | None
    unit: Unit
    precision: str = "float32"


def score_work(
    segment: Unit,
    name: str,
    adapter: Unit | None,
    config: ScoringConfig,
    scorer: str,
    model: BaseModelRef,
    storage: Storage,
) -> ScoreWork:
    """The work of scoring one adapter on one segment; its unit depends on both, and on the kind of scorer."""
    identity = fingerprint(
        "score", segment.path, adapter.path if adapter else BASE, model.fingerprint, scorer, config.precision
    )
    segment_name = segment.path.rpartition("/")[2]
    return ScoreWork(
        name, segment, adapter, Unit(storage, f"scores/{segment_name}/{name}-{identity}"), config.precision
    )


def build_segment(engine: Engine, work: SegmentWork) -> dict[str, Any]:
    """Fix the supports of a segment by one pass of the base model, and store it."""
    unit = work.plan.unit
    if unit.done():
        return unit.manifest()
    rows: list[dict[str, Any]] = []
    answers: list[list[int]] = []
    probes = []
    for block in work.plan.blocks:
        own = positions(block, work.config)
        rows += own
        answers += [frequent_answers(block.task, work.config.answer_tokens)] * len(own)
        probes.append(sum(row["step"] == 0 for row in own))
    size = work.config.support
    tops = engine.top_tokens([row["prompt"] for row in rows], size)
    for row, answer, top in zip(rows, answers, tops, strict=True):
        row["support"] = support(row["gold"], answer, top.tolist(), size)
    unit.files.write_table(POSITIONS, pa.Table.from_pylist(rows, schema=SCHEMA))
    manifest = {
        "schema": SCHEMA.metadata[b"taskpgm.schema"].decode(),
        "blocks": [block.id for block in work.plan.blocks],
        "tasks": [task.name for task in work.plan.tasks],
        "probes": probes,
        "positions": len(rows),
        "support": size,
    }
    unit.finish(manifest)
    return manifest


def score_units(engine: Engine, works: Sequence[ScoreWork]) -> list[dict[str, Any] | TaskPGMError]:
    """Score the units in one batch of the engine and store each; what is finished already is not scored again.

    Args:
        engine: The engine.
        works: Units of different adapters, not more than the engine holds at one time.

    Returns:
        The manifest of each unit, or what is wrong with it; the others are not affected.
    """
    started = time.perf_counter()
    outcomes: dict[int, dict[str, Any] | TaskPGMError] = {}
    batch: list[tuple[int, list[Query]]] = []
    for index, work in enumerate(works):
        if work.unit.done():
            outcomes[index] = work.unit.manifest()
            continue
        try:
            if work.adapter is not None:
                engine.check(work.adapter)
            batch.append((index, queries_of(work)))
        except TaskPGMError as error:
            outcomes[index] = error
    rows = engine.score([query for _, queries in batch for query in queries])
    seconds, tokens = time.perf_counter() - started, sum(len(q.prompt) for _, queries in batch for q in queries)
    for index, queries in batch:
        own, rows = np.stack(rows[: len(queries)]), rows[len(queries) :]
        prompts = sum(len(query.prompt) for query in queries)
        cost = {"tokens": prompts, "seconds": round(seconds * prompts / tokens, 3), "method": engine.method}
        outcomes[index] = store_scores(works[index], own, cost)
    return [outcomes[index] for index in range(len(works))]


def queries_of(work: ScoreWork) -> list[Query]:
    """What the engine is asked for one unit, in the order of the segment's positions."""
    return [Query(prompt, tokens, work.adapter) for prompt, tokens in _prompts(work.segment)]


@lru_cache(maxsize=1)
def _prompts(segment: Unit) -> list[tuple[list[int], list[int]]]:
    """(prompt, support) of every position; one adapter after the other is scored on the same ones."""
    table = segment.files.read_table(POSITIONS, columns=["prompt", "support"])
    return list(zip(table["prompt"].to_pylist(), table["support"].to_pylist(), strict=True))


def store_scores(work: ScoreWork, logprobs: NDArray[np.float32], cost: dict[str, Any]) -> dict[str, Any] | ScoringError:
    """Write one unit: the distributions [positions, K], then its manifest, which is returned."""
    broken = np.flatnonzero(~np.isfinite(logprobs).all(axis=1))
    if len(broken):
        return ScoringError(
            f"{work.name} gives non-finite log-probabilities at {len(broken)} of {len(logprobs)} positions of "
            f"{work.segment.path}, the first at row {broken[0]} of {POSITIONS}: look for NaN in its adapter "
            f"({work.adapter.path if work.adapter else 'the base model'})"
        )
    work.unit.files.write_table(
        LOGPROBS, _as_table(logprobs, work.precision), row_group_size=ROW_GROUP, use_dictionary=False
    )
    manifest = {
        "schema": "scores/2",
        "positions": len(logprobs),
        "support": logprobs.shape[1],
        "coverage": float(np.exp(logprobs, dtype=np.float64).sum(axis=1).mean()),
        **cost,
    }
    work.unit.finish(manifest)
    return manifest


def read_scores(unit: Unit, rows: slice | None = None) -> NDArray[np.float32]:
    """The stored distributions of one adapter on one segment: float32 [positions, K], nats.

    Args:
        unit: The scores.
        rows: Positions to read; all if None.

    Raises:
        StorageError: The file is missing, damaged or not of the expected form.
    """
    where = f"{unit.path}/{LOGPROBS}"
    manifest = unit.manifest()
    rows = rows or slice(0, manifest["positions"])
    table = unit.files.read_rows(LOGPROBS, rows)
    kind = table.schema.field("logprobs").type if "logprobs" in table.column_names else None
    if kind is None or not pa.types.is_fixed_size_list(kind) or kind.list_size != manifest["support"]:
        raise StorageError(f"{where} is not a table of distributions; remove its folder to redo it")
    if len(table) != rows.stop - rows.start:
        raise StorageError(f"{where} ends before row {rows.stop}; remove its folder to redo it")
    values = table["logprobs"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    logprobs = values.reshape(-1, kind.list_size).astype(np.float32)
    if not (logprobs <= 1e-5).all() or not np.isfinite(logprobs).all():
        raise StorageError(f"{where} holds values that are no log-probabilities; remove its folder to redo it")
    if kind.value_type == pa.float16():
        # Rounded probabilities may sum to more than one.
        total = np.exp(logprobs, dtype=np.float64).sum(axis=1, keepdims=True)
        logprobs -= np.log(np.maximum(total, 1.0)).astype(np.float32)
    return logprobs


def read_positions(unit: Unit, columns: Sequence[str] = ("task", "probe", "step", "gold", "support")) -> pa.Table:
    """The positions of a finished segment."""
    return unit.files.read_table(POSITIONS, columns=list(columns))


def _as_table(logprobs: NDArray[np.float32], precision: str) -> pa.Table:
    # Rounding up to a probability above one would make the table unreadable; nothing else is near zero.
    flat = pa.array(np.minimum(logprobs, 0.0).astype(precision).ravel())
    values = pa.FixedSizeListArray.from_arrays(flat, logprobs.shape[1])
    return pa.table({"logprobs": values}).replace_schema_metadata({"taskpgm.schema": "scores/2"})
