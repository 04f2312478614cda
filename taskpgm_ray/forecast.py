"""What a study will take before it runs: lanes, hours, GPU-hours, storage and cost of its fine-tunes.

How many there are is said in `taskpgm_ray.workload`. Speed comes from the manifests of adapters that were trained
already (a few tasks suffice), or is given; the length of an example as well, or from a sample of the tasks' files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

from taskpgm_ray.config import PROXY, FinetuneConfig, LoraSection, StudyConfig
from taskpgm_ray.engine_forecast import EngineSpeed, finished_in, measured_engines
from taskpgm_ray.errors import ConfigError
from taskpgm_ray.gpu_speeds import READ, TRAINED, reading_speed, training_speed
from taskpgm_ray.layers import adapted_layers, linear_layers, skeleton
from taskpgm_ray.models import BaseModelRef, prepare, resolve
from taskpgm_ray.report.text import amount
from taskpgm_ray.runtime.fitted_table import FittedTable
from taskpgm_ray.storage import Storage
from taskpgm_ray.tasks.lengths import Lengths, sample_lengths
from taskpgm_ray.workload import OF_ONE_TASK, FineTunes, fine_tunes

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
    """Size of one stored adapter, or model."""
    source: str = "given"
    measured: bool = False


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


@dataclass(frozen=True)
class Batch:
    """Fine-tunes of one budget."""

    jobs: int
    tokens: float
    """Of each of them."""
    together: int
    """Most of them in flight at one time."""


def measure(storage: Storage, folder: str = "adapters") -> Speed | None:
    """The speed of the adapters that a study has trained; ``None`` when it has none.

    Args:
        storage: The study's folder, or a proxy's inside it.
        folder: ``adapters``, or ``mixtures`` where the adapters are a proxy's.
    """
    # Fine-tunes that ended early are as fast; what others have kept on their way says nothing of its cost.
    trained = _manifests(storage, folder) or [m for m in _manifests(storage, "parts") if "wall_seconds" in m]
    if not trained:
        return None
    tasks = _manifests(storage, "tasks")
    return Speed(
        tokens_per_second=sum(m["tokens"] for m in trained) / sum(m["seconds"] for m in trained),
        # Adapters have one task each and mixtures shares of tasks: a large task's length counts no more than another's.
        example_tokens=fmean(t["train_tokens"] / t["train"] for t in tasks),
        job_seconds=median(m["wall_seconds"] - m["seconds"] for m in trained),
        adapter_bytes=median(m["adapter_bytes"] for m in trained),
        source=f"measured on {len(trained)} adapters in {storage.uri}",
        measured=True,
    )


def plan_study(
    config: StudyConfig, tasks: int, speed: Speed, price: float | None = None, proxy: Speed | None = None
) -> list[Work]:
    """What every fine-tune of a study takes: adapters, trials, finalists and the questions about budgets.

    Args:
        config: The study.
        tasks: Tasks in the pool.
        speed: Of one lane, see `measure`.
        price: Of a GPU per hour; of a CPU per hour where lanes have no GPU.
        proxy: Of one lane that trains the model of the affinities, where that is another one; its lanes and its recipe
            are ``affinity.finetune``.

    Returns:
        One row per kind of fine-tune, in the order in which they run.
    """
    rows: dict[str, list[Batch]] = {}
    by = {kind: (config.of_proxy() or config, proxy or speed) for kind in OF_ONE_TASK}
    for part in fine_tunes(config, tasks):
        whose, pace = by.get(part.kind, (config, speed))
        rows.setdefault(part.kind, []).append(Batch(part.jobs, _tokens(whose, part, pace), _together(config, part)))
    found = []
    for kind, batches in rows.items():
        whose, pace = by.get(kind, (config, speed))
        found.append(_work(kind, batches, whose.finetune, pace, price))
    return found


def trained_bytes(model: Any, lora: LoraSection | None, trust_remote_code: bool = False, width: int = 2) -> int:
    """Size of what a fine-tune stores: an adapter in float32, or a model.

    Args:
        model: The base model's own configuration (transformers ``PretrainedConfig``).
        lora: The adapters' shape; ``None`` where all weights are trained.
        trust_remote_code: Whether code that comes with the model may run.
        width: Bytes of a model's weight.
    """
    if lora is None:
        return width * int(skeleton(model, trust_remote_code).num_parameters())
    layers = adapted_layers(linear_layers(model, trust_remote_code), lora)
    return sum(4 * lora.r * (inputs + outputs) for inputs, outputs in layers.values())


def plan_table(rows: Sequence[Work], speed: Speed, price: float | None) -> FittedTable:
    """The plan for a terminal."""
    table = FittedTable(f"{speed.tokens_per_second:,.0f} tokens/s a lane ({speed.source})")
    table.column("fine-tunes", 9, text=True)
    for title, stays in (("jobs", 8), ("tokens", 4), ("lanes", 3), ("hours", 7), ("GPU-hours", 5), ("storage", 2)):
        table.column(title, stays)
    if price is not None:
        table.column("cost", 6)
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
        table.row(*cells, *([] if row.cost is None else [f"{row.cost:,.0f}"]))
    return table


def _tokens(config: StudyConfig, part: FineTunes, speed: Speed) -> float:
    """Tokens that one of these fine-tunes trains on."""
    steps, tokens = config.finetune.steps, config.finetune.tokens
    search = config.search
    if part.kind not in OF_ONE_TASK and (search.steps is not None or search.tokens is not None):
        steps, tokens = search.steps, search.tokens
    whole = float(tokens) if tokens is not None else (steps or 0) * config.finetune.batch_size * speed.example_tokens
    return whole * part.share


def _together(config: StudyConfig, part: FineTunes) -> int:
    """Most of these fine-tunes that are in flight at one time: every trial waits for all of its seeds."""
    return min(part.jobs, config.search.concurrency * config.search.seeds) if part.kind == "trials" else part.jobs


def _work(what: str, batches: Sequence[Batch], config: FinetuneConfig, speed: Speed, price: float | None) -> Work:
    jobs = sum(batch.jobs for batch in batches)
    lanes = max(min(batch.together, config.lanes.max) for batch in batches)
    seconds, busy = LANE_START_SECONDS, lanes * LANE_START_SECONDS
    for batch in batches:
        job = batch.tokens / speed.tokens_per_second + speed.job_seconds
        seconds += math.ceil(batch.jobs / min(batch.together, config.lanes.max)) * job
        # Lanes end when no job is left for them, so the last round costs only those that have one.
        busy += batch.jobs * job
    workers = busy / 3600 * config.lanes.workers
    gpu_hours = workers * config.lanes.gpus
    hours = gpu_hours if config.lanes.gpus else workers * config.lanes.cpus
    return Work(
        what=what,
        jobs=jobs,
        tokens=sum(batch.jobs * batch.tokens for batch in batches),
        lanes=lanes,
        seconds=seconds,
        gpu_hours=gpu_hours,
        # An in-flight checkpoint holds the weights and their two moments in float32, a stored model half as wide ones.
        storage_bytes=(jobs + (3 if config.adapter else 6) * lanes) * speed.adapter_bytes,
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


def proxy_speed_of(config: StudyConfig, tokens_per_second: float | None, lanes: Speed, gpu: str | None) -> Speed | None:
    """The speed of a proxy's lanes; ``None`` where the affinities are the study's own model's.

    Args:
        config: The study.
        tokens_per_second: As it was given.
        lanes: The speed of the study's own lanes: its example is the proxy's, unless that was measured.
        gpu: As it was given.

    Raises:
        ConfigError: The speed is neither given nor measured, and no kind of GPU is named.
    """
    proxy = config.of_proxy()
    if proxy is None:
        return None
    source = "given"
    if tokens_per_second is None and gpu is not None:
        tokens_per_second, source = training_speed(proxy, _model(proxy), gpu), f"estimated for {gpu}"
    measured = measure(_folder(config) / PROXY) if lanes.measured or tokens_per_second is None else None
    if tokens_per_second is None:
        if measured is None:
            raise ConfigError(
                "the proxy's speed is neither given nor measured: give --proxy-tokens-per-second, or --gpu"
            )
        return measured
    if measured is not None:
        return replace(measured, tokens_per_second=tokens_per_second, source=source)
    size = trained_bytes(_model(proxy), proxy.finetune.lora, proxy.model.trust_remote_code)
    return Speed(tokens_per_second, lanes.example_tokens, adapter_bytes=size, source=source)


def speed_of(
    config: StudyConfig,
    tokens_per_second: float | None,
    example_tokens: float | None,
    adapter_mib: float | None,
    gpu: str | None = None,
) -> Speed:
    """The speed to plan with: what is given, else that of a kind of GPU that is named, else what the study measured.

    Raises:
        ConfigError: Something is neither given nor measured; the message says how to get it.
    """
    source = "given"
    if tokens_per_second is None and gpu is not None:
        tokens_per_second = training_speed(config, _model(config), gpu)
        source = f"estimated for {gpu}: {TRAINED:.0%} of its peak"
    sized = example_tokens is not None or config.finetune.tokens is not None
    measured = None if sized and tokens_per_second is not None else _measured(config)
    if measured is not None:
        size = measured.adapter_bytes if adapter_mib is None else adapter_mib * 2**20
        return replace(
            measured,
            tokens_per_second=tokens_per_second or measured.tokens_per_second,
            example_tokens=example_tokens or measured.example_tokens,
            adapter_bytes=size,
            source=measured.source if tokens_per_second is None else source,
        )
    if tokens_per_second is None:
        raise ConfigError(_unknown_speed(_folder(config)))
    if not sized:
        lengths = _sampled(config)
        example_tokens = lengths.mean
        source += f"; {lengths.mean:.0f} tokens an example, by {lengths.examples} of {lengths.tasks} tasks"
        if lengths.absent:
            source += f"; {lengths.absent} more {'is' if lengths.absent == 1 else 'are'} not here"
    if adapter_mib is None:
        width = 4 if config.model.dtype == "float32" else 2
        size = trained_bytes(_model(config), config.finetune.adapter, config.model.trust_remote_code, width)
    else:
        size = adapter_mib * 2**20
    return Speed(tokens_per_second, example_tokens or 0.0, adapter_bytes=size, source=source)


def engine_speed_of(
    config: StudyConfig, lanes: Speed, tokens_per_second: float | None, gpu: str | None
) -> EngineSpeed | None:
    """The same of an engine; ``None`` where it is neither given nor measured, and no kind of GPU is named.

    Args:
        config: The study.
        lanes: Where this was given, nothing of the study's folder is read.
        tokens_per_second: As it was given.
        gpu: As it was given.
    """
    if tokens_per_second is not None:
        return EngineSpeed(tokens_per_second)
    if gpu is not None:
        return EngineSpeed(reading_speed(config, _model(config), gpu), f"estimated for {gpu}: {READ:.0%} of its peak")
    return measured_engines(_folder(config), config.scoring.engines.block_size) if lanes.measured else None


def _folder(config: StudyConfig) -> Storage:
    return Storage(config.storage) / config.study


def _base(config: StudyConfig) -> BaseModelRef:
    model = resolve(config.model, Storage(config.storage))
    if model.shared is not None:  # a packaged model has a configuration once it is converted, which takes seconds
        prepare(model)
    return model


def _model(config: StudyConfig) -> Any:
    return _base(config).config()


def _measured(config: StudyConfig) -> Speed | None:
    return measure(_folder(config), "adapters" if config.affinity.model is None else "mixtures")


def _unknown_speed(storage: Storage) -> str:
    return (
        f"no adapter was trained in {storage.uri} yet, so the speed is unknown: give --tokens-per-second (--gpu "
        "estimates it), or measure it with a few tasks (taskpgm finetune --config ... pool.max_tasks=2)"
    )


def _sampled(config: StudyConfig) -> Lengths:
    if (lengths := sample_lengths(config, _base(config).tokenizer())) is None:
        raise ConfigError(
            "no task's data are on this machine, so the length of an example is unknown: give --example-tokens"
        )
    return lengths


def _manifests(storage: Storage, folder: str) -> list[dict[str, Any]]:
    """Of the folder's finished units."""
    return [unit.manifest() for unit in finished_in(storage, folder)]
