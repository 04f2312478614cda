"""A lane: one Ray Train run that loads the base model once and then takes jobs until there are none."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskpgm_ray.cluster import thread_environment, threads_of
from taskpgm_ray.config import LaneConfig, LoraSection
from taskpgm_ray.errors import TaskPGMError
from taskpgm_ray.finetune.job import Job, adapter_manifest
from taskpgm_ray.finetune.lora import LoraTrainer
from taskpgm_ray.finetune.stream import stream
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.storage import Storage
from taskpgm_ray.tasks.batches import Pair

PROGRESS_SECONDS = 1.0


@dataclass(frozen=True)
class LaneSpec:
    """What every lane of a fleet is made of."""

    model: BaseModelRef
    lora: LoraSection
    config: LaneConfig
    storage: Storage
    """Where Ray Train keeps its own run state."""


def run_lane(fleet: Any, lane: int, spec: LaneSpec) -> None:
    """Run one lane to its end. Blocks; called in a Ray task that reserves nothing itself.

    Args:
        fleet: Handle of the fleet actor that hands out jobs.
        lane: The lane's number in the fleet.
        spec: Model, adapter shape and resources.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    threads = threads_of(spec.config.cpus, spec.config.threads)
    TorchTrainer(
        lane_loop,
        train_loop_config={"fleet": fleet, "lane": lane, "spec": spec, "threads": threads},
        scaling_config=ScalingConfig(
            num_workers=1,
            use_gpu=spec.config.gpus > 0,
            resources_per_worker={"CPU": spec.config.cpus, "GPU": spec.config.gpus},
            accelerator_type=spec.config.accelerator_type,
        ),
        run_config=RunConfig(
            name=f"lane-{lane}-{int(time.time() * 1000):x}",
            storage_path=spec.storage.uri if "://" in spec.storage.uri else spec.storage.path(),
            failure_config=FailureConfig(max_failures=spec.config.max_failures),
            # ray.train's V2 class has this argument; the type stubs still show its predecessor.
            worker_runtime_env={"env_vars": thread_environment(threads)},  # type: ignore[call-arg]
        ),
    ).fit()


def lane_loop(config: dict[str, Any]) -> None:
    """What a lane's Ray Train worker does: load the base model, then train job after job."""
    import ray
    import torch
    from ray.train.torch import get_device

    fleet, lane, spec = config["fleet"], config["lane"], config["spec"]
    torch.set_num_threads(config["threads"])
    trainer = LoraTrainer(spec.model.load(), spec.lora, str(get_device()))
    pad_id = pad_token(spec.model.tokenizer())
    while (job := ray.get(fleet.take.remote(lane))) is not None:
        reporter = _Reporter(fleet, lane)
        try:
            outcome = train_job(trainer, job, pad_id, reporter)
        except TaskPGMError as error:
            # The job's own fault, the same in every lane: recorded, and this lane goes on with the next job.
            ray.get(fleet.failed.remote(lane, error))
        else:
            ray.get(fleet.finished.remote(lane, outcome))


def train_job(trainer: LoraTrainer, job: Job, pad_id: int, on_step: Any = lambda row: None) -> dict[str, Any]:
    """Train one job, store its adapter, and return its manifest; a finished job is not repeated.

    Raises:
        TaskPGMError: The job itself is at fault (data, non-finite loss); see the subclasses.
    """
    if job.unit.done():
        return job.unit.manifest()
    started = time.perf_counter()
    heldout = [pair for task in job.tasks for pair in task.examples("probe")] if len(job.tasks) == 1 else []
    with tempfile.TemporaryDirectory() as folder:
        outcome = trainer.run(job_examples(job), job.recipe, Path(folder), pad_id, heldout, on_step)
        job.unit.storage.upload(folder, job.unit.path)
    manifest = adapter_manifest(job, outcome | {"wall_seconds": round(time.perf_counter() - started, 3)})
    job.unit.finish(manifest)
    return manifest


def job_examples(job: Job) -> Iterator[Pair]:
    """The job's endless training examples, in the order that its seed decides."""
    pools = [task.examples("train") for task in job.tasks]
    for task, example in stream(job.weights, [len(pool) for pool in pools], job.recipe.seed):
        yield pools[task][example]


def pad_token(tokenizer: Any) -> int:
    """A token id for padding; which one does not matter, since padding is masked and never predicted."""
    return next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)


class _Reporter:
    """Sends a job's step metrics to the fleet, at most once a second."""

    def __init__(self, fleet: Any, lane: int) -> None:
        self.fleet, self.lane, self.last = fleet, lane, 0.0

    def __call__(self, row: dict[str, Any]) -> None:
        now = time.perf_counter()
        if now - self.last >= PROGRESS_SECONDS:
            self.last = now
            self.fleet.progress.remote(self.lane, row)
