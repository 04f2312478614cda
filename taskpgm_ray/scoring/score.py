"""Units of scoring: the supports of a segment (one base pass), and one adapter on one segment.

Scores are ``logprobs.parquet`` in a unit of their own: one row per position of the segment, in the segment's order,
with ``logprobs`` (fixed-size list of K float32, nats, in the order of the position's support).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from taskpgm_ray.config import ScoringConfig
from taskpgm_ray.errors import StorageError
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.scoring.engine import Engine, Query
from taskpgm_ray.scoring.segments import POSITIONS, SCHEMA, SegmentPlan, block_id, frequent_answers, positions, support
from taskpgm_ray.storage import Storage, Unit, fingerprint

LOGPROBS = "logprobs.parquet"
BASE = "base"


@dataclass(frozen=True)
class SegmentWork:
    """Build this segment."""

    plan: SegmentPlan
    config: ScoringConfig


@dataclass(frozen=True)
class ScoreWork:
    """Score this adapter (``None``: the base model) on this segment."""

    segment: Unit
    adapter: Unit | None
    unit: Unit


def score_work(
    segment: Unit, name: str, adapter: Unit | None, config: ScoringConfig, model: BaseModelRef, storage: Storage
) -> ScoreWork:
    """The work of scoring one adapter on one segment; its unit depends on both, and on the kind of scorer."""
    identity = fingerprint("score", segment.path, adapter.path if adapter else BASE, model.fingerprint, config.scorer)
    segment_name = segment.path.rpartition("/")[2]
    return ScoreWork(segment, adapter, Unit(storage, f"scores/{segment_name}/{name}-{identity}"))


def build_segment(engine: Engine, work: SegmentWork) -> dict[str, Any]:
    """Fix the supports of a segment by one pass of the base model, and store it."""
    unit = work.plan.unit
    if unit.done():
        return unit.manifest()
    rows: list[dict[str, Any]] = []
    answers: list[list[int]] = []
    for task in work.plan.tasks:
        block = positions(task, work.config)
        rows += block
        answers += [frequent_answers(task, work.config.answer_tokens)] * len(block)
    size = work.config.top_k + work.config.answer_tokens + 1
    tops = engine.top_tokens([row["prompt"] for row in rows], size)
    for row, answer, top in zip(rows, answers, tops, strict=True):
        row["support"] = support(row["gold"], answer, top.tolist(), size)
    unit.files.write_table(POSITIONS, pa.Table.from_pylist(rows, schema=SCHEMA))
    manifest = {
        "blocks": [block_id(task) for task in work.plan.tasks],
        "tasks": [task.name for task in work.plan.tasks],
        "positions": len(rows),
        "support": size,
    }
    unit.finish(manifest)
    return manifest


def score_unit(engine: Engine, work: ScoreWork) -> dict[str, Any]:
    """Score one adapter on one segment and store the distributions."""
    if work.unit.done():
        return work.unit.manifest()
    started = time.perf_counter()
    table = work.segment.files.read_table(POSITIONS, columns=["prompt", "support"])
    prompts, supports = table["prompt"].to_pylist(), table["support"].to_pylist()
    answers = engine.next_token([Query(p, s, work.adapter) for p, s in zip(prompts, supports, strict=True)])
    logprobs = np.stack([answer.logprobs for answer in answers])
    work.unit.files.write_table(LOGPROBS, _as_table(logprobs))
    manifest = {
        "positions": len(logprobs),
        "tokens": int(sum(map(len, prompts))),
        "coverage": float(np.exp(logprobs.astype(np.float64)).sum(axis=1).mean()),
        "seconds": round(time.perf_counter() - started, 3),
    }
    work.unit.finish(manifest)
    return manifest


def read_scores(unit: Unit) -> NDArray[np.float32]:
    """The stored distributions of one adapter on one segment: float32 [positions, K], nats.

    Raises:
        StorageError: The file is missing, damaged or not of the expected form.
    """
    column = unit.files.read_table(LOGPROBS)["logprobs"].combine_chunks()
    if not pa.types.is_fixed_size_list(column.type):
        raise StorageError(f"{unit.path}/{LOGPROBS} is not a table of distributions; remove its folder to redo it")
    return column.flatten().to_numpy().reshape(len(column), column.type.list_size)


def read_positions(unit: Unit, columns: Sequence[str] = ("task", "probe", "step", "gold", "support")) -> pa.Table:
    """The positions of a finished segment."""
    return unit.files.read_table(POSITIONS, columns=list(columns))


def _as_table(logprobs: NDArray[np.float32]) -> pa.Table:
    values = pa.FixedSizeListArray.from_arrays(pa.array(logprobs.ravel()), logprobs.shape[1])
    return pa.table({"logprobs": values}).replace_schema_metadata({"taskpgm.schema": "scores/1"})
