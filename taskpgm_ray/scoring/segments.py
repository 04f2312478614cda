"""The probe set: blocks of scored positions, packed into append-only segments.

A block is the probes of one task, all of them or those of one round (`ScoringConfig.rounds`).

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
from itertools import pairwise
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
class Block:
    """Some probes of a task, consecutive in the table of its probes.

    That table is ordered by a hash of the prompts, so that the first probes are a random draw, whatever they hold.
    """

    task: Task
    start: int
    """The first of them."""
    stop: int
    """The first that is not among them any more."""

    @property
    def probes(self) -> int:
        """Their number."""
        return self.stop - self.start

    @property
    def id(self) -> str:
        """The task's name, the probes, and the training answers that enter the support."""
        facts = self.task.facts
        part = () if self.probes == facts.probes else (self.start, self.stop)
        return fingerprint(self.task.name, facts.probe_content, facts.train_content, *part)


def blocks(task: Task, config: ScoringConfig, probes: int | None = None) -> list[Block]:
    """A task's blocks, one for each round, up to the round in which at least ``probes`` of it are scored."""
    counts = config.rounds(task.facts.probes)
    parts = [Block(task, start, stop) for start, stop in pairwise((0, *counts))]
    return parts if probes is None else [part for part in parts if part.start < probes]


@dataclass(frozen=True)
class SegmentPlan:
    """A segment, finished or still to be built."""

    unit: Unit
    blocks: tuple[Block, ...]
    """The blocks that it holds; of a finished segment, those that are wanted."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Their tasks."""
        return tuple(block.task for block in self.blocks)


def plan_segments(
    tasks: Sequence[Task], config: ScoringConfig, model: BaseModelRef, storage: Storage, probes: int | None = None
) -> list[SegmentPlan]:
    """Every wanted block in exactly one segment: in a finished one, or in a new one for the blocks that those lack.

    A new segment holds blocks of one round, hence at most one block of a task. All are in the order of their names.

    Args:
        tasks: The pool.
        config: Which positions are scored on which tokens, and in which rounds.
        model: The base model, by which supports are made.
        storage: The study's folder.
        probes: Of each task at least so many; by default all.
    """
    design = fingerprint("design-2", config.top_k, config.answer_tokens, config.positions_per_probe, model.fingerprint)
    folder = f"segments/{design}"
    wanted = {block.id: block for task in tasks for block in blocks(task, config, probes)}
    plans = []
    for name in storage.names(folder):
        unit = Unit(storage, f"{folder}/{name}")
        if unit.done():
            held = tuple(wanted.pop(block) for block in unit.manifest()["blocks"] if block in wanted)
            if held:
                plans.append(SegmentPlan(unit, held))
    for start in sorted({block.start for block in wanted.values()}):
        for group in _packed([block for block in wanted.values() if block.start == start], config):
            identity = fingerprint(design, [block.id for block in group])
            plans.append(SegmentPlan(Unit(storage, f"{folder}/{identity}"), tuple(group)))
    # In the order in which they are found once they are finished: what is made of the scores is named by all of them.
    return sorted(plans, key=lambda plan: plan.unit.path)


def positions(block: Block, config: ScoringConfig) -> list[dict[str, Any]]:
    """The positions of a block, without supports: every probe's first answer tokens."""
    task = block.task
    table = task.table("probe").slice(block.start, block.probes)
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


def _packed(wanted: Sequence[Block], config: ScoringConfig) -> Iterator[list[Block]]:
    """Group blocks until a group holds the configured number of positions."""
    group: list[Block] = []
    held = 0
    for block in wanted:
        group.append(block)
        held += block.probes * config.positions_per_probe
        if held >= config.segment_positions:
            yield group
            group, held = [], 0
    if group:
        yield group
