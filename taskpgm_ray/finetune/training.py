"""One job from its data to its stored adapter: resumed where it stopped, saved on the way, retried with less memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskpgm_ray.config import LaneConfig
from taskpgm_ray.errors import MemoryLimitError, TrainingError
from taskpgm_ray.finetune.checkpoint import Checkpoint, drop_checkpoint, load_checkpoint, save_checkpoint
from taskpgm_ray.finetune.job import Job, Part, adapter_manifest
from taskpgm_ray.finetune.job_data import JobData
from taskpgm_ray.finetune.metrics import MetricsLog
from taskpgm_ray.finetune.trainer import DIGITS, Trainer, budget_used
from taskpgm_ray.finetune.workers import Workers
from taskpgm_ray.runtime import scratch
from taskpgm_ray.storage import Unit

LOOK_SECONDS = 1.0
"""How often a lane asks whether its node is about to be taken away, or the study to end."""


class Stopped(Exception):
    """The study ends before the job does; what is done of it is saved."""


@dataclass(frozen=True)
class Training:
    """What the jobs that one process trains share."""

    trainer: Trainer
    workers: Workers
    config: LaneConfig
    pad_id: int
    report: Callable[[dict[str, Any]], None] = lambda row: None
    """Gets every step's metrics row, on the first worker."""
    preempted: Callable[[], bool] = lambda: False
    """Whether the node is about to be taken away; asked by all workers at the same step."""
    ending: Callable[[], bool] = lambda: False
    """Whether the study ends, and the job is to be saved and left; asked by all workers at the same step."""
    confirm: Callable[[], None] = lambda: None
    """Called by the first worker before each file that it stores, which another lane could have stored by now; raises
    where the job is no longer this lane's."""


def train_job(training: Training, job: Job, data: JobData) -> dict[str, Any]:
    """Train one job, store its adapter, and return its manifest; a finished job is not repeated.

    Raises:
        TaskPGMError: The job itself is at fault (data, non-finite loss, too long for the memory); see the subclasses.
        Stopped: The study ends.
    """
    finished = training.workers.from_first(lambda: job.unit.manifest() if job.unit.done() else None)
    if finished is not None:
        # A kill between the manifest and the checkpoint's removal leaves the latter.
        training.workers.from_first(lambda: _tidy(job))
        return finished
    started = time.perf_counter()
    outcome = _train(training, job, data)
    with scratch.temporary("lane") as folder:
        training.trainer.save(folder)
        seconds = time.perf_counter() - started
        size = sum(file.stat().st_size for file in folder.iterdir())
        cost = {
            "wall_seconds": round(seconds, 3),
            "gpu_seconds": round(seconds * training.config.gpus * training.workers.size, 3),
            "adapter_bytes": size,
        }
        manifest = adapter_manifest(job, outcome | cost)
        training.workers.from_first(lambda: _store(training, job, folder, manifest))
    return manifest


def _train(training: Training, job: Job, data: JobData) -> dict[str, Any]:
    """Run the loop; when memory does not suffice, go on from the last checkpoint with half the tokens a pass."""
    import torch

    tokens = training.config.micro_batch_tokens
    while True:
        resume = training.workers.agree(lambda: _usable_checkpoint(job))
        keeper = _Keeper(training, job, resume)
        try:
            outcome = training.trainer.run(
                data.batches(job.weights, job.recipe),
                job.recipe,
                training.pad_id,
                data.heldout,
                tokens,
                resume,
                keeper,
                job.until,
            )
        except MemoryLimitError as error:
            if training.workers.size > 1:
                # The others wait in a collective operation that this worker never joins: only their end frees them.
                raise RuntimeError(f"a worker ran out of memory; lower micro_batch_tokens: {error}") from None
            if tokens <= data.longest:
                raise TrainingError(
                    f"out of memory even with one example of {data.longest} tokens at a time ({error}); lower "
                    f"model.max_length{'' if job.recipe.full else ' or finetune.lora.r'}, or set "
                    "finetune.lanes.gradient_checkpointing"
                ) from None
            tokens = max(tokens // 2, data.longest)
        else:
            keeper.log.flush()
            # Of a GPU that an engine shares: what the allocator keeps for the next job is nobody else's meanwhile.
            torch.cuda.empty_cache()
            return outcome | {"micro_batch_tokens": tokens}


def _usable_checkpoint(job: Job) -> Checkpoint | None:
    """What to go on from; nothing where the fine-tune has gone farther than this job is to go."""
    found = load_checkpoint(job.home)
    if found is None:
        return None
    # It may be at this job's very end, where it was killed before the adapter was stored; but not a step beyond.
    before = found.state.step - 1
    tokens = found.state.tokens * before // found.state.step
    return found if budget_used(job.recipe, before, tokens) < job.until else None


class _Keeper:
    """After each step: the metrics line, the report, what is kept on the way, and now and then a checkpoint."""

    def __init__(self, training: Training, job: Job, resume: Checkpoint | None) -> None:
        self.training, self.job = training, job
        self.log = MetricsLog(job.home)
        # What a checkpoint is beyond is not to be had any more: the adapter is a later one by now.
        passed = budget_used(job.recipe, resume.state.step, resume.state.tokens) if resume else 0.0
        self.ahead = sorted((part for part in job.parts if part.share > passed), key=lambda part: part.share)
        self.saved = self.looked = 0.0
        self.warned = self.stopped = False
        self.begins = True

    def __call__(self, row: dict[str, Any], snapshot: Callable[[], Checkpoint]) -> None:
        config, now = self.training.config, row["seconds"]
        if self.begins:
            # Seconds go on counting over restarts, and while a checkpoint is written.
            self.saved, self.begins = now, False
            self.looked = self.looked or now
        if self.training.workers.first:
            self.log.write(row)
            self.training.report(row)
        # Before the checkpoint: what goes on from there does not come by here again.
        while self.ahead and row["progress"] >= round(self.ahead[0].share, DIGITS):
            self._keep(self.ahead.pop(0), row)
        every = config.checkpoint_steps is not None and row["step"] % config.checkpoint_steps == 0
        called_off = self._called_off(now)
        due = every or now - self.saved >= config.checkpoint_seconds or called_off
        ends = row["progress"] >= round(self.job.until, DIGITS)
        if (due or ends) and row["progress"] < 1:
            checkpoint = snapshot()
            self.begins = True
            if self.training.workers.first:
                self.log.flush()
                save_checkpoint(self.job.home, checkpoint, self.training.confirm)
            else:
                # Every worker gives its share of each tensor; only the first one has a use for the whole.
                for _ in checkpoint.tensors:
                    pass
            if self.stopped and not ends:
                raise Stopped

    def _keep(self, part: Part, row: dict[str, Any]) -> None:
        """Store the adapter as it is now; all workers take part."""
        if self.training.workers.from_first(part.unit.done):
            return
        with scratch.temporary("part") as folder:
            self.training.trainer.save(folder)
            facts = {"share": part.share, "steps": row["step"], "tokens": row["tokens"], "loss_last": row["loss"]}
            manifest = adapter_manifest(self.job, facts)
            self.training.workers.from_first(lambda: _put(self.training, part.unit, folder, manifest))

    def _called_off(self, now: float) -> bool:
        """Whether the study ends, or notice was given for the first time that this node goes."""
        if now - self.looked < LOOK_SECONDS:
            return False
        self.looked = now
        self.stopped = self.training.ending()
        told = not self.warned and self.training.preempted()
        self.warned |= told
        return told or self.stopped


def _store(training: Training, job: Job, folder: Path, manifest: dict[str, Any]) -> None:
    _put(training, job.unit, folder, manifest)
    _tidy(job)


def _put(training: Training, unit: Unit, folder: Path, manifest: dict[str, Any]) -> None:
    # Before each file: those of a model may take longer than a lane may be silent.
    unit.storage.upload(folder, unit.path, training.confirm)
    unit.finish(manifest)


def _tidy(job: Job) -> None:
    """Remove the checkpoint of a whole fine-tune; of one that was cut short it is what going on begins from."""
    if job.whole is None:
        drop_checkpoint(job.unit, job.recipe.full)
