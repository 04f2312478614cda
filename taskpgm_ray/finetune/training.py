"""One job from its data to its stored adapter: resumed where it stopped, saved on the way, retried with less memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskpgm_ray.config import LaneConfig
from taskpgm_ray.errors import MemoryLimitError, TrainingError
from taskpgm_ray.finetune.checkpoint import TrainState, drop_checkpoint, load_checkpoint, save_checkpoint
from taskpgm_ray.finetune.data import JobData
from taskpgm_ray.finetune.job import Job, adapter_manifest
from taskpgm_ray.finetune.lora import LoraTrainer
from taskpgm_ray.finetune.metrics import MetricsLog
from taskpgm_ray.finetune.workers import Workers

LOOK_SECONDS = 1.0
"""How often a lane asks whether its node is about to be taken away."""


@dataclass(frozen=True)
class Lane:
    """What a lane's jobs share."""

    trainer: LoraTrainer
    workers: Workers
    config: LaneConfig
    pad_id: int
    report: Callable[[dict[str, Any]], None] = lambda row: None
    """Gets every step's metrics row, on the first worker."""
    preempted: Callable[[], bool] = lambda: False
    """Whether the node is about to be taken away; asked by all workers at the same step."""


def train_job(lane: Lane, job: Job, data: JobData) -> dict[str, Any]:
    """Train one job, store its adapter, and return its manifest; a finished job is not repeated.

    Raises:
        TaskPGMError: The job itself is at fault (data, non-finite loss, too long for the memory); see the subclasses.
    """
    finished = lane.workers.from_first(lambda: job.unit.manifest() if job.unit.done() else None)
    if finished is not None:
        return finished
    started = time.perf_counter()
    outcome = _train(lane, job, data)
    with tempfile.TemporaryDirectory() as folder:
        lane.trainer.save(Path(folder))
        seconds = time.perf_counter() - started
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        cost = {
            "wall_seconds": round(seconds, 3),
            "gpu_seconds": round(seconds * lane.config.gpus * lane.workers.size, 3),
            "adapter_bytes": size,
        }
        manifest = adapter_manifest(job, outcome | cost)
        lane.workers.from_first(lambda: _store(job, folder, manifest))
    return manifest


def _train(lane: Lane, job: Job, data: JobData) -> dict[str, Any]:
    """Run the loop; when memory does not suffice, go on from the last checkpoint with half the tokens a pass."""
    tokens = lane.config.micro_batch_tokens
    while True:
        keeper = _Keeper(lane, job)
        try:
            outcome = lane.trainer.run(
                data.batches(job.weights, job.recipe),
                job.recipe,
                lane.pad_id,
                data.heldout,
                tokens,
                lane.workers.agree(lambda: load_checkpoint(job.unit)),
                keeper,
            )
        except MemoryLimitError as error:
            if lane.workers.size > 1:
                # The others wait in a collective operation that this worker never joins: only their end frees them.
                raise RuntimeError(f"a worker ran out of memory; lower micro_batch_tokens: {error}") from None
            if tokens <= data.longest:
                raise TrainingError(
                    f"out of memory even with one example of {data.longest} tokens at a time ({error}); lower "
                    "model.max_length or finetune.lora.r, or set finetune.lanes.gradient_checkpointing"
                ) from None
            tokens = max(tokens // 2, data.longest)
        else:
            keeper.log.flush()
            return outcome | {"micro_batch_tokens": tokens}


class _Keeper:
    """After each step: the metrics line, the report, and now and then a checkpoint."""

    def __init__(self, lane: Lane, job: Job) -> None:
        self.lane, self.job = lane, job
        self.log = MetricsLog(job.unit)
        self.saved = self.looked = 0.0
        self.warned = False
        self.first = True

    def __call__(self, row: dict[str, Any], snapshot: Callable[[], TrainState]) -> None:
        config, now = self.lane.config, row["seconds"]
        if self.first:
            # Seconds go on counting over restarts; the interval begins with this run.
            self.saved = self.looked = now
            self.first = False
        if self.lane.workers.first:
            self.log.write(row)
            self.lane.report(row)
        every = config.checkpoint_steps is not None and row["step"] % config.checkpoint_steps == 0
        if every or now - self.saved >= config.checkpoint_seconds or self._leaving(now):
            state = snapshot()
            self.saved = now
            if self.lane.workers.first and row["progress"] < 1:
                self.log.flush()
                save_checkpoint(self.job.unit, state)

    def _leaving(self, now: float) -> bool:
        """Whether notice was given that this node goes, for the first time."""
        if self.warned or now - self.looked < LOOK_SECONDS:
            return False
        self.looked = now
        self.warned = self.lane.preempted()
        return self.warned


def _store(job: Job, folder: str, manifest: dict[str, Any]) -> None:
    job.unit.storage.upload(folder, job.unit.path)
    job.unit.finish(manifest)
    drop_checkpoint(job.unit)
