"""What the engines of a study will do before it runs: predictions on the probe set, and items of the benchmarks.

Counts are upper limits: answers shorter than `scoring.positions_per_probe` have fewer positions, benchmarks may
have fewer items than a study asks for, and with `scoring.probes: adaptive` fewer probes may be enough. The positions of
one probe share their prompt, which an engine reads once and keeps in its cache by blocks; what a study has stored
counts the whole prompt of every position, and is taken back to what was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from taskpgm_ray.config import EvaluationConfig, StudyConfig
from taskpgm_ray.report.text import MISSING, amount
from taskpgm_ray.runtime.fitted_table import FittedTable
from taskpgm_ray.storage import Storage, Unit, finished
from taskpgm_ray.workload import jobs_by_kind, merges, scored_adapters

ENGINE_START_SECONDS = 60.0
"""Until an engine answers its first request."""
ITEM_TOKENS = 150.0
"""Of a question of MMLU or BBH without examples, its choices included; assumed for other benchmarks too."""
SUBJECTS, BBH_TASKS = 57, 27
PAIRS_PER_CORE_SECOND = 6.8e7
"""Pairs of adapters times positions that one core compares a second (`jobs/benchmark.py scale`, 1,000 tasks)."""


@dataclass(frozen=True)
class EngineWork:
    """One kind of question to the engines."""

    what: str
    models: int
    """Adapters (and the base model) that are asked."""
    requests: int
    """Of all of them."""
    tokens: float
    seconds: float | None
    """With all engines at work; ``None``: their speed is not known."""
    gpu_hours: float | None
    cost: float | None


@dataclass(frozen=True)
class EngineSpeed:
    """How fast one engine reads prompts."""

    tokens_per_second: float
    """Tokens that are in its cache do not count."""
    source: str = "given"


def measured_engines(storage: Storage, block_size: int) -> EngineSpeed | None:
    """The speed at which each engine of a study has scored its probes; ``None`` when none has.

    Args:
        storage: The study's folder.
        block_size: Tokens of a block of the engines' cache.
    """
    read = seconds = 0.0
    for segment in (
        unit for design in storage.names("segments") for unit in finished_in(storage, f"segments/{design}")
    ):
        facts = segment.manifest()
        for scores in finished_in(storage, f"scores/{segment.path.rpartition('/')[2]}"):
            cost = scores.manifest()
            # The wall clock of one engine, whatever the others did meanwhile.
            seconds += cost["seconds"]
            prompt = cost["tokens"] / cost["positions"]
            read += _read(sum(facts["probes"]), cost["positions"], prompt, block_size)
    return EngineSpeed(read / seconds, f"measured in {storage.uri}") if seconds else None


def plan_engines(
    config: StudyConfig, tasks: int, example_tokens: float, speed: EngineSpeed | None, price: float | None = None
) -> list[EngineWork]:
    """What engines are asked in a study.

    Args:
        config: The study.
        tasks: Tasks in the pool.
        example_tokens: Mean tokens of an example of the pool.
        speed: Of one engine, as far as it is known.
        price: Of a GPU per hour; of a CPU where engines have no GPU.

    Returns:
        One row for the probe set and one for each side of the evaluation, in the order in which they run.
    """
    jobs = jobs_by_kind(config, tasks)
    probes = tasks * config.pool.probes_per_task
    positions = probes * config.scoring.positions_per_probe
    read = _read(probes, positions, example_tokens, config.scoring.engines.block_size)
    asked = [("probe set", scored_adapters(config, tasks) + 1, positions, read)]
    if config.search.balances:
        lifts = tasks + 1 if config.search.measures_lift else 0
        for what, models, side in (
            ("search split", jobs["trials"] + lifts + merges(config), "search"),
            ("report split", jobs["finalists"] + jobs["budgets"] + 1, "report"),
        ):
            items, tokens = _items(config.evaluation, tasks, side, example_tokens)
            asked.append((what, models, items, tokens))
    return [_row(config, what, models, items, tokens, speed, price) for what, models, items, tokens in asked]


def probe_rounds(config: StudyConfig) -> str:
    """How many probes are scored, in words, where a study may end before all of them; else nothing."""
    first, *later = config.scoring.rounds(config.pool.probes_per_task)
    return f"{first} of each task at first, at most {later[-1]} (scoring.probes: adaptive)" if later else ""


def affinity_core_hours(config: StudyConfig, tasks: int) -> float:
    """Core-hours of the pairwise comparison of all adapters, after every round on all probes so far."""
    probes = sum(config.scoring.rounds(config.pool.probes_per_task))
    positions = tasks * probes * config.scoring.positions_per_probe
    return tasks**2 * positions / PAIRS_PER_CORE_SECOND / 3600


def engines_table(rows: Sequence[EngineWork], speed: EngineSpeed | None) -> FittedTable:
    """The rows for a terminal."""
    known = f"{speed.tokens_per_second:,.0f} tokens/s an engine ({speed.source})" if speed else "speed not known"
    table = FittedTable(known)
    table.column("engines", 9, text=True)
    for title, stays in (("models", 8), ("requests", 4), ("tokens", 5), ("hours", 7), ("GPU-hours", 3)):
        table.column(title, stays)
    priced = any(row.cost is not None for row in rows)
    if priced:
        table.column("cost", 6)
    for row in rows:
        cells = [
            row.what,
            f"{row.models:,}",
            amount(row.requests),
            amount(row.tokens),
            MISSING if row.seconds is None else f"{row.seconds / 3600:,.2f}",
            MISSING if row.gpu_hours is None else f"{row.gpu_hours:,.1f}",
        ]
        table.row(*cells, *([MISSING if row.cost is None else f"{row.cost:,.0f}"] if priced else []))
    return table


def _read(probes: int, positions: int, prompt: float, block_size: int) -> float:
    """Tokens that an engine reads: every probe's prompt once, and what its other positions do not find in the cache."""
    return probes * prompt + (positions - probes) * min(block_size / 2, prompt)


def finished_in(storage: Storage, folder: str) -> list[Unit]:
    """The folder's finished units."""
    units = [Unit(storage, f"{folder}/{name}") for name in storage.names(folder)]
    return [unit for unit, ready in zip(units, finished(units), strict=True) if ready]


def _items(evaluation: EvaluationConfig, tasks: int, side: str, example_tokens: float) -> tuple[int, float]:
    """(items, tokens) of one side of the evaluation."""
    subjects = min(SUBJECTS, evaluation.max_subjects or SUBJECTS) if evaluation.mmlu else 0
    benchmarks = min(BBH_TASKS, evaluation.max_bbh_tasks or BBH_TASKS) if evaluation.bbh else 0
    mmlu = subjects * getattr(evaluation, f"{side}_items_per_subject")
    # A group of lm-eval counts as one task: what is in it is not known before it is loaded.
    others = (benchmarks + len(evaluation.lm_eval)) * getattr(evaluation, f"{side}_items_per_task")
    own = tasks * getattr(evaluation, f"{side}_items_per_data_set") if evaluation.own_tasks else 0
    shown = {name: 1 + evaluation.shots(name) for name in ("mmlu", "bbh")}
    tokens = ITEM_TOKENS * (mmlu * shown["mmlu"] + others * shown["bbh"]) + own * example_tokens
    return mmlu + others + own, tokens


def _row(
    config: StudyConfig,
    what: str,
    models: int,
    items: int,
    tokens: float,
    speed: EngineSpeed | None,
    price: float | None,
) -> EngineWork:
    engines = config.scoring.engines
    seconds = gpu_hours = cost = None
    if speed is not None:
        busy = models * tokens / speed.tokens_per_second + engines.max * ENGINE_START_SECONDS
        seconds, gpu_hours = busy / engines.max, busy / 3600 * engines.gpus
        cost = None if price is None else price * (gpu_hours or busy / 3600 * engines.cpus)
    return EngineWork(what, models, models * items, models * tokens, seconds, gpu_hours, cost)
