"""What a study will take before it runs: lanes, hours, GPU-hours, storage and cost of its fine-tunes.

Speed comes from the manifests of adapters that were trained already (a few tasks suffice), or is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from taskpgm_ray.config import FinetuneConfig, LoraSection, StudyConfig
from taskpgm_ray.errors import ConfigError
from taskpgm_ray.storage import MANIFEST, Storage

if TYPE_CHECKING:
    from rich.table import Table

LANE_START_SECONDS = 30.0
"""From a job in the queue to the base model in a lane's memory, on a node that is there."""
GIB = 2**30


@dataclass(frozen=True)
class Speed:
    """How fast a lane trains."""

    tokens_per_second: float
    """Trained tokens per second of one lane, whatever its number of workers."""
    example_tokens: float
    """Mean tokens of an example, prompt and response."""
    job_seconds: float = 0.0
    """Seconds of a job beside its training: held-out losses, the adapter's upload."""
    adapter_bytes: float = 0.0
    """Size of one stored adapter."""
    source: str = "given"


@dataclass(frozen=True)
class Work:
    """One kind of fine-tune in a study, and what all of its jobs take."""

    what: str
    jobs: int
    tokens: float
    """Trained tokens of all jobs."""
    lanes: int
    seconds: float
    """From the first job's start to the last adapter."""
    gpu_hours: float
    storage_bytes: float
    cost: float | None
    """In the currency of the price; ``None`` without a price."""


def measure(storage: Storage) -> Speed | None:
    """The speed of the adapters that a study has trained; ``None`` when it has none.

    Args:
        storage: The study's folder.
    """
    trained = [storage.read_json(f"adapters/{name}/{MANIFEST}") for name in _finished(storage, "adapters")]
    if not trained:
        return None
    tasks = [storage.read_json(f"tasks/{name}/{MANIFEST}") for name in _finished(storage, "tasks")]
    return Speed(
        tokens_per_second=sum(m["tokens"] for m in trained) / sum(m["seconds"] for m in trained),
        example_tokens=sum(t["train_tokens"] for t in tasks) / sum(t["train"] for t in tasks),
        job_seconds=median(m["wall_seconds"] - m["seconds"] for m in trained),
        adapter_bytes=median(m["adapter_bytes"] for m in trained),
        source=f"measured on {len(trained)} adapters in {storage.uri}",
    )


def plan(config: StudyConfig, tasks: int, speed: Speed, price: float | None = None) -> list[Work]:
    """What the single-task adapters and the search's trials take.

    Args:
        config: The study.
        tasks: Tasks in the pool.
        speed: Of one lane, see `measure`.
        price: Of a GPU per hour; of a CPU per hour where lanes have no GPU.

    Returns:
        One row per kind of fine-tune, in the order in which they run.
    """
    finetune, search = config.finetune, config.search
    rows = [_work("adapters", tasks, finetune.steps, finetune.tokens, finetune, speed, price)]
    if search.balances:
        steps, tokens = search.steps, search.tokens
        if steps is None and tokens is None:
            steps, tokens = finetune.steps, finetune.tokens
        trials = (search.balances + len(search.baselines)) * search.seeds
        rows.append(_work("trials", trials, steps, tokens, finetune, speed, price, most=search.concurrency))
    return rows


def adapter_bytes(model: Any, lora: LoraSection) -> int:
    """Size of an adapter in float32, as it is stored.

    Args:
        model: The base model's own configuration (transformers ``PretrainedConfig``).
        lora: The adapters' shape.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(model)
    head, wanted = skeleton.get_output_embeddings(), lora.target_modules
    layers = [
        module
        for name, module in skeleton.named_modules()
        if isinstance(module, torch.nn.Linear)
        and module is not head
        and (wanted == "all-linear" or name.endswith(tuple(wanted)))
    ]
    return sum(4 * lora.r * (layer.in_features + layer.out_features) for layer in layers)


def plan_table(rows: Sequence[Work], speed: Speed, price: float | None) -> Table:
    """The plan for a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from taskpgm_ray.report.text import amount

    title = f"{speed.tokens_per_second:,.0f} tokens/s a lane ({speed.source})"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("fine-tunes", no_wrap=True)
    for column in (
        "jobs",
        "tokens",
        "lanes",
        "hours",
        "GPU-hours",
        "storage",
        *(["cost"] if price is not None else []),
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for row in [*rows, _total(rows)] if len(rows) > 1 else rows:
        cells = [
            row.what,
            f"{row.jobs:,}",
            amount(row.tokens),
            f"{row.lanes:,}",
            f"{row.seconds / 3600:,.2f}",
            f"{row.gpu_hours:,.1f}",
            f"{row.storage_bytes / GIB:,.0f} GiB",
        ]
        table.add_row(*cells, *([] if row.cost is None else [f"{row.cost:,.0f}"]))
    return table


def _work(
    what: str,
    jobs: int,
    steps: int | None,
    tokens: int | None,
    config: FinetuneConfig,
    speed: Speed,
    price: float | None,
    most: int | None = None,
) -> Work:
    each = float(tokens) if tokens is not None else (steps or 0) * config.batch_size * speed.example_tokens
    lanes = min(jobs, config.lanes.max, most or jobs)
    job = each / speed.tokens_per_second + speed.job_seconds
    seconds = LANE_START_SECONDS + math.ceil(jobs / lanes) * job
    # Lanes end when no job is left for them, so the last round costs only those that have one.
    busy = (lanes * LANE_START_SECONDS + jobs * job) / 3600 * config.lanes.workers
    gpu_hours = busy * config.lanes.gpus
    hours = gpu_hours if config.lanes.gpus else busy * config.lanes.cpus
    return Work(
        what=what,
        jobs=jobs,
        tokens=jobs * each,
        lanes=lanes,
        seconds=seconds,
        gpu_hours=gpu_hours,
        # An in-flight checkpoint holds the adapter and its two moments.
        storage_bytes=(jobs + 3 * lanes) * speed.adapter_bytes,
        cost=None if price is None else hours * price,
    )


def _total(rows: Sequence[Work]) -> Work:
    return Work(
        what="together",
        jobs=sum(row.jobs for row in rows),
        tokens=sum(row.tokens for row in rows),
        lanes=max(row.lanes for row in rows),
        seconds=sum(row.seconds for row in rows),
        gpu_hours=sum(row.gpu_hours for row in rows),
        storage_bytes=sum(row.storage_bytes for row in rows),
        cost=None if rows[0].cost is None else sum(row.cost or 0.0 for row in rows),
    )


def speed_of(
    config: StudyConfig, tokens_per_second: float | None, example_tokens: float | None, adapter_mib: float | None
) -> Speed:
    """The speed to plan with: what is given, and for the rest what the study has measured.

    Raises:
        ConfigError: Something is neither given nor measured; the message says how to get it.
    """
    known = tokens_per_second is not None and (example_tokens is not None or config.finetune.tokens is not None)
    measured = None if known else _measured(config)
    if measured is not None:
        size = measured.adapter_bytes if adapter_mib is None else adapter_mib * 2**20
        return replace(
            measured,
            tokens_per_second=tokens_per_second or measured.tokens_per_second,
            example_tokens=example_tokens or measured.example_tokens,
            adapter_bytes=size,
        )
    assert tokens_per_second is not None, "otherwise it was measured"
    if adapter_mib is None:
        from taskpgm_ray.models import resolve

        size = adapter_bytes(resolve(config.model, Storage(config.storage)).config(), config.finetune.lora)
    else:
        size = adapter_mib * 2**20
    return Speed(tokens_per_second, example_tokens or 0.0, adapter_bytes=size)


def _measured(config: StudyConfig) -> Speed:
    storage = Storage(config.storage) / config.study
    measured = measure(storage)
    if measured is None:
        raise ConfigError(
            f"no adapter was trained in {storage.uri} yet, so the speed is unknown: give --tokens-per-second and "
            "--example-tokens, or measure them with a few tasks (taskpgm finetune --config ... pool.max_tasks=2)"
        )
    return measured


def _finished(storage: Storage, folder: str) -> list[str]:
    return [name for name in storage.names(folder) if storage.exists(f"{folder}/{name}/{MANIFEST}")]
