"""The probe set: blocks of scored positions, one block a task, packed into append-only segments.

A segment is a unit with ``positions.parquet``: one row per scored position.

========== ============ ==============================================================
``task``   string       the task whose probe this is
``probe``  string       content hash of the probe example
``step``   int32        0 for the first answer token
``prompt`` list<int32>  context and the gold answer so far
``gold``   int32        the right next token
``support`` list<int32> K token ids, common to all models; whatever lies outside is one tail bucket
========== ============ ==============================================================

The support of a position depends only on the base model and on its own task, never on the other tasks or adapters: so
a task that is added later changes no old position.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from taskpgm_ray.config import ScoringConfig
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.storage import Storage, Unit, fingerprint
from taskpgm_ray.tasks.prepare import Task

POSITIONS = "positions.parquet"
SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("probe", pa.string()),
        ("step", pa.int32()),
        ("prompt", pa.list_(pa.int32())),
        ("gold", pa.int32()),
        ("support", pa.list_(pa.int32())),
    ],
    metadata={"taskpgm.schema": "segment/2"},
)


@dataclass(frozen=True)
class SegmentPlan:
    """A segment, finished or still to be built."""

    unit: Unit
    tasks: tuple[Task, ...]
    """The tasks whose blocks it holds; of a finished segment, those that are still in the pool."""


def plan_segments(
    tasks: Sequence[Task], config: ScoringConfig, model: BaseModelRef, storage: Storage
) -> list[SegmentPlan]:
    """Every task's block in exactly one segment: finished segments first, then new ones for the blocks they lack."""
    design = fingerprint("design-2", config.top_k, config.answer_tokens, config.positions_per_probe, model.fingerprint)
    folder = f"segments/{design}"
    wanted = {block_id(task): task for task in tasks}
    plans = []
    for name in storage.names(folder):
        unit = Unit(storage, f"{folder}/{name}")
        if unit.done():
            held = tuple(wanted.pop(block) for block in unit.manifest()["blocks"] if block in wanted)
            if held:
                plans.append(SegmentPlan(unit, held))
    for group in _packed(list(wanted.values()), config):
        identity = fingerprint(design, [block_id(task) for task in group])
        plans.append(SegmentPlan(Unit(storage, f"{folder}/{identity}"), tuple(group)))
    return plans


def block_id(task: Task) -> str:
    """Identity of a task's block: its name, its probes, and the training answers that enter the support."""
    return fingerprint(task.name, task.facts.probe_content, task.facts.train_content)


def positions(task: Task, config: ScoringConfig) -> list[dict[str, Any]]:
    """The block of one task, without supports: every probe's first answer tokens."""
    table = task.table("probe")
    rows = []
    for probe, prompt, response in zip(
        table["id"].to_pylist(), table["prompt_ids"].to_pylist(), table["response_ids"].to_pylist(), strict=True
    ):
        for step, gold in enumerate(response[: config.positions_per_probe]):
            rows.append(
                {"task": task.name, "probe": probe, "step": step, "prompt": prompt + response[:step], "gold": gold}
            )
    return rows


def frequent_answers(task: Task, count: int) -> list[int]:
    """The task's most frequent answer tokens in its training examples, ties by token id."""
    seen = Counter(token for _, response in task.examples("train") for token in response)
    return [token for token, _ in sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:count]]


def support(gold: int, answers: Sequence[int], top: Sequence[int], size: int) -> list[int]:
    """``size`` different token ids: the gold token, the task's answers, then the base model's most likely ones."""
    chosen = dict.fromkeys([gold, *answers, *top])
    return [int(token) for token in chosen][:size]


def _packed(tasks: Sequence[Task], config: ScoringConfig) -> Iterator[list[Task]]:
    """Group tasks until a group holds the configured number of positions."""
    group: list[Task] = []
    held = 0
    for task in tasks:
        group.append(task)
        held += task.facts.probes * config.positions_per_probe
        if held >= config.segment_positions:
            yield group
            group, held = [], 0
    if group:
        yield group
