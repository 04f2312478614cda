"""What can be found wrong with a study's resources in milliseconds, before Ray is started."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.errors import ConfigError, ModelError, ResourceError, TaskPGMError, raise_all
from taskpgm_ray.models import check_quantization
from taskpgm_ray.runtime.capacity import idle_gpus
from taskpgm_ray.runtime.cluster import named
from taskpgm_ray.version import INSTALL
from taskpgm_ray.workload import LEAST_PILOTS, merge_pilots, searches_by_merges

OTHER_DRIVERS = ("/dev/kfd", "/dev/dxg", "/dev/nvidiactl")
"""Devices of ROCm, of WSL, and of NVIDIA in a container without its /proc."""


def preflight(config: StudyConfig) -> list[str]:
    """The checks that take milliseconds: the scorer is installed, and the local machine is large enough.

    Returns:
        One line for each thing that was checked and found fine.

    Raises:
        ModelError: The scorer is vLLM, or weights are to be quantised, and what does it is not installed.
        ConfigError: A search by merges has too few trials to measure them by.
        ResourceError: The Ray that the study would start on this machine cannot hold a lane or an engine.
        Problems: Several of these.
    """
    problems: list[TaskPGMError] = []
    if config.scoring.scorer == "vllm" and importlib.util.find_spec("vllm") is None:
        problems.append(
            ModelError(f"scoring.scorer is vllm, which is not installed: {INSTALL}; or set scoring.scorer=hf")
        )
    if any(model and model.quantization for model in (config.model, config.affinity.model)):
        try:
            check_quantization()
        except ModelError as error:
            problems.append(error)
    problems += [*_unmeasured_merges(config), *_unusable_address(config)]
    local = _starts_local_ray(config)
    if local:
        problems += [*_lacking_cpus(config), *_lacking_gpus(config)]
    raise_all(problems)
    lines = [f"scorer: {config.scoring.scorer} is installed"]
    if not local:
        return [*lines, "resources: the cluster's own, known when the study connects to it"]
    return [
        *lines,
        f"resources: {_local_cpus(config)} CPUs of this machine are enough for a lane and an engine",
        *(f"note: {line}" for line in idle_gpus(config, local_gpus(), "this machine")),
    ]


def _unmeasured_merges(config: StudyConfig) -> Iterator[ConfigError]:
    if searches_by_merges(config) and merge_pilots(config) < LEAST_PILOTS:
        yield ConfigError(
            "search.algorithm: merge is used only where merges rank the baselines and the ends of the paths as "
            f"training does; these are {merge_pilots(config)} mixtures, and fewer than {LEAST_PILOTS} prove nothing: "
            "add to search.baselines (or affinities), or take search.algorithm: grid"
        )


def _unusable_address(config: StudyConfig) -> Iterator[ResourceError]:
    address = config.cluster.address or os.environ.get("RAY_ADDRESS") or ""
    scheme = address.partition("://")[0] if "://" in address else ""
    ways = "run on a machine of the cluster with cluster.address=auto, or from anywhere by `ray job submit`"
    if scheme == "ray":
        yield ResourceError(f"{named(config.cluster)}: a study does not run through Ray Client; {ways}")
    elif scheme:
        yield ResourceError(
            f"{named(config.cluster)} is a dashboard, which takes submitted jobs and no drivers; {ways}; to run on "
            "this machine alone, unset RAY_ADDRESS"
        )


def _starts_local_ray(config: StudyConfig) -> bool:
    ray = sys.modules.get("ray")
    connected = ray is not None and ray.is_initialized()
    return not (connected or config.cluster.address or os.environ.get("RAY_ADDRESS"))


def _local_cpus(config: StudyConfig) -> int:
    return config.cluster.num_cpus or os.cpu_count() or 1


def _lacking_cpus(config: StudyConfig) -> Iterator[ResourceError]:
    have = float(_local_cpus(config))
    whose = f"cluster.num_cpus is {have:g}" if config.cluster.num_cpus else f"this machine has {have:g}"
    for field, wanted in (
        (_lane_field(config, "cpus"), config.finetune.lanes.cpus * config.finetune.lanes.workers),
        ("scoring.engines.cpus", config.scoring.engines.cpus),
    ):
        if wanted > have:
            yield ResourceError(f"{field} is {wanted:g}, but {whose}; lower it, or set cluster.address to a cluster")


def _lane_field(config: StudyConfig, resource: str) -> str:
    """What a lane reserves, in the config's terms."""
    return f"finetune.lanes.{resource}" + (" x workers" if config.finetune.lanes.workers > 1 else "")


def _lacking_gpus(config: StudyConfig) -> Iterator[ResourceError]:
    lanes, engines = config.finetune.lanes, config.scoring.engines
    wanted = {_lane_field(config, "gpus"): lanes.gpus * lanes.workers, "scoring.engines.gpus": engines.gpus}
    if not any(wanted.values()):
        return
    have = local_gpus()
    for field, gpus in wanted.items():
        if gpus > have:
            yield ResourceError(
                f"{field} is {gpus:g}, but this machine has {have} GPUs; lower it, or set cluster.address to a cluster"
            )


def local_gpus() -> int:
    """GPUs of this machine that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    driver = Path("/proc/driver/nvidia/gpus")
    if driver.is_dir():
        return len(list(driver.iterdir()))
    # Other drivers (ROCm, WSL) have other places; torch knows them, but takes seconds to import.
    if not any(Path(place).exists() for place in OTHER_DRIVERS):
        return 0
    import torch

    return torch.cuda.device_count()
