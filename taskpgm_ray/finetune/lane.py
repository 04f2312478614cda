"""A lane: one Ray Train run that loads the base model once and then takes jobs until there are none."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from taskpgm_ray.config import LaneConfig, LoraSection
from taskpgm_ray.errors import OutageError, TaskPGMError
from taskpgm_ray.finetune.full import FullTrainer
from taskpgm_ray.finetune.job_data import Loader
from taskpgm_ray.finetune.lora import LoraTrainer
from taskpgm_ray.finetune.trainer import Trainer
from taskpgm_ray.finetune.training import Stopped, Training, train_job
from taskpgm_ray.finetune.workers import Workers
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.runtime.cluster import thread_environment, threads_of
from taskpgm_ray.storage import Storage, on_outage

PROGRESS_SECONDS = 0.5


@dataclass(frozen=True)
class LaneSpec:
    """What every lane of a fleet is made of."""

    model: BaseModelRef
    lora: LoraSection | None
    """Of the adapters that are trained; ``None``: all weights are."""
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

    config = spec.config
    threads = threads_of(config.cpus, config.threads)
    # ray.train's V2 classes have all of these arguments; the type stubs still show their predecessors.
    TorchTrainer(
        lane_loop,
        train_loop_config={"fleet": fleet, "lane": lane, "spec": spec, "threads": threads},
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=config.workers,
            use_gpu=config.gpus > 0,
            resources_per_worker={"CPU": config.cpus, "GPU": config.gpus},
            accelerator_type=config.accelerator_type,
            label_selector=config.labels or None,
        ),
        run_config=RunConfig(  # type: ignore[call-arg]
            name=f"lane-{lane}-{int(time.time() * 1000):x}",
            storage_path=spec.storage.uri if "://" in spec.storage.uri else spec.storage.path(),
            # Lanes are not restarted: a restart would sit on its job until it finds resources, while other lanes idle.
            # The fleet gives the job to whichever lane is free, and starts another lane if that is worth it.
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),  # type: ignore[call-arg]
            worker_runtime_env={"env_vars": thread_environment(threads)},
        ),
    ).fit()


def lane_loop(config: dict[str, Any]) -> None:
    """What each of a lane's Ray Train workers does: load the base model, then train job after job.

    It ends when there is no work, when the study ends, or when its node is about to be taken away.
    """
    import ray
    import torch
    from ray.train import get_preemption_info
    from ray.train.torch import get_device

    fleet, number, spec = config["fleet"], config["lane"], config["spec"]
    ray.get(fleet.placed.remote(number, ray.get_runtime_context().current_actor))
    on_outage(lambda line: fleet.working.remote(number, line))
    torch.set_num_threads(config["threads"])
    workers = Workers.of_this_lane(spec.config.parallel)
    reporter = _Reporter(fleet, number)
    training = Training(
        make_trainer(spec, str(get_device()), workers),
        workers,
        spec.config,
        pad_token(spec.model.tokenizer()),
        reporter,
        lambda: get_preemption_info() is not None,
        lambda: workers.from_first(reporter.ending),
        lambda: ray.get(fleet.confirm.remote(number)),
    )
    loader = Loader()
    while not training.preempted() and (taken := workers.from_first(lambda: ray.get(fleet.take.remote(number)))):
        job, upcoming = taken
        if workers.first:
            fleet.working.remote(number)
        try:
            data = workers.agree(lambda job=job: loader.get(job))  # type: ignore[misc]
            loader.prefetch(upcoming)
            manifest = train_job(training, job, data)
        except Stopped:
            return
        except OutageError as error:
            if workers.size > 1:
                # The others wait in a collective operation that this worker never joins: only their end frees them.
                raise
            report = fleet.interrupted.remote(number, str(error))
        except TaskPGMError as error:
            # The job's own fault, the same in every lane: recorded, and this lane goes on with the next job.
            report = fleet.failed.remote(number, error) if workers.first else None
        else:
            report = fleet.finished.remote(number, manifest) if workers.first else None
        if report is not None:
            ray.get(report)


def make_trainer(spec: LaneSpec, device: str, workers: Workers) -> Trainer:
    """Load the base model for what this lane trains.

    Raises:
        ModelError: Its files here are not those that the study was planned with, or it cannot be loaded.
    """
    spec.model.check_files()
    model, checkpointing = spec.model.load(), spec.config.gradient_checkpointing
    if spec.lora is None:
        return FullTrainer(model, device, workers, checkpointing)
    return LoraTrainer(model, spec.lora, device, workers, checkpointing)


def pad_token(tokenizer: Any) -> int:
    """A token id for padding; which one does not matter, since padding is masked and never predicted."""
    return next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)


class _Reporter:
    """Sends a job's step metrics to the fleet, at most twice a second, and those of the last step.

    The answer is whether the study ends; nobody waits for it.
    """

    def __init__(self, fleet: Any, lane: int) -> None:
        self.fleet, self.lane, self.last = fleet, lane, 0.0
        self.answer: Any = None

    def __call__(self, row: dict[str, Any]) -> None:
        now = time.perf_counter()
        if now - self.last >= PROGRESS_SECONDS or row["progress"] >= 1:
            self.last = now
            self.answer = self.fleet.progress.remote(self.lane, row)

    def ending(self) -> bool:
        """Whether the study ends, as far as is known by now."""
        import ray

        return self.answer is not None and bool(ray.wait([self.answer], timeout=0)[0]) and ray.get(self.answer)
